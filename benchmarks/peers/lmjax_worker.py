"""lmjax by its own train path (program, prefetched batches, loop and session) and its own generator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import protocol

from lmjax import environment, heap
from lmjax.config import update
from lmjax.experiment import find

environment.start()  # as `lmjax train` does, before jax is imported

# E402 below: these import jax, after its environment is set.
import jax  # noqa: E402

from lmjax import loop, program  # noqa: E402

PACKAGES = ["jax", "jaxlib", "flax"]


RECIPES = {"gpt2": "configs/base.py:language_model", "lstm": "configs/rnn.py:tiny"}


def configure(job: dict):
    """The job's model in lmjax's words; steps and pauses far away, so that nothing is evaluated or saved."""
    changes = {
        "steps": 10**9, "seed": job["seed"], "batch": job["batch"], "data.length": job["length"],
        "model.depth": job["depth"], "model.width": job["width"], "model.vocab_multiple": 1,
        "precision.compute": "float32", "every.eval": 10**9, "every.save": 10**9,
    }  # fmt: skip
    model = job.get("model", "gpt2")
    if model == "gpt2":
        changes |= {
            "model.heads": job["heads"], "model.mlp": "gelu_tanh", "model.mlp_width": job["mlp"],
            "model.norm": "layernorm", "model.position": "learned", "model.bias": True, "model.init_scale": 0.4,
        }  # fmt: skip
    if job["kind"] == "train":
        changes |= {
            "optim.learning_rate": job["learning_rate"], "optim.weight_decay": job["weight_decay"],
            "optim.b1": job["b1"], "optim.b2": job["b2"], "optim.eps": job["eps"], "optim.clip.at": job["clip"],
            "optim.schedule.name": "constant", "optim.schedule.warmup": 0,
        }  # fmt: skip
    return update(find(RECIPES[model]).config, changes)


class Tokens(NamedTuple):
    """The benchmark's batches, where a session expects its dataset."""

    batches: list[dict[str, np.ndarray]]

    def train_batch(self, i: int, batch: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.batches[i % len(self.batches)]


def tokens(job: dict) -> Tokens:
    def fields(tokens_bt, targets_bt):
        ones_bt = np.ones_like(tokens_bt)
        positions_bt = np.broadcast_to(np.arange(job["length"], dtype=np.int32), tokens_bt.shape)
        return {"tokens": tokens_bt, "targets": targets_bt, "segments": ones_bt, "positions": positions_bt,
                "bytes": ones_bt, "weights": ones_bt.astype(np.float32)}  # fmt: skip

    return Tokens([fields(*batch) for batch in protocol.train_batches(job)])


def parameters(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class Training:
    """The program of a job with its compiled step, and a session around it, as `lmjax train` builds them."""

    def __init__(self, job: dict, folder: Path):
        from lmjax.history import History
        from lmjax.session import Session, Sinks
        from lmjax.view import View

        self.program = program.build(configure(job), vocab=job["vocab"])
        lowered = self.program.lower_step()
        compiling = program.Later(lambda: program.compiled(lowered))
        self.state, self.done, self.losses = self.program.compile_init()(), 0, []
        sinks = Sinks(View(quiet=True), None, History(folder / "metrics.jsonl"), [], folder)
        self.session = Session(self.program, tokens(job), sinks, flops=0.0, peak=None)
        self.step, self.batches = compiling(), self.session.train_batches(0)
        heap.keep()
        self.hooks = loop.Hooks(self.session.before, self._record, self.session.pauses, self.session.pause)

    def loop(self, steps: int) -> None:
        """Steps by the loop."""
        last = self.done + steps
        self.state, self.done, _ = loop.run(
            self.step, self.state, self.batches, first=self.done, last=last, hooks=self.hooks
        )
        jax.block_until_ready(self.state)

    def bare(self, steps: int) -> None:
        """As many calls of the compiled step."""
        for _ in range(steps):
            self.state, _ = self.step(self.state, next(self.batches))
            self.done += 1
        jax.block_until_ready(self.state)

    def _record(self, finished: int, metrics: dict) -> None:
        self.losses.append(metrics["loss"].mean())
        self.session.record(finished, metrics)


def serve_training(job: dict) -> None:
    training = Training(job, Path(tempfile.mkdtemp()))

    def work(steps: int) -> dict:
        training.losses.clear()
        training.loop(steps)
        return {"loss": sum(training.losses) / len(training.losses)}

    protocol.serve(work, parameters=parameters(training.state.params), packages=PACKAGES)


class Numbers(NamedTuple):
    """A tokenizer whose text is token ids in words; `doc` starts every prompt of the benchmark."""

    doc: int = protocol.START

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


class Text(NamedTuple):
    """As much of a dataset as a generator needs."""

    tokenizer: Numbers = Numbers()


def serve_generation(job: dict) -> None:
    from lmjax.asking import make_generator
    from lmjax.decode import options

    built = program.build(configure(job), vocab=job["vocab"])
    model, params = built.model, built.compile_init()().params
    generator = make_generator(built, Text(), params)
    prompt_bt = protocol.prompts(job)
    texts = [Numbers().decode(row_t[1:]) for row_t in prompt_bt]  # the generator puts <doc> before every prompt
    latest = {}

    def work(calls: int) -> dict:
        for _ in range(calls):
            latest["samples"] = generator.generate(texts, new=job["new"], options=options(temperature=0))
        return {}

    def forward(tokens_bt):
        positions_bt = np.broadcast_to(np.arange(tokens_bt.shape[1], dtype=np.int32), tokens_bt.shape)
        batch = {"tokens": tokens_bt, "segments": np.ones_like(tokens_bt), "positions": positions_bt}
        return model.apply({"params": params}, batch, train=False)

    def check() -> dict:
        new_bt = np.array([sample.tokens for sample in latest["samples"]], np.int32)
        return protocol.greedy_share(job, np.concatenate([prompt_bt, new_bt], axis=1), forward)

    protocol.serve(work, parameters=parameters(params), packages=PACKAGES, check=check)


def main() -> None:
    job = protocol.job()
    {"train": serve_training, "generate": serve_generation}[job["kind"]](job)


if __name__ == "__main__":
    main()
