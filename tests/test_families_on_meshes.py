"""Every family of models has on every core layout the loss and the gradients that it has on one device."""

import functools
import importlib
import math

import jax
import numpy as np
import pytest
import tiny
from test_sharding import LAYOUTS, on_8_devices

from lmjax import program
from lmjax.config import flatten, update
from lmjax.sharding import placed
from lmjax.smoke import smoke
from lmjax.step import make_gradients

ROWS = 8
FAMILIES = {
    "n-gram's rival: LSTM": "rnn:tiny",
    "RNN with attention": "rnn:german",
    "encoder of masked words": "encoders:news_words",
    "encoder of pairs of sentences": "encoders:sentences",
    "classifier": "encoders:news_topics",
    "tagger": "kinds:names",
    "regressor": "kinds:syllables",
    "spans": "kinds:usages",
    "chooser": "kinds:words",
    "original Transformer": "encdec:german",
    "T5": "encdec:spans",
    "BART": "encdec:denoising",
    "mixture of experts": "moe:tiny",
    "ViT": "vision:vit",
    "ConvNeXt": "vision:convnext",
    "dual encoder": "vision:emoji",
    "joint": "vision:matches",
    "captions": "images:small",
    "several tasks": "multi_task:sentences",
}
SIZES = {
    "batch": ROWS, "data.length": 16, "data.source_length": 16, "data.image_size": 16, "model.depth": 2,
    "model.decoder_depth": 2, "model.vocab_multiple": 16, "optim.microbatches": 1, "objective.predictions": 8,
    "model.max_length": 16, "model.text.max_length": 16, "model.patch": 4,
}  # fmt: skip


def config(family, axes):
    """The family's own recipe, in few layers and short rows, on a mesh."""
    module, function = FAMILIES[family].split(":")
    recipe = getattr(importlib.import_module(f"configs.{module}"), function)()
    recipe = smoke(recipe)  # of which the widths are taken
    leaves = flatten(recipe)
    changes = {path: value for path, value in SIZES.items() if leaves.get(path) is not None}
    changes |= {path: 0.0 for path in leaves if path.startswith("model.") and path.endswith("dropout")}
    return update(recipe, changes | {f"layout.mesh.{axis}": size for axis, size in axes.items()})


def filled(example):
    """Rows of unequal lengths with random numbers in every field."""
    random, fields = np.random.RandomState(0), {}
    for name, leaf in sorted(example.items()):
        ids = random.randint(3, 16, leaf.shape)  # of words, tags and pixels alike
        if name.endswith("segments"):
            ids = (np.arange(leaf.shape[-1]) < random.randint(9, 17, (*leaf.shape[:-1], 1))).astype(int)
        elif name.endswith("positions"):
            ids = np.broadcast_to(np.arange(leaf.shape[-1]), leaf.shape)
        elif "weights" in name:
            ids = random.randint(0, 2, leaf.shape)
            ids[0] = 1
        elif name in ("label", "start", "types", "prefix"):
            ids = random.randint(0, 2, leaf.shape)
        elif name == "end":
            ids = random.randint(2, 8, leaf.shape)
        elif name in ("bytes", "value"):
            ids = random.randint(0, 4, leaf.shape)
        fields[name] = ids.astype(leaf.dtype)
    return fields


def gradients(family):
    """Metrics and gradients by layout, of the same parameters and the same rows."""
    found, params = {}, None
    for name, axes in LAYOUTS.items():
        chosen = config(family, axes)
        made = program.build(chosen, vocab=tiny.VOCAB, classes=16, devices=jax.devices()[: math.prod(axes.values())])
        params = jax.device_get(made.compile_init()().params) if params is None else params
        there = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), params, made.params)
        batch = made.place(filled(program.example(chosen, ROWS)), ROWS)
        run = make_gradients(made.model.apply, made.objective, made.optimizer, seed=0)
        with placed(made.layout, made.mesh):
            grads, sums = jax.jit(run)(there, batch, 0)
        assert len(jax.tree.leaves(grads)[0].sharding.device_set) == math.prod(axes.values())
        found[name] = (jax.device_get(grads), {metric: float(s.mean()) for metric, s in sums.items()})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_gradients_of_one_device_on_every_layout(family, tmp_path):
    found = on_8_devices(tmp_path, f"gradients({family!r})", "test_families_on_meshes")
    one, means = found.pop("one device")
    assert means["loss"] > 0 and max(np.abs(leaf).max() for leaf in jax.tree.leaves(one)) > 1e-6
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    for name, (many, others) in found.items():
        assert others == pytest.approx(means, rel=2e-5, abs=1e-6), name
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-6 * largest, err_msg=name)
        jax.tree.map(close, many, one)
