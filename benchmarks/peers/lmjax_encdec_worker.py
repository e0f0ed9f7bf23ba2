"""lmjax's compiled training steps of an encoder and of an encoder-decoder."""

from __future__ import annotations

import itertools

import numpy as np
import protocol
from encdec_batches import batches

from lmjax import environment, heap
from lmjax.config import update
from lmjax.experiment import find

environment.start()  # as `lmjax train` does, before jax is imported

# E402 below: these import jax, after its environment is set.
import jax  # noqa: E402

from lmjax import program  # noqa: E402

RECIPES = {"t5": "configs/encdec.py:t5_small", "bert": "configs/encoders.py:roberta_base"}


def configure(job: dict):
    """The job's model in lmjax's words: RoBERTa's recipe is that of masked words alone; BERT has two types."""
    changes = {
        "steps": 10**9, "seed": job["seed"], "batch": job["batch"], "data.length": job["length"],
        "model.depth": job["depth"], "model.width": job["width"], "model.heads": job["heads"],
        "model.mlp_width": job["mlp"], "model.vocab_multiple": 1, "model.dropout": 0.0, "precision.compute": "float32",
        "optim.name": "adamw", "optim.learning_rate": job["learning_rate"], "optim.weight_decay": job["weight_decay"],
        "optim.b1": job["b1"], "optim.b2": job["b2"], "optim.eps": job["eps"], "optim.clip.by": "global_norm",
        "optim.clip.at": job["clip"], "optim.schedule.name": "constant", "optim.schedule.warmup": 0,
    }  # fmt: skip
    own = {"data.source_length": job.get("source")}
    if job["model"] == "bert":
        own = {"model.types": 2, "objective.predictions": None}
    return update(find(RECIPES[job["model"]]).config, changes | own)


def fields(job: dict, batch: dict) -> dict[str, np.ndarray]:
    """A batch with the fields of a row of data."""
    ones = np.ones_like(batch["tokens"])
    place = np.broadcast_to(np.arange(job["length"], dtype=np.int32), ones.shape)
    made = {"tokens": batch["tokens"], "segments": ones, "positions": place, "bytes": ones}
    if job["model"] == "bert":
        return made | {"originals": batch["originals"], "weights": batch["chosen"].astype(np.float32)}
    source = batch["source"]
    places = np.broadcast_to(np.arange(job["source"], dtype=np.int32), source.shape)
    return made | {"targets": batch["targets"], "weights": ones.astype(np.float32), "source": source,
                   "source_segments": np.ones_like(source), "source_positions": places}  # fmt: skip


def main() -> None:
    job = protocol.job()
    built = program.build(configure(job), vocab=job["vocab"])
    step, kept = program.compiled(built.lower_step()), [built.compile_init()()]  # a step takes the state before it
    heap.keep()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(kept[0].params))
    given = itertools.cycle([fields(job, batch) for batch in batches(job)])

    def work(steps: int) -> dict:
        losses = []
        for batch in itertools.islice(given, steps):
            kept[0], metrics = step(kept[0], built.place(batch, job["batch"]))
            losses.append(metrics["loss"])
        return {"loss": sum(one.mean() for one in losses) / len(losses)}

    protocol.serve(work, parameters=parameters, packages=["jax", "jaxlib", "flax"])


if __name__ == "__main__":
    main()
