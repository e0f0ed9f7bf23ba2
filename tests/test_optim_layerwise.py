"""Learning rates that fall with depth, and layers that begin to learn one after the other in one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import optim_cases
import pytest

from lmjax import optim
from lmjax.errors import UserError
from lmjax.optim.layerwise import heights

PATHS = ("blocks/query", "blocks/up_bias", "embed", "final/scale")


def moved(values, step=0):
    """How far SGD of rate 1 with gradients of 1 moves each parameter at that step, by path."""
    params = optim_cases.arrays()
    section = optim_cases.section({"name": "sgd", "learning_rate": 1.0, **values})
    optimizer = optim.build(section, 100, params, optim_cases.DIMS)
    ones = jax.tree.map(jnp.ones_like, params)
    new, _ = optimizer.update(ones, optimizer.init(params), params, step=step, loss=0.0, norm=1.0)
    parts = {"blocks/query": "blocks", "blocks/up_bias": "blocks", "final/scale": "final"}
    flat = {path: (params[parts[path]][path.split("/")[1]] - new[parts[path]][path.split("/")[1]]) if path in parts
            else params[path] - new[path] for path in PATHS}  # fmt: skip
    return {path: np.asarray(array) for path, array in flat.items()}


def test_the_rate_of_a_layer_is_that_of_the_one_above_times_the_decay():
    plain, decayed = moved({}), moved({"layer_decay": 0.5})
    expected = {"blocks/query": np.array([0.25, 0.5]).reshape(2, 1, 1, 1), "blocks/up_bias": np.array([[0.25], [0.5]]),
                "embed": 0.125, "final/scale": 1.0}  # fmt: skip
    for path in PATHS:
        np.testing.assert_allclose(decayed[path], plain[path] * expected[path], rtol=1e-6, atol=1e-6)


def test_layers_wake_from_the_top_at_their_steps_and_sleep_bit_for_bit_until_then():
    order = [("final/scale", None), ("blocks/query", 1), ("blocks/query", 0), ("embed", None)]
    for step, awake in ((0, 1), (4, 1), (5, 2), (9, 2), (10, 3), (15, 4), (99, 4)):
        change = moved({"unfreeze": 5, "layer_decay": 0.9}, step)
        parts = [change[path] if layer is None else change[path][layer] for path, layer in order]
        assert [bool(part.any()) for part in parts] == [True] * awake + [False] * (4 - awake), step


def test_one_compiled_step_wakes_every_layer():
    params = jax.tree.map(jnp.asarray, optim_cases.arrays())
    optimizer = optim.build(optim_cases.section({"unfreeze": 1}), 100, params, optim_cases.DIMS)
    ones, state = jax.tree.map(jnp.ones_like, params), optimizer.init(params)
    given = {"loss": jnp.float32(0), "norm": jnp.float32(1)}
    update = jax.jit(optimizer.update).lower(ones, state, params, step=jnp.int32(0), **given).compile()
    first = update(ones, state, params, step=jnp.int32(0), **given)[0]
    last = update(ones, state, params, step=jnp.int32(3), **given)[0]
    assert not (first["embed"] != params["embed"]).any() and (last["embed"] != params["embed"]).all()


def test_each_tower_has_a_depth_of_its_own():
    paths = [
        "text/blocks/up",
        "text/embed",
        "text/norm",
        "image/blocks/up",
        "image/position",
        "image_projection",
        "embed",
    ]
    shapes = [(2, 4, 4), (9, 4), (4,), (6, 4, 4), (5, 4), (4, 3), (9, 4)]
    found = heights(paths, ["ldf", "vd", "d", "ldf", "pd", "do", "vd"], shapes)
    assert [float(height.max()) for height in found] == [2, 3, 0, 6, 7, 0, 7]


@pytest.mark.parametrize("values, said", [
    ({"layer_decay": 1.5}, "optim.layer_decay=1.5"), ({"layer_decay": 0.0}, "above 0"), ({"unfreeze": 0}, "optim.unfreeze=0"),
])  # fmt: skip
def test_a_decay_or_a_number_of_steps_that_means_nothing_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        moved(values)


def test_a_model_without_layers_has_none_to_tell_apart():
    params = {"w": np.zeros((2, 2), np.float32)}
    with pytest.raises(UserError, match="has none"):
        optim.build(optim_cases.section({"unfreeze": 3}), 10, params, {"w": "df"})
