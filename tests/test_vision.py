"""Image encoders: what their places see, their equations, and one device as eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sharding import on_8_devices

from configs import vision
from lmjax import models, program, step
from lmjax.config import update
from lmjax.data import kinds
from lmjax.errors import UserError
from lmjax.layers.vision import ConvBlock, convolved, shifted
from lmjax.sharding import placed, unbox

SIZE, CLASSES = 12, 5
SMALL = {
    "batch": 8, "data.image_size": SIZE, "data.augment.image": (), "data.length": 8, "optim.eps": 1e-3,
    "model.vit.depth": 2, "model.vit.width": 16, "model.vit.heads": 2, "model.vit.patch": 4,
    "model.convnext.widths": (6, 8), "model.convnext.kernel": 5, "model.convnext.patch": 3,
}  # fmt: skip


def config(kind="vit", changes=None):
    return update(vision.vit(), {**SMALL, "model.kind": kind, **(changes or {})})


def make(kind="vit", changes=None):
    made = config(kind, changes)
    return models.build(made, vocab=0, classes=CLASSES, platform="cpu", fields=kinds.fields(made.data))


def rows(batch=8, seed=0):
    random = np.random.RandomState(seed)
    return {"image": random.randint(0, 256, (batch, SIZE, SIZE, 3)).astype(np.uint8),
            "label": random.randint(0, CLASSES, batch).astype(np.int32),
            "weights": np.ones(batch, np.float32)}  # fmt: skip


def parameters(model):
    """Random ones, with biases that are not 0 and scales that are not their first value."""
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), rows(1), train=False)["params"])
    random = np.random.RandomState(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(float("scale" in path[-1].key) + 0.3 * random.standard_normal(leaf.shape), "f"),
        unbox(boxed),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    return model.apply({"params": params}, batch, train=False)


@pytest.mark.parametrize("kind, changes", [("vit", {}), ("vit", {"model.vit.pool": "mean"}), ("convnext", {})])
def test_a_label_depends_on_every_square_of_its_image_and_on_no_other(kind, changes):
    model, batch = make(kind, changes), rows(2)
    params = parameters(model)
    before = run(model, params, batch)
    assert before.shape == (2, CLASSES) and before.dtype == jnp.float32
    for y, x in np.ndindex(3, 3):
        image = batch["image"].copy()
        image[1, 4 * y + 1, 4 * x + 2, 1] ^= 128
        after = run(model, params, batch | {"image": image})
        assert jnp.abs(after - before)[1].max() > 1e-4
        np.testing.assert_array_equal(after[0], before[0])


def test_every_square_sees_every_other():
    """In both directions, so that the features of the first change with the last, and those of the last with the first."""
    encoder, image = make("vit").encoder, rows(1)["image"]
    params = {name: x for name, x in parameters(make("vit")).items() if name[:4] != "head"}
    run = jax.jit(lambda image: encoder.apply({"params": params}, image, train=False).places_bpd)
    before = run(image)
    assert before.shape == (1, 9, 16)
    for at in (0, 11):
        changed = image.copy()
        changed[0, at, at] ^= 128
        assert (jnp.abs(run(changed) - before)[0].max(-1) > 1e-5).all()


def torch_convnext(params, image, patch, kernel):
    """The network in PyTorch, written after Liu et al. 2022, figure 4, from parameters of ours; the pooled features."""
    torch = pytest.importorskip("torch", reason="PyTorch computes what is expected")
    f, params = torch.nn.functional, jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)

    def squares(x, p, size):  # a kernel (row, column, channel -> d), as PyTorch has it: (d, channel, row, column)
        weight = p["kernel"].reshape(size, size, x.shape[1], -1).permute(3, 2, 0, 1)
        return f.conv2d(x, weight, p["bias"], stride=size)

    def norm(x, p):  # over the channels, which come second
        channels_last = f.layer_norm(x.movedim(1, -1), x.shape[1:2], p["scale"], p["bias"], 1e-6)
        return channels_last.movedim(-1, 1)

    def block(x, p):
        d = x.shape[1]
        weight = p["kernel"].reshape(kernel, kernel, 1, d).permute(3, 2, 0, 1)
        y = norm(f.conv2d(x, weight, p["kernel_bias"], padding=kernel // 2, groups=d), p["norm"]).movedim(1, -1)
        y = f.linear(f.gelu(f.linear(y, p["up"].T, p["up_bias"])), p["down"].T, p["down_bias"])
        return x + (p["scale"] * y).movedim(-1, 1)

    x = torch.tensor(np.asarray(image)).float().movedim(-1, 1) / 127.5 - 1
    x = norm(squares(x, params["patches"], patch), params["patches_norm"])
    for n in (0, 1):
        if n:
            x = squares(norm(x, params["down_1_norm"]), params["down_1"], 2)
        for layer in range(2):
            x = block(x, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params[f"stage_{n}"]))
    return norm(x.mean((2, 3)), params["norm"]).numpy()


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_a_convolutional_network_is_that_of_the_paper(layers):
    model, batch = make("convnext", {"model.convnext.layers": layers}), rows(3)
    params = parameters(model)
    params["head"], params["head_bias"] = jnp.eye(CLASSES, 8), jnp.zeros(CLASSES)
    expected = torch_convnext(params, batch["image"], patch=3, kernel=5)
    np.testing.assert_allclose(run(model, params, batch), expected[:, :CLASSES], rtol=1e-4, atol=1e-4)


def test_shifted_images_are_a_convolution_by_channel():
    """Value and both gradients, of images that are not square and a kernel that reaches over their sides."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel_id = jax.random.normal(keys[0], (2, 3, 6, 4)), jax.random.normal(keys[1], (49, 4))
    weight = jax.random.normal(keys[2], x.shape)

    def loss(depthwise, x, kernel_id):
        return jnp.sum(weight * depthwise(x, kernel_id))

    gradients = [jax.jit(jax.value_and_grad(functools.partial(loss, f), (0, 1))) for f in (shifted, convolved)]
    found, expected = (gradient(x, kernel_id) for gradient in gradients)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


def test_drop_path_leaves_whole_rows_as_they_are_and_scales_the_others():
    block, x = ConvBlock(3, layer_scale=1.0, drop_path=0.25), jax.random.normal(jax.random.key(0), (64, 2, 2, 4))
    params = unbox(jax.jit(functools.partial(block.init, train=False))(jax.random.key(1), x))

    @functools.partial(jax.jit, static_argnames="train")
    def added_by(key, train):
        return block.apply(params, x, train=train, rngs={"dropout": key})[0] - x

    added, dropped = added_by(jax.random.key(2), train=False), added_by(jax.random.key(2), train=True)
    left = np.array([not row.any() for row in np.asarray(dropped)])
    assert 5 < left.sum() < 30
    np.testing.assert_allclose(dropped[~left], added[~left] / 0.75, rtol=1e-4, atol=1e-5)


def gradients_everywhere():
    """Of a convolutional network: metrics and gradients on one device and on eight, with the same parameters."""
    found, changes = [], {"model.convnext.depths": (1, 1), "model.convnext.kernel": 3}
    for mesh in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        chosen = config("convnext", changes | {f"layout.mesh.{axis}": size for axis, size in mesh.items()})
        made = program.build(chosen, vocab=0, classes=CLASSES, devices=jax.devices()[: 8 if len(mesh) > 1 else 1])
        params = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), parameters(made.model), made.params)
        run = step.make_gradients(made.model.apply, made.objective, made.optimizer, seed=0)
        with placed(made.layout, made.mesh):
            gradients, sums = jax.jit(run)(params, made.place(rows(), 8), 0)
        found.append((jax.device_get(gradients), sums["loss"].mean()))
    return found


@pytest.mark.slow
def test_a_mesh_gives_the_gradients_of_one_device(tmp_path):
    """Those of a Transformer are tested with dual encoders (test_contrastive.py)."""
    one, eight = on_8_devices(tmp_path, "gradients_everywhere()", "test_vision")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), eight, one)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("vit", {"model.vit.patch": 5}, "model.vit.patch=5: .* data.image_size=12; legal: 1, 2, 3, 4, 6, 12"),
        ("vit", {"model.vit.pool": "last"}, "model.vit.pool 'last'.*Legal: class, mean"),
        ("vit", {"model.vit.heads": 3}, "model.vit.heads=3 does not divide model.vit.width=16"),
        ("vit", {"model.vit.std": (0.5, 0.5)}, "model.vit.std.*three numbers"),
        ("convnext", {"model.convnext.depths": (2, 2, 2)}, "as many as there are stages"),
        ("convnext", {"model.convnext.patch": 4}, "a 8th, and data.image_size=12 is no multiple of 8; 8 is"),
        ("convnext", {"model.convnext.kernel": 4}, "model.convnext.kernel=4: an odd number"),
        ("vit", {"data.kind": "labels"}, "model.kind=vit is not for it, model.kind=classifier"),
    ],
)
def test_what_does_not_fit_is_refused(kind, changes, message):
    with pytest.raises(UserError, match=message):
        make(kind, changes)


def test_an_image_of_another_size_is_refused():
    model = make("convnext")
    with pytest.raises(UserError, match=r"an image of shape \(9, 9, 3\): the model's are 12 pixels a side"):
        model.apply({"params": parameters(model)}, {"image": rows(1)["image"][:, :9, :9]}, train=False)
