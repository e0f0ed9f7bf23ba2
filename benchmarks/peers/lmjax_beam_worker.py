"""lmjax's beam search of an encoder-decoder."""

from __future__ import annotations

from functools import partial

# E402 below: these import jax, after lmjax_worker has set its environment.
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np
import protocol
from lmjax_worker import Numbers

from lmjax import program  # noqa: E402
from lmjax.asking import source_row  # noqa: E402
from lmjax.config import update
from lmjax.decode import BeamSearch, Generator  # noqa: E402
from lmjax.experiment import find


def main() -> None:
    job = protocol.job()
    changes = {
        "data.length": job["new"], "data.source_length": job["prompt"], "model.depth": job["depth"], "model.dropout": 0.0,
        "model.width": job["width"], "model.heads": job["heads"], "model.mlp_width": job["mlp"],
        "model.vocab_multiple": 1, "precision.compute": "float32",
    }  # fmt: skip
    built = program.build(update(find("configs/encdec.py:t5_small").config, changes), vocab=job["vocab"])
    model, params = built.model, built.compile_init()().params
    tokenizer, rows = Numbers(), job["batch"] * job["beams"]
    source = partial(source_row, tokenizer, None)
    generator = Generator(model.apply, model.init_cache, params, tokenizer, prepare=model.for_decoding, rows=rows,
                          source=source)  # fmt: skip
    texts = [tokenizer.decode(row_t[1:]) for row_t in protocol.prompts(job)]  # the end of a source takes its place
    search, latest = BeamSearch(generator), {}

    def work(calls: int) -> dict:
        for _ in range(calls):
            latest["best"] = [best[0] for best in search.search(texts, new=job["new"], beams=job["beams"], alpha=0.0)]
        return {}

    def check() -> dict:
        right = []
        for text, one in zip(texts, latest["best"], strict=True):
            assert len(one.tokens) == job["new"], f"{len(one.tokens)} tokens, expected {job['new']}"
            tokens = np.array([[tokenizer.doc, *one.tokens[:-1]]], np.int32)
            batch = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": np.arange(job["new"])[None]}
            batch |= {name: x[None] for name, x in source(text).items()}
            log_probs = jax.nn.log_softmax(model.apply({"params": params}, batch, train=False)[0])
            total = jnp.take_along_axis(log_probs, np.array(one.tokens)[:, None], axis=1).sum()
            right.append(abs(float(total) - one.score) < 1e-2)
        return {"greedy": float(np.mean(right))}

    protocol.serve(work, parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
                   packages=["jax", "jaxlib", "flax"], check=check)  # fmt: skip


if __name__ == "__main__":
    main()
