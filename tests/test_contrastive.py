"""Dual encoders and their losses: by their equations, without padding, and on eight devices as on one."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_sharding import on_8_devices

from configs import vision
from lmjax import models, program, step
from lmjax.config import update
from lmjax.data import kinds
from lmjax.errors import UserError
from lmjax.models.dual_encoder import LIMIT, limited
from lmjax.objectives.contrastive import sigmoid_contrastive, softmax_contrastive
from lmjax.sharding import placed, unbox

SIZE, LENGTH = 8, 6
SMALL = {
    "batch": 8, "data.image_size": SIZE, "data.length": LENGTH, "optim.eps": 1e-3, "model.width": 8,
    "model.vit.depth": 1, "model.vit.width": 16, "model.vit.heads": 2, "model.vit.patch": 4,
    "model.text.depth": 1, "model.text.width": 16, "model.text.heads": 2, "model.text.vocab_multiple": 16,
}  # fmt: skip
CHOSEN = {
    "softmax": {
        "objective.kind": "softmax_contrastive",
        "model.text.pattern": "bidirectional",
        "model.text.pool": "mean",
    },
    "sigmoid": {"objective.kind": "sigmoid_contrastive", "model.bias": -3.0, "model.vit.pre_norm": True},
}
LOSSES = {"softmax": softmax_contrastive, "sigmoid": sigmoid_contrastive}


def config(changes=None):
    return update(vision.emoji(), {**SMALL, **(changes or {})})


def make(changes=None):
    made = config(changes)
    return models.build(made, vocab=tiny.VOCAB, platform="cpu", fields=kinds.fields(made.data))


def rows(lengths=(6, 3, 5, 1, 4, 6, 2, 4), seed=0):
    batch = {name: np.array(x) for name, x in tiny.packed([[n] if n else [] for n in lengths], length=LENGTH).items()}
    shape = (len(lengths), SIZE, SIZE, 3)
    return batch | {"image": np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)}


def parameters(model):
    batch = rows((1,))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False)["params"])
    random = np.random.RandomState(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(float(path[-1].key == "scale") + 0.3 * random.standard_normal(leaf.shape), "f"),
        unbox(boxed),
    )


# --- losses ---------------------------------------------------------------------------------------------------------


def given(variables, batch, **_):
    """A model whose parameters are the embeddings themselves."""
    return SimpleNamespace(**variables["params"])


def embedded(batch, seed=1):
    random, b = np.random.RandomState(seed), len(batch["image"])
    unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)  # noqa: E731
    image_bo, text_bo = (unit(random.standard_normal((b, 5))) for _ in range(2))
    return {"image_bo": image_bo, "text_bo": text_bo, "scale": jnp.float32(4), "bias": jnp.float32(-2)}


def measured(loss, params, batch):
    """Means of the metrics, and the gradient of the mean loss."""

    def mean(params):
        sums = LOSSES[loss](given, params, batch, jax.random.key(0), train=True)
        return sums["loss"].total / sums["loss"].weight, sums

    gradient, sums = jax.jit(jax.grad(mean, has_aux=True))(params)
    return {name: s.mean() for name, s in sums.items()}, gradient


def expected(loss, params, belongs):
    """In NumPy, one pair after the other; belongs[i, j] for the rows that are real."""
    image, text = (np.asarray(params[name], np.float64)[: len(belongs)] for name in ("image_bo", "text_bo"))
    logits, n = float(params["scale"]) * image @ text.T, len(belongs)
    if loss == "sigmoid":
        signs = np.where(belongs, 1, -1)
        return np.log1p(np.exp(-signs * (logits + float(params["bias"])))).sum() / n
    total = 0.0
    for table, owned in ((logits, belongs), (logits.T, belongs.T)):
        for row, own in zip(table, owned, strict=True):
            log_p = row - math.log(np.exp(row).sum())
            total -= log_p[own].mean() / 2
    return total / n


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_that_of_its_paper_over_the_rows_that_are_real(loss):
    """Rows of padding neither count nor are compared with, and nothing is learned from them."""
    batch = rows((6, 3, 5, 1, 4, 0, 0, 0))
    params = embedded(batch)
    found, gradient = measured(loss, params, batch)
    assert found["loss"] == pytest.approx(expected(loss, params, np.eye(5, dtype=bool)), rel=1e-5)
    alone = {name: x[:5] for name, x in batch.items()}
    params |= {name: params[name][:5] for name in ("image_bo", "text_bo")}
    found_alone, gradient_alone = measured(loss, params, alone)
    assert found == pytest.approx(found_alone, rel=1e-5)
    for name in ("image_bo", "text_bo"):
        np.testing.assert_allclose(gradient[name][:5], gradient_alone[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(gradient[name][5:], 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_caption_or_the_same_image_twice_belong_to_each_other(loss):
    batch = rows((6, 3, 6, 3, 4))
    batch["tokens"][2] = batch["tokens"][0]  # whole rows of 6 tokens
    batch["tokens"][1, :3] = batch["tokens"][0, :3]  # the beginning of another text is not that text
    batch["image"][4] = batch["image"][3]
    belongs = np.eye(5, dtype=bool)
    belongs[0, 2] = belongs[2, 0] = belongs[3, 4] = belongs[4, 3] = True
    params = embedded(batch)
    found, _ = measured(loss, params, batch)
    assert found["loss"] == pytest.approx(expected(loss, params, belongs), rel=1e-5)
    params["image_bo"], params["text_bo"] = jnp.eye(5), jnp.eye(5)[jnp.array([2, 1, 0, 3, 4])]
    found, _ = measured(loss, params, batch)
    assert found["image_to_text"] == found["text_to_image"] == 1, "either of two equal captions is right"
    params["text_bo"] = jnp.eye(5)[jnp.array([1, 0, 2, 4, 3])]
    assert measured(loss, params, batch)[0]["image_to_text"] == pytest.approx(3 / 5)


def test_the_scale_stays_below_100_and_comes_down_again():
    for value, direction, expected in ((LIMIT - 1, -1.0, -1.0), (LIMIT + 1, -1.0, 0.0), (LIMIT + 1, 1.0, 1.0)):
        assert jax.grad(lambda x, d=direction: d * limited(x))(value) == expected
    assert jnp.exp(limited(jnp.float32(LIMIT + 1))) == pytest.approx(100)


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [{}, {"model.text.pattern": "bidirectional", "model.text.pool": "mean"}])
def test_embeddings_are_unit_vectors_of_all_of_a_row_and_of_nothing_else(text):
    model, batch = make(text), rows((4, 6))
    params = parameters(model)
    run = jax.jit(lambda batch: model.apply({"params": params}, batch, method="embeddings"))
    before = run(batch)
    for x_bo in (before.image_bo, before.text_bo):
        np.testing.assert_allclose(jnp.linalg.norm(x_bo, axis=1), 1, rtol=1e-5)
    for at in range(LENGTH):
        tokens = batch["tokens"].copy()
        tokens[0, at] = (tokens[0, at] + 1) % tiny.VOCAB
        after = run(batch | {"tokens": tokens})
        changed = float(jnp.abs(after.text_bo - before.text_bo)[0].max())
        assert changed > 1e-4 if at < 4 else changed == 0, "padding is not seen"
        np.testing.assert_array_equal(after.text_bo[1], before.text_bo[1])
        np.testing.assert_array_equal(after.image_bo, before.image_bo)
    text_alone = model.apply({"params": params}, {name: x for name, x in batch.items() if name != "image"}, train=False)
    assert text_alone.image_bo is None and text_alone.bias is None
    np.testing.assert_allclose(text_alone.text_bo, before.text_bo, atol=1e-6)


def gradients_everywhere():
    """Of both losses, metrics and gradients on one device and on eight, with the same parameters."""
    found = {}
    for name, chosen in CHOSEN.items():
        for mesh in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2} if name == "softmax" else {"data": 8}):
            changes = chosen | {f"layout.mesh.{axis}": size for axis, size in mesh.items()}
            count = math.prod(mesh.values())
            made = program.build(config(changes), vocab=tiny.VOCAB, devices=jax.devices()[:count])
            params = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), parameters(made.model), made.params)
            run = step.make_gradients(made.model.apply, made.objective, made.optimizer, seed=0)
            with placed(made.layout, made.mesh):
                gradients, sums = jax.jit(run)(params, made.place(rows((6, 3, 5, 1, 4, 6, 2, 0)), 8), 0)
            found[name, count] = (jax.device_get(gradients), {metric: s.mean() for metric, s in sums.items()})
    return found


def test_losses_and_gradients_do_not_depend_on_the_number_of_devices(tmp_path):
    found = on_8_devices(tmp_path, "gradients_everywhere()", "test_contrastive")
    for name in CHOSEN:
        (one, means_of_one), (eight, means_of_eight) = found[name, 1], found[name, 8]
        assert means_of_eight == pytest.approx(means_of_one, rel=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), eight, one)
        assert max(np.abs(x).max() for x in jax.tree.leaves(one)) > 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"optim.microbatches": 2},
            "optim.microbatches=2 must be 1: objective.kind=softmax_contrastive compares the rows",
        ),
        ({"model.encoder": "resnet"}, "unknown image encoder 'resnet'.*Legal: vit, convnext"),
        ({"model.text.max_length": 4}, "model.text.max_length=4 is shorter than data.length=6"),
        ({"model.text.pool": "first"}, "model.text.pool 'first'.*Legal: last, mean"),
        ({"objective.kind": "next_token"}, "gives embeddings and objective.kind=next_token is of next tokens"),
        ({"data.kind": "labels"}, "model.kind=dual_encoder is not for it"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(changes)


def test_the_sigmoid_loss_without_a_bias_is_refused():
    params = embedded(rows()) | {"bias": None}
    with pytest.raises(UserError, match="needs a model with a bias, such as model.bias=-10"):
        sigmoid_contrastive(given, params, rows(), jax.random.key(0), train=True)
