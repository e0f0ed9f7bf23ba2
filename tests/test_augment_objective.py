"""Images changed within the train step: by row and key, in training alone, with both labels of what is mixed."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny

from lmjax import program
from lmjax.augment.wrap import augmented
from lmjax.errors import UserError
from lmjax.objectives.classification import classification
from lmjax.step import make_eval_step, make_gradients

SIZE, CLASSES, ROWS = 12, 5, 8
CLASSIFIER = {
    "data.kind": "image_labels", "data.image_size": SIZE, "model.kind": "classifier", "model.patch": 4,
    "model.depth": 1, "objective.kind": "classification", "data.packing": "none",
}  # fmt: skip


def config(**leaves):
    changes = {f"data.augment.{name}": value for name, value in leaves.items()}
    return tiny.config({**CLASSIFIER, "batch": ROWS, **changes})


def probe(apply, params, batch, rng, *, train):
    """An objective that gives the batch which it gets."""
    return batch


def changed(batch, seed=0, **leaves):
    """The batch of a training step, its augmentation compiled."""
    run = augmented(probe, config(**leaves).data)
    return jax.jit(lambda batch, key: run(None, None, batch, key, train=True))(batch, jax.random.key(seed))


@pytest.fixture(scope="module")
def batch():
    random = np.random.RandomState(0)
    return {
        "image": jnp.asarray(random.randint(0, 256, (ROWS, SIZE, SIZE, 3)), jnp.uint8),
        "label": jnp.asarray(random.randint(0, CLASSES, ROWS), jnp.int32),
        "weights": jnp.ones(ROWS).at[3].set(0),
    }


def linear(variables, batch, *, train, rngs):
    """Logits (b, n) of the pixels themselves."""
    return jnp.einsum("bhwc,hwcn->bn", batch["image"].astype(jnp.float32) / 255, variables["params"])


def test_nothing_asked_for_is_the_objective_itself():
    assert augmented(classification, config().data) is classification
    assert augmented(classification, tiny.config().data) is classification


def test_evaluation_gets_the_very_batch_and_training_float_images(batch):
    objective = augmented(probe, config(image=("flip", "rotate", "hue"), mix=("mixup",)).data)
    assert objective(None, None, batch, jax.random.key(0), train=False) is batch
    image = changed(batch, image=("flip",))["image"]
    assert image.dtype == jnp.float32 and image.max() > 200
    np.testing.assert_array_equal(jnp.sort(image, 2), jnp.sort(batch["image"], 2))


def test_an_image_is_changed_by_its_key_and_row_whatever_the_others_are(batch):
    names = ("crop", "flip", "brightness")
    first = changed(batch, image=names)
    np.testing.assert_array_equal(first["image"], changed(batch, image=names)["image"])
    assert not np.allclose(first["image"], changed(batch, 1, image=names)["image"])
    others = {**batch, "image": batch["image"].at[1:].set(7)}
    np.testing.assert_array_equal(first["image"][0], changed(others, image=names)["image"][0])
    alike = {**batch, "image": jnp.broadcast_to(batch["image"][:1], batch["image"].shape)}
    assert len({image.tobytes() for image in np.asarray(changed(alike, image=names)["image"])}) == ROWS
    for name in ("label", "weights"):
        np.testing.assert_array_equal(first[name], batch[name])


def test_changes_take_place_in_the_order_of_their_names(batch):
    one, other = (
        changed(batch, image=names, degrees=90.0)["image"] for names in (("rotate", "flip"), ("flip", "rotate"))
    )
    assert not np.allclose(one, other)


@pytest.mark.slow
def test_the_leaves_of_the_section_are_the_options_of_the_changes(batch):
    small, large = (
        jnp.abs(changed(batch, image=("brightness",), jitter=jitter)["image"] - batch["image"]).mean()
        for jitter in (0.01, 0.9)
    )
    assert 0 < small < large / 10
    for name in ("translate", "rotate", "scale", "rand_augment"):
        options = {"image": (name,), "shift": 1.0, "degrees": 180.0, "zoom": 9.0, "magnitude": 10.0}
        dark, light = (changed(batch, **options, fill=level)["image"] for level in (0.0, 255.0))
        assert 0.01 < (dark != light).mean() < 0.9, name


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_loss_of_mixed_images_is_that_of_both_labels_in_their_shares(batch, name):
    got = changed(batch, mix=(name,), alpha=1.0)
    params = jax.random.normal(jax.random.key(9), (SIZE, SIZE, 3, CLASSES))
    loss = classification(linear, params, got, None, train=True)["loss"].mean()
    assert got["mix"].shape == (ROWS,) and got["label_mix"].dtype == jnp.int32
    log_p = np.asarray(jax.nn.log_softmax(linear({"params": params}, got, train=True, rngs={})))
    rows, mix, weights = np.arange(ROWS), np.asarray(got["mix"]), np.asarray(batch["weights"])
    nll = -mix * log_p[rows, batch["label"]] - (1 - mix) * log_p[rows, got["label_mix"]]
    assert loss == pytest.approx((nll * weights).sum() / weights.sum(), rel=1e-5)
    assert Counter(got["label_mix"].tolist()) == Counter(batch["label"].tolist()) and np.ptp(mix) > 0.2


def test_of_two_ways_to_mix_each_batch_takes_one(batch):
    objective = augmented(probe, config(mix=("mixup", "cutmix")).data)
    run = jax.jit(lambda key: objective(None, None, batch, key, train=True)["image"])
    made = [np.asarray(run(jax.random.key(seed))) for seed in range(8)]
    assert {bool((image == np.round(image)).all()) for image in made} == {True, False}  # cut images keep their levels


def test_a_program_trains_on_changed_images_and_evaluates_the_true_ones(batch):
    plain, loud = (program.build(config(**leaves), vocab=0, classes=CLASSES, devices=jax.devices()[:1])
                   for leaves in ({}, {"image": ("flip", "contrast"), "mix": ("cutmix",)}))  # fmt: skip
    params = jax.jit(plain._init)().params
    evaluate = [jax.jit(make_eval_step(p.model.apply, p.objective))(params, batch) for p in (plain, loud)]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *evaluate)))
    step = [
        jax.jit(make_gradients(p.model.apply, p.objective, p.optimizer, microbatches=2, seed=0)) for p in (plain, loud)
    ]
    runs = [step[0](params, batch, 0), *(step[1](params, batch, i) for i in (0, 0, 1))]
    loss = [float(metrics["loss"].total) for _, metrics in runs]
    assert len(set(loss)) == 3 and loss[1] == loss[2]  # a step's own images, each time the same


def test_what_does_not_fit_is_an_error_before_anything_is_compiled():
    with pytest.raises(UserError, match="did you mean 'rotate'"):
        program.check(config(image=("rotat",)))
    with pytest.raises(UserError, match="data.augment.magnitude=11"):
        program.check(config(image=("rand_augment",), magnitude=11.0))
    with pytest.raises(UserError, match="is for texts"):
        program.check(config(text=("swap",)))


MESHES = """
import sys; sys.path[:0] = ["tests"]
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import test_augment_objective as t
from lmjax.augment.wrap import augmented
random = np.random.RandomState(0)
batch = {"image": random.randint(0, 256, (8, 12, 12, 3)).astype(np.uint8), "label": np.arange(8, dtype=np.int32)}
changed = augmented(t.probe, t.config(image=("crop", "flip"), mix=("mixup",)).data)
run = jax.jit(lambda batch, rng: changed(None, None, batch, rng, train=True))
made = []
for devices in (1, 4):
    rows = NamedSharding(Mesh(np.array(jax.devices()[:devices]), "b"), PartitionSpec("b"))
    made.append(jax.device_get(run(jax.device_put(batch, rows), jax.random.key(0))))
for name, x in made[0].items():
    np.testing.assert_allclose(x, made[1][name], atol=1e-3, err_msg=name)
print("the same")
"""


@pytest.mark.slow
def test_four_devices_make_the_images_of_one():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": runs.fake(4)}
    run = subprocess.run([sys.executable, "-c", MESHES], cwd=Path(__file__).parents[1], env=environment,
                         capture_output=True, text=True)  # fmt: skip
    assert run.stdout == "the same\n", run.stderr
