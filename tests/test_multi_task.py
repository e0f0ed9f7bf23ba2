"""Weights of several tasks as their papers have them, and the gradients that are made of the tasks' own."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.__main__ import main
from lmjax.errors import UserError
from lmjax.objectives.masked import masked
from lmjax.objectives.multi_task import multi_task

B, D, N = 6, 4, 3
RANDOM = np.random.RandomState(0)
BATCH = {
    "x": jnp.asarray(RANDOM.standard_normal((B, D)), jnp.float32), "label": jnp.asarray(RANDOM.randint(0, N, B)),
    "value": jnp.asarray(RANDOM.standard_normal(B), jnp.float32), "weights": jnp.asarray([1.0, 1, 1, 1, 1, 0]),
    "segments": jnp.asarray([[1, 1]] * 5 + [[0, 0]]),
}  # fmt: skip
PARAMS = {
    "blocks": {"w": jnp.asarray(RANDOM.standard_normal((D, D)), jnp.float32)},
    "classes": jnp.asarray(RANDOM.standard_normal((D, N)), jnp.float32),
    "number": jnp.asarray(RANDOM.standard_normal(D), jnp.float32), "task_weights": jnp.asarray([0.3, -0.2]),
}  # fmt: skip


def apply(variables, batch, *, train, rngs):
    """A layer that the two tasks share, and a head for each."""
    p = variables["params"]
    h_bd = jnp.tanh(batch["x"] @ p["blocks"]["w"])
    return {"label": h_bd @ p["classes"], "value": h_bd @ p["number"]}


def sums(params=PARAMS, batch=BATCH, train=True, model=apply, **options):
    return multi_task(model, params, batch, jax.random.key(0), train=train, **options)


def gradient(train=True, **options):
    """Of the mean loss, by every parameter."""

    def loss(params):
        found = sums(params, train=train, **options)["loss"]
        return found.total / found.weight

    return jax.jit(jax.grad(loss))(PARAMS)


def task_means(params):
    """The two losses, by other words."""
    out, kept = apply({"params": params}, BATCH, train=True, rngs=None), BATCH["weights"] > 0
    nll = -jnp.take_along_axis(jax.nn.log_softmax(out["label"]), BATCH["label"][:, None], 1)[:, 0]
    return jnp.stack([jnp.mean(nll[kept]), jnp.mean((out["value"] - BATCH["value"])[kept] ** 2)])


def of_task(i):
    return jax.grad(lambda params: task_means(params)[i])(PARAMS)


close = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)


def test_fixed_weights_add_up_and_padding_weighs_nothing():
    found = sums(task_weights=(2.0, 0.5))
    expected = task_means(PARAMS)
    close(found["loss"].total / found["loss"].weight, 2 * expected[0] + 0.5 * expected[1])
    assert (
        float(found["loss"].weight) == 5 == float(found["label/accuracy"].weight) == float(found["value/loss"].weight)
    )
    close(found["value/squared_error"].total / 5, expected[1])
    assert found["label/weight"].mean() == 2.0 and "cosine/label,value" not in found


@pytest.mark.parametrize("options", [{"task_weights": (2.0, 0.5)}, {"weighting": "uncertainty"}])
def test_measuring_conflict_leaves_the_gradient_as_it_is(options):
    jax.tree.map(close, gradient(conflict=True, **options), gradient(**options))


def test_uncertainty_by_hand():
    """A label's loss times exp(-s), a number's half of that, and s / 2 each."""
    losses, s = np.asarray(task_means(PARAMS)), np.asarray(PARAMS["task_weights"])
    weights = np.exp(-s) * [1.0, 0.5]
    found, grad = sums(weighting="uncertainty")["loss"], gradient(weighting="uncertainty")
    close(found.total / found.weight, (weights * losses + s / 2).sum())
    close(grad["task_weights"], 0.5 - weights * losses)
    for leaf, a, b in ((tree["blocks"]["w"] for tree in trees) for trees in [(grad, of_task(0), of_task(1))]):
        close(leaf, weights[0] * a + weights[1] * b)


@pytest.mark.parametrize("alpha, grows", [(0.0, False), (3.0, True)])
def test_gradnorm_by_hand(alpha, grows):
    """Weights of mean 1, a shared gradient that they weigh, and their own from the distance to the wanted norms.

    The task of the larger weighted gradient has lost the least of its loss: a high alpha helps it all the same.
    """
    norms = np.array([np.linalg.norm(of_task(i)["blocks"]["w"]) for i in range(2)])
    larger = int(np.argmax(norms * np.exp(PARAMS["task_weights"])))
    first = np.asarray(task_means(PARAMS)) * np.where(np.arange(2) == larger, 0.3, 1.0)
    grad = gradient(weighting="gradnorm", alpha=alpha, initial=tuple(first))
    ratios = np.asarray(task_means(PARAMS)) / first

    def distance(logits, target=None):
        weights = 2 * np.exp(logits) / np.exp(logits).sum()
        found = weights * norms
        target = found.mean() * (ratios / ratios.mean()) ** alpha if target is None else target
        return np.abs(found - target).sum(), weights, target

    logits, step = np.float64(PARAMS["task_weights"]), 1e-6
    _, weights, target = distance(logits)
    assert weights.sum() == pytest.approx(2)
    slope = [(distance(logits + step * one, target)[0] - distance(logits - step * one, target)[0]) / (2 * step)
             for one in np.eye(2)]  # fmt: skip
    np.testing.assert_allclose(grad["task_weights"], slope, rtol=1e-3)
    assert min(np.abs(slope)) > 1e-3 and (grad["task_weights"][larger] < 0) == grows
    close(grad["blocks"]["w"], weights[0] * of_task(0)["blocks"]["w"] + weights[1] * of_task(1)["blocks"]["w"])
    found = sums(weighting="gradnorm", initial=tuple(first))
    close([found["label/grad_norm"].mean(), found["value/grad_norm"].mean()], norms)
    close(found["loss"].total / found["loss"].weight, (weights * np.asarray(task_means(PARAMS))).sum())


def test_losses_at_the_start_are_those_of_guessing():
    """One step of GradNorm with none given is that with ln 3 for three classes and 1 for a number."""
    jax.tree.map(close, gradient(weighting="gradnorm"), gradient(weighting="gradnorm", initial=(math.log(3), 1.0)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_conflict_is_the_cosine_of_the_gradients(sign):
    """Two numbers from one feature: where one task is the other's mirror image, their gradients are opposed."""

    def twice(variables, batch, *, train, rngs):
        number_b = jnp.tanh(batch["x"] @ variables["params"]["blocks"]["w"]) @ variables["params"]["number"]
        return {"value": number_b, "label": jnp.stack([sign * number_b, 0 * number_b], axis=-1)}

    # All values far below what is predicted, and all labels 1: both tasks want the number to fall, or disagree.
    batch = BATCH | {"x": BATCH["x"][:1].repeat(B, 0), "value": jnp.full(B, -50.0), "label": jnp.ones(B, jnp.int32)}
    found = sums(batch=batch, model=twice, conflict=True)
    assert found["cosine/value,label"].mean() == pytest.approx(sign, abs=1e-5)
    assert "cosine/value,label" not in sums(batch=batch, model=twice, conflict=True, train=False)


@pytest.mark.parametrize("options, said", [
    ({"weighting": "uncertainity"}, "did you mean 'uncertainty'"),
    ({"task_weights": (1.0,)}, "objective.task_weights has 1 numbers, and the tasks are label, value"),
    ({"conflict": True, "shared": "trunk/.*"}, "objective.shared='trunk/.*' matches the path of no parameter"),
])  # fmt: skip
def test_bad_leaves_are_said(options, said):
    with pytest.raises(UserError, match=said):
        sums(**options)


@pytest.mark.slow
def test_a_run_of_several_tasks_is_evaluated_in_the_field_of_each(tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(60):
        (text / f"{i}.txt").write_text(f"It is {i}. Then {i + 1} comes. And {i + 2} is last.")
    small = {"data.source": text, "data.tokenizer": "bytes", "data.vocab": "None", "data.length": 32, "data.valid_fraction": 0.3,
             "model.depth": 1, "model.width": 16, "model.heads": 2, "objective.predictions": "None", "steps": 1, "batch": 4,
             "eval.sample_length": 0, "every.eval": 1, "every.save": 1}  # fmt: skip
    words = [f"--config.{path}={value}" for path, value in small.items()]
    assert main(["train", "configs/multi_task.py:sentences", f"--workdir={tmp_path / 'run'}", *words]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for task, metrics in {
        "masked": {"nll": "nll", "accuracy": "accuracy"},
        "label": {"accuracy": "label_accuracy"},
    }.items():
        for name, metric in metrics.items():
            assert found["metrics"][metric]["value"] == pytest.approx(found["objective"][f"{task}/{name}"], rel=1e-5)
    assert found["metrics"]["accuracy"]["low"] >= 0
    assert main(["generate", str(tmp_path / "run"), "--prompt=It"]) == 2
    assert "writes no text and gives no labels" in capsys.readouterr().err


def test_predicting_no_place_is_refused():
    with pytest.raises(UserError, match="objective.predictions=0: at least 1 place of a row"):
        masked(lambda *_, **__: (jnp.zeros((B, D, N)), None), PARAMS, {"originals": None, "weights": None}, None,
               train=True, predictions=0)  # fmt: skip
