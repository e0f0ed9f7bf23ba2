"""Tags, spans and numbers: exact weighted sums, as PyTorch's losses or a few lines of NumPy have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax import objectives
from lmjax.errors import UserError
from lmjax.objectives.regression import regression
from lmjax.objectives.span import span
from lmjax.objectives.tagging import tagging

RANDOM = np.random.RandomState(0)
B, T, N = 3, 7, 4


def run(objective, out, batch, **options):
    """Totals and weights of an objective on what a model gave."""
    batch = {name: jnp.asarray(field) for name, field in batch.items()}
    found = objective(lambda *_, **__: jnp.asarray(out), None, batch, jax.random.key(0), train=True, **options)
    return {name: (float(value.total), float(value.weight)) for name, value in found.items()}


def log_softmax(x, axis):
    return np.float64(x) - np.log(np.exp(np.float64(x)).sum(axis, keepdims=True))


def test_tags_count_where_a_word_begins():
    logits_btn = (2 * RANDOM.standard_normal((B, T, N))).astype(np.float32)
    tags_bt, weights_bt = RANDOM.randint(0, N, (B, T)), (RANDOM.rand(B, T) < 0.5).astype(np.float32)
    found = run(tagging, logits_btn, {"tags": tags_bt, "weights": weights_bt})
    nll_bt = -np.take_along_axis(log_softmax(logits_btn, -1), tags_bt[..., None], -1)[..., 0]
    assert found["loss"] == found["nll"] == (pytest.approx((nll_bt * weights_bt).sum(), rel=1e-5), weights_bt.sum())
    assert found["accuracy"][0] == ((logits_btn.argmax(-1) == tags_bt) * weights_bt).sum() > 0
    weighted = run(tagging, logits_btn, {"tags": tags_bt, "weights": weights_bt}, class_weights=(0.0, 1.0, 2.0, 1.0))
    factor_bt = np.array([0.0, 1, 2, 1])[tags_bt] * weights_bt
    assert weighted["loss"] == (pytest.approx((nll_bt * factor_bt).sum(), rel=1e-5), factor_bt.sum())


def test_a_span_is_right_when_both_ends_are():
    logits_bt2 = RANDOM.standard_normal((4, T, 2)).astype(np.float32)
    start_b, end_b = np.array([1, 2, 0, 3]), np.array([4, 2, 5, 3])
    for b, (first, last) in enumerate([(1, 4), (2, 6), (5, 5), (3, 3)]):  # right, wrong end, wrong start, no row
        logits_bt2[b, first, 0] = logits_bt2[b, last, 1] = 5
    batch = {"start": start_b, "end": end_b, "weights": np.array([1.0, 1, 1, 0])}
    found = run(span, logits_bt2, batch)
    log_p_bt2 = log_softmax(logits_bt2, 1)
    loss = -sum(log_p_bt2[b, start_b[b], 0] + log_p_bt2[b, end_b[b], 1] for b in range(3)) / 2
    assert found == {"loss": (pytest.approx(loss, rel=1e-5), 3.0), "start_accuracy": (2.0, 3.0),
                     "end_accuracy": (2.0, 3.0), "exact": (1.0, 3.0)}  # fmt: skip


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_numbers_have_pytorchs_losses(error):
    torch = pytest.importorskip("torch", reason="the reference of the losses")
    guess_b, value_b = (RANDOM.standard_normal((2, 9)) * 2).astype(np.float32)
    weights_b = np.array([1.0] * 7 + [0] * 2, np.float32)
    found = run(regression, guess_b, {"value": value_b, "weights": weights_b}, error=error, delta=0.8)
    losses = {"squared": torch.nn.MSELoss(reduction="sum"), "absolute": torch.nn.L1Loss(reduction="sum"),
              "huber": torch.nn.HuberLoss(reduction="sum", delta=0.8)}  # fmt: skip
    expected = losses[error](torch.from_numpy(guess_b[:7]), torch.from_numpy(value_b[:7])).item()
    assert found["loss"] == (pytest.approx(expected, rel=1e-5), 7.0)
    assert found["squared_error"][0] == pytest.approx(((guess_b - value_b)[:7] ** 2).sum(), rel=1e-5)
    assert found["absolute_error"][0] == pytest.approx(np.abs(guess_b - value_b)[:7].sum(), rel=1e-5)


def test_an_unknown_error_is_said():
    with pytest.raises(UserError, match="did you mean 'squared'"):
        run(regression, np.zeros(1), {"value": np.zeros(1), "weights": np.ones(1)}, error="squarred")


@pytest.mark.parametrize("kind", ["tagging", "span", "regression"])
def test_they_are_chosen_by_name(kind):
    assert (
        objectives.build(tiny.config({"objective.kind": kind}).objective, vocab=64, platform="cpu").func.__name__
        == kind
    )
