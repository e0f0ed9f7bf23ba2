import jax
import numpy as np
import optax
import pytest
from optim_cases import DIMS, arrays, section

from lmjax import optim
from lmjax.errors import UserError


def clipped(by, at, grads, params=None):
    """What SGD at rate 1 takes off the parameters."""
    params = arrays() if params is None else params
    values = {"name": "sgd", "learning_rate": 1.0, "clip.by": by, "clip.at": at}
    optimizer = optim.build(section(values), 10, params, DIMS)

    @jax.jit
    def update(grads, params):
        state = optimizer.init(params)
        return optimizer.update(grads, state, params, step=0, loss=1.0, norm=optax.tree.norm(grads))[0]

    new = jax.device_get(update(grads, params))
    return {
        "query": params["blocks"]["query"] - new["blocks"]["query"],
        "up": params["blocks"]["up"] - new["blocks"]["up"],
        "scale": params["blocks"]["scale"] - new["blocks"]["scale"],
        "final": params["final"]["scale"] - new["final"]["scale"],
    }


GRADS = arrays(seed=1)
NORM = float(
    np.sqrt(sum((leaf**2).sum() for leaf in [GRADS["embed"], GRADS["final"]["scale"], *GRADS["blocks"].values()]))
)
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731


def test_global_norm_scales_the_whole_gradient_and_leaves_a_small_one_alone():
    close(clipped("global_norm", 0.5, GRADS)["query"], GRADS["blocks"]["query"] * 0.5 / NORM)
    close(clipped("global_norm", 2 * NORM, GRADS)["query"], GRADS["blocks"]["query"])
    close(clipped("none", 0.5, GRADS)["query"], GRADS["blocks"]["query"])


def test_value_clips_each_number():
    close(clipped("value", 0.3, GRADS)["up"], np.clip(GRADS["blocks"]["up"], -0.3, 0.3))


def test_block_rms_clips_the_tensor_of_each_layer():
    grads = arrays(seed=1)
    grads["blocks"]["up"][0] *= 0.1  # this layer is under the limit and must not feel the other
    found = clipped("block_rms", 0.5, grads)["up"]
    for layer in range(2):
        g = grads["blocks"]["up"][layer]
        close(found[layer], g / max(1.0, np.sqrt((g**2).mean()) / 0.5))
    assert np.sqrt((found[1] ** 2).mean()) == pytest.approx(0.5, rel=1e-5)


def test_adaptive_clips_the_weights_into_each_unit_relative_to_their_norm():
    params, grads = arrays(), arrays(seed=1)
    params["blocks"]["up"][0, :, 0] = 0.0  # zero weights count as 1e-3
    found = clipped("adaptive", 0.2, grads, params)
    g, p = grads["blocks"]["up"][0], params["blocks"]["up"][0]
    for unit in range(g.shape[1]):
        limit = 0.2 * max(np.linalg.norm(p[:, unit]), 1e-3)
        close(found["up"][0, :, unit], g[:, unit] * min(1.0, limit / np.linalg.norm(g[:, unit])))
    g, p = grads["blocks"]["query"][1], params["blocks"]["query"][1]  # (d, h, k): a unit is a head's h, k
    limit = 0.2 * np.linalg.norm(p[:, 1, 2])
    close(found["query"][1, :, 1, 2], g[:, 1, 2] * min(1.0, limit / np.linalg.norm(g[:, 1, 2])))
    g, p = grads["blocks"]["scale"], params["blocks"]["scale"]  # a vector is one unit
    for layer in range(2):
        limit = 0.2 * np.linalg.norm(p[layer])
        close(found["scale"][layer], g[layer] * min(1.0, limit / np.linalg.norm(g[layer])))


def test_a_zero_gradient_stays_zero_under_every_clipping():
    zeros = {"blocks": {k: np.zeros_like(v) for k, v in GRADS["blocks"].items()}, "embed": np.zeros((10, 6)),
             "final": {"scale": np.zeros(6)}}  # fmt: skip
    for by in optim.CLIPS:
        assert all((x == 0).all() for x in clipped(by, 0.1, zeros).values()), by


def test_a_clipping_that_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match="'global'.*did you mean 'global_norm'"):
        clipped("global", 1.0, GRADS)
    with pytest.raises(UserError, match="optim.clip.at=0.0.*optim.clip.by=none"):
        clipped("global_norm", 0.0, GRADS)
