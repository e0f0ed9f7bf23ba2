"""Tiny configs, models and packed batches that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import language_model
from lmjax import models
from lmjax.config import update
from lmjax.sharding import unbox

VOCAB = 61  # padded to 64
LENGTH = 24
SMALL = {
    "steps": 10, "batch": 8, "data.length": LENGTH, "model.depth": 2, "model.width": 32, "model.heads": 4,
    "model.mlp_width": 48, "model.vocab_multiple": 16, "model.layers": "scan", "optim.schedule.warmup": 2,
}  # fmt: skip


def config(changes=None):
    """A language model's config of two layers of width 32, scanned, with `changes` by path."""
    return update(language_model(), {**SMALL, **(changes or {})})


def model(changes=None, *, vocab=VOCAB, platform="cpu"):
    """The model of `config(changes)`."""
    return models.build(config(changes), vocab=vocab, platform=platform)


def parameters(module, *, seed=0):
    """Random parameters, with biases that are not 0, scales that are not 1 and logits that are not all alike."""
    example = packed([[4]], length=module.max_length)
    shapes = unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), example, train=False)["params"]))
    random = np.random.RandomState(seed)

    def fill(path, leaf):
        mean = 1.0 if "scale" in path[-1].key else 0.0
        return jnp.asarray(mean + 0.2 * random.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def logits(module, params, batch):
    """Logits of the true vocabulary, (b, t, vocab)."""
    return jax.jit(lambda params, batch: module.apply({"params": params}, batch, train=False))(params, batch)[
        ..., : module.vocab
    ]


def packed(rows, *, length=LENGTH, seed=0, vocab=VOCAB):
    """A batch whose rows hold documents of the lengths in `rows`, then padding: packed([[5, 9], [24]])."""
    random = np.random.RandomState(seed)
    shape = (len(rows), length)
    batch = {name: random.randint(0, vocab, shape).astype(np.int32) for name in ("tokens", "targets")}
    batch["bytes"] = random.randint(0, 4, shape).astype(np.int32)
    batch["segments"], batch["positions"] = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, lengths in enumerate(rows):
        start = 0
        for number, size in enumerate(lengths, start=1):
            batch["segments"][row, start : start + size] = number
            batch["positions"][row, start : start + size] = np.arange(size)
            start += size
        assert start <= length
    batch["weights"] = (batch["segments"] > 0).astype(np.float32)
    return {name: jnp.asarray(value) for name, value in batch.items()}
