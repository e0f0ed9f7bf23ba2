"""Prefix language models: what a text begins with is seen in both directions, the rest is written after it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax import models
from lmjax.data import kinds
from lmjax.layers.splash import splash


def make(changes=None, *, corruption="prefix", platform="cpu"):
    config = tiny.config({"data.corruption.kind": corruption, **(changes or {})})
    return models.build(config, vocab=tiny.VOCAB, platform=platform, fields=kinds.fields(config.data))


def rows(sizes=(9, 4)):
    """Two documents in the first row, one in the second; the first `sizes` tokens of the first of each are a prefix."""
    batch = tiny.packed([[15, 9], [12]])
    prefix = (jnp.arange(tiny.LENGTH) < jnp.array(sizes)[:, None]) & (batch["segments"] == 1)
    return batch | {"prefix": prefix.astype(jnp.int32)}


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    return model.apply({"params": params}, batch, train=False)


@pytest.mark.parametrize("position", ["rope", "t5"])
def test_a_prefix_is_seen_from_before_and_nothing_else_is(position):
    model, batch = make({"model.depth": 1, "model.position": position}), rows()
    params = tiny.parameters(model)
    before = run(model, params, batch)

    def felt(at):
        after = run(model, params, batch | {"tokens": batch["tokens"].at[0, at].add(1)})
        np.testing.assert_array_equal(after[1], before[1])
        return np.asarray(jnp.abs(after - before)[0].max(-1) > 1e-4)

    assert felt(8)[:15].all() and not felt(8)[15:].any()  # the last of the prefix: all of its document and no other
    assert not felt(9)[:9].any() and felt(9)[9:15].all()  # the first after it: what comes later only
    assert not felt(17)[:17].any() and felt(17)[17:].all()


@pytest.mark.parametrize("position", ["alibi", "t5"])
def test_what_is_written_with_a_cache_has_the_prompt_as_its_prefix(position):
    model, batch = make({"model.position": position}), rows((8, 8))
    params = tiny.parameters(model)
    batch = {name: x[1:, :12] for name, x in batch.items()}
    expected = run(model, params, batch)

    @jax.jit
    def write(params):
        cache, found = model.init_cache(1, 16), []
        params = model.for_decoding(params)
        for first, last in ((0, 8), (8, 9), (9, 12)):
            part = {name: batch[name][:, first:last] for name in ("tokens", "segments", "positions")}
            logits_btv, cache = model.apply({"params": params}, part, train=False, cache=cache)
            found.append(logits_btv)
        return jnp.concatenate(found, axis=1)

    np.testing.assert_allclose(write(params), expected, atol=1e-4)


def test_splash_is_taken_where_there_is_no_prefix_only():
    length = {"data.length": 128}
    assert make(length, corruption="none", platform="tpu").attend is splash
    assert make(length, platform="tpu").attend is not splash
