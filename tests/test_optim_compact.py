"""Moments in 16 and 8 bits: near float32's, right in the mean, small, sharded like their parameters, and saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from optim_cases import section

from lmjax import optim
from lmjax.checkpoint import arraystore
from lmjax.errors import UserError
from lmjax.optim.compact import KINDS, Packed, int8, is_packed, whole

SHAPE = (2, 32, 256)
DIMS = {"mlp": "ldf", "scale": "d"}
BYTES = {"bfloat16": 2.0, "int8": 1 + 4 / 256}


def params():
    return {"mlp": jnp.zeros(SHAPE), "scale": jnp.ones(32)}


def optimizer(kind, **values):
    return optim.build(section({"moments": kind, **values}), 10, params(), DIMS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_state_like_a_large_parameter_is_small_and_the_rest_is_float32(kind, name):
    small, large = (jax.eval_shape(optimizer(k, name=name).init, params()) for k in (kind, "float32"))
    sizes = [sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) for state in (small, large)]
    like = [leaf for leaf in jax.tree.leaves(large) if leaf.shape == SHAPE]
    assert sizes[1] - sizes[0] == sum(leaf.size * (4 - BYTES[kind]) for leaf in like)
    assert like
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(small) if leaf.shape == (32,))


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_mean_with_a_long_memory_arrives_where_float32s_does(kind):
    """A thousandth a step is less than one code: rounding to the nearest would never move."""
    target = jnp.asarray(np.random.RandomState(0).uniform(0.5, 4, (8, 512)), jnp.float32)

    def run(step, mean):
        return KINDS[kind](0.999 * whole(mean) + 0.001 * target, step)

    start = KINDS[kind](jnp.ones((8, 512)), jnp.uint32(0))
    found = whole(jax.jit(lambda mean: jax.lax.fori_loop(1, 3001, run, mean))(start))
    expected = target + (1 - target) * 0.999**3000
    assert abs(float(jnp.mean(found / expected)) - 1) < 0.02
    assert float(jnp.abs(found / expected - 1).max()) < 0.35  # one code wide or two
    assert jnp.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_int8_keeps_small_numbers_beside_large_ones_and_only_nothing_is_0():
    x = jnp.concatenate([10.0 ** -jnp.arange(0, 12.0).repeat(64), -jnp.ones(256), jnp.zeros(256)])[None, :1024]
    back = whole(int8(x, jnp.uint32(3)))
    assert ((back == 0) == (x == 0)).all() and (jnp.sign(back) == jnp.sign(x)).all()
    seen = jnp.abs(x) > 1e-4
    assert float(jnp.abs(back / jnp.where(seen, x, 1) - 1)[seen].max()) < 0.5
    assert isinstance(int8(x, jnp.uint32(3)), Packed) and not is_packed(int8(jnp.ones((64, 1009)), jnp.uint32(0)))


def test_what_is_not_finite_stays_so_in_bfloat16():
    x = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 1.0, 0.0])
    np.testing.assert_array_equal(whole(KINDS["bfloat16"](x, jnp.uint32(1))), x)


@pytest.mark.parametrize("kind", KINDS)
def test_training_loses_nearly_what_it_loses_with_float32_moments(kind):
    """Logistic regression by AdamW with b2 = 0.999, 150 steps."""
    random = np.random.RandomState(1)
    x, true = jnp.asarray(random.standard_normal((128, 32)), jnp.float32), random.standard_normal((32, 256))
    y = jnp.asarray(x @ true > 0, jnp.float32)

    def loss(p):
        logits = x * p["scale"] @ p["mlp"][0]
        return jnp.mean(jnp.maximum(logits, 0) - logits * y + jnp.log1p(jnp.exp(-jnp.abs(logits))))

    def train(kind):
        made = optimizer(kind, learning_rate=0.01)

        def step(i, carry):
            value, grads = jax.value_and_grad(loss)(carry[0])
            return made.update(grads, carry[1], carry[0], step=i, loss=value, norm=1.0)

        start = params(), made.init(params())
        return float(loss(jax.jit(lambda carry: jax.lax.fori_loop(0, 150, step, carry))(start)[0]))

    expected = train("float32")
    assert expected < 0.3
    np.testing.assert_allclose(train(kind), expected, rtol=0.02)


def test_codes_lie_as_their_parameter_and_scales_where_that_is_even():
    mesh = AbstractMesh((2, 4), ("fsdp", "tensor"))
    places = {
        "mlp": NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")),
        "scale": NamedSharding(mesh, PartitionSpec()),
    }
    found = optim.opt_state_shardings(optimizer("int8"), params(), places, NamedSharding(mesh, PartitionSpec()))
    mu = found.direction.mu["mlp"]
    assert mu.codes.spec == PartitionSpec(None, "fsdp", "tensor")
    assert mu.scales.spec == PartitionSpec(None, "fsdp", None), "1 block on 4 devices"


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_small_moments_back_bit_for_bit(kind, tmp_path):
    made = optimizer(kind)
    grads = jax.tree.map(
        lambda p: jnp.asarray(np.random.RandomState(0).standard_normal(p.shape), jnp.float32), params()
    )
    _, state = jax.jit(lambda g: made.update(g, made.init(params()), params(), step=0, loss=1.0, norm=1.0))(grads)
    store, flat = arraystore.open_store(), arraystore.by_path(state)
    arraystore.save(store, tmp_path / "state", flat)
    back = arraystore.rebuild(state, arraystore.restore(store, tmp_path / "state", flat))
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(lambda x: x.dtype, state)
    assert max(float(jnp.abs(whole(x)).max()) for x in jax.tree.leaves(back.direction.mu, is_leaf=is_packed)) > 0.1


def test_moments_that_are_unknown_are_refused():
    with pytest.raises(UserError, match="optim.moments 'int4'; did you mean 'int8'"):
        optimizer("int4")
