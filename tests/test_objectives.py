"""Next-token prediction as sums over weighted targets, its options, and the evaluation that adds them up."""

import math

import jax
import numpy as np
import pytest
import tiny

from lmjax import objectives
from lmjax.errors import UserError
from lmjax.evaluate.language import evaluate
from lmjax.layers.readout import PADDED
from lmjax.metrics import Sum


def objective(changes=None, **kwargs):
    section = tiny.config({f"objective.{name}": value for name, value in (changes or {}).items()}).objective
    return objectives.build(section, **{"vocab": 64, "platform": "cpu"} | kwargs)


def means(changes=None, *, weights=None, train=False):
    model = tiny.model()
    batch = tiny.packed([[24], [10, 9]])
    if weights is not None:
        batch["weights"] = weights(batch["weights"])
    run = jax.jit(lambda params, batch: objective(changes)(model.apply, params, batch, jax.random.key(0), train=train))
    params = tiny.parameters(model)
    return batch, jax.jit(lambda p, b: model.apply({"params": p}, b, train=False))(params, batch), run(params, batch)


def drop_half(weights):
    return weights.at[:, ::2].set(0)


@pytest.mark.parametrize("weights", [None, drop_half])
def test_sums_are_over_the_weighted_targets(weights):
    batch, logits, sums = means(weights=weights)
    probabilities = np.exp(np.float64(logits[..., : tiny.VOCAB]))
    probabilities /= probabilities.sum(-1, keepdims=True)
    nll = -np.log(np.take_along_axis(probabilities, np.asarray(batch["targets"])[..., None], -1)[..., 0])
    kept = np.float64(batch["weights"])
    np.testing.assert_allclose(sums["nll"].total, (nll * kept).sum(), rtol=1e-5)
    assert float(sums["nll"].weight) == kept.sum() == float(sums["loss"].weight) < kept.size
    np.testing.assert_allclose(sums["bits_per_byte"].total, (nll * kept).sum() / math.log(2), rtol=1e-5)
    assert float(sums["bits_per_byte"].weight) == (np.asarray(batch["bytes"]) * kept).sum()
    np.testing.assert_allclose(sums["loss"].total, sums["nll"].total, rtol=1e-6)


def test_smoothing_and_z_loss_are_in_the_loss_and_not_in_the_likelihood():
    plain, other = means()[2], means({"label_smoothing": 0.1, "z_loss": 1e-2})[2]
    for name in ("nll", "bits_per_byte"):
        np.testing.assert_allclose(other[name].total, plain[name].total, rtol=1e-6)
    assert other["loss"].mean() > plain["loss"].mean() + 0.05


@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_chunks_change_nothing(chunk):
    options = {"label_smoothing": 0.1, "z_loss": 1e-3}
    expected, chunked = means(options | {"chunk": 0})[2], means(options | {"chunk": chunk})[2]
    assert expected.keys() == chunked.keys()
    for name, sum in expected.items():
        np.testing.assert_allclose((chunked[name].total, chunked[name].weight), (sum.total, sum.weight), rtol=1e-5)


def test_a_batch_of_padding_weighs_nothing():
    sums = means(weights=lambda weights: weights * 0)[2]
    assert all(float(sum.total) == float(sum.weight) == 0 for sum in sums.values())


def test_chunks_are_chosen_for_large_vocabularies_on_a_cpu_only():
    pick = lambda **kwargs: objective(**kwargs).keywords["chunk"]  # noqa: E731
    assert pick(vocab=50_304) > 0 == pick(vocab=256) == pick(vocab=50_304, platform="tpu")
    assert objective({"chunk": 0}, vocab=50_304).keywords["chunk"] == 0
    assert objective({"chunk": 99}, platform="tpu").keywords["chunk"] == 99


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "next_tokem"}, "unknown objective .*'next_tokem'; did you mean 'next_token'"),
        ({"label_smoothing": 1.0}, "objective.label_smoothing=1.0: from 0 to below 1"),
        ({"label_smoothing": -0.1}, "objective.label_smoothing=-0.1"),
        ({"z_loss": -1.0}, "objective.z_loss=-1.0"),
        ({"chunk": -1}, "objective.chunk=-1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        objective(changes)


def test_evaluation_weighs_every_token_alike_in_float64():
    """Two batches of unequal weight; a mean of means would be 2.0."""
    given = [Sum(np.float32(30.0), np.float32(10.0)), Sum(np.float32(1.0), np.float32(1.0))]
    result = evaluate(lambda params, batch: {"nll": batch, "bits_per_byte": batch}, None, given)
    assert result.pop("bits_per_byte") == pytest.approx(31 / 11)
    assert result == {"nll": pytest.approx(31 / 11), "perplexity": pytest.approx(math.exp(31 / 11))}
    assert "perplexity" not in evaluate(lambda params, batch: {"nll": batch}, None, given), "labels have none"
    many = [Sum(np.float32(2.0**24), np.float32(1.0)), *[Sum(np.float32(1.0), np.float32(0.0))] * 8]
    assert evaluate(lambda params, batch: {"loss": batch}, None, many) == {"loss": 2.0**24 + 8}  # lost in float32


def test_evaluation_of_nothing_is_nan_and_a_hopeless_model_overflows_nothing():
    def of(total, weight):
        given = Sum(np.float32(total), np.float32(weight))
        return evaluate(lambda params, batch: {"nll": batch, "bits_per_byte": batch}, None, [given])

    nothing, hopeless = of(0, 0), of(-PADDED, 1)
    assert math.isnan(nothing["nll"]) and math.isnan(nothing["perplexity"])
    assert math.isfinite(hopeless["perplexity"])
