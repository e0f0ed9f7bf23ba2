"""One label a row: exact weighted sums, and the options of the loss as their papers and PyTorch have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax import objectives
from lmjax.errors import UserError

ROWS, CLASSES = 12, 5
RANDOM = np.random.RandomState(0)
LOGITS = (2 * RANDOM.standard_normal((ROWS, CLASSES))).astype(np.float32)
LABELS = RANDOM.randint(0, CLASSES, ROWS).astype(np.int32)
OTHERS = ((LABELS + RANDOM.randint(1, CLASSES, ROWS)) % CLASSES).astype(np.int32)
WEIGHTS = RANDOM.randint(0, 3, ROWS).astype(np.float32)  # 0, 1 and 2
CLASS_WEIGHTS = (0.5, 3.0, 1.0, 0.25, 2.0)
LOG_P = np.float64(LOGITS) - np.log(np.exp(np.float64(LOGITS)).sum(-1, keepdims=True))


def objective(**options):
    changes = {"kind": "classification", **options}
    section = tiny.config({f"objective.{name}": value for name, value in changes.items()}).objective
    return objectives.build(section, vocab=64, platform="cpu")


def sums(logits=LOGITS, *, rows=slice(None), options=(), **fields):
    """The objective on rows whose logits are given."""
    batch = {"label": LABELS, "weights": WEIGHTS, **fields}
    batch = {name: jnp.asarray(field)[rows] for name, field in batch.items()}

    def apply(variables, batch, **_):
        return variables["params"]

    return objective(**dict(options))(apply, jnp.asarray(logits)[rows], batch, jax.random.key(0), train=True)


def pairs(found):
    return {name: (float(value.total), float(value.weight)) for name, value in found.items()}


def test_sums_are_over_the_weighted_rows():
    found = pairs(sums())
    nll = -LOG_P[np.arange(ROWS), LABELS]
    right = LOGITS.argmax(-1) == LABELS
    assert 0 < (right * WEIGHTS).sum() < WEIGHTS.sum() and (WEIGHTS == 0).any()
    expected = {"loss": nll, "nll": nll, "accuracy": right}
    assert found == {
        name: (pytest.approx((WEIGHTS * row).sum(), rel=1e-5), WEIGHTS.sum()) for name, row in expected.items()
    }
    broken = np.where(WEIGHTS[:, None] == 0, np.nan, LOGITS)
    assert pairs(sums(broken)) == found, "rows that only fill up a batch may hold anything"


OPTIONS = [{}, {"label_smoothing": 0.2}, {"focal": 2.0}, {"class_weights": CLASS_WEIGHTS}]


@pytest.mark.parametrize("options", OPTIONS)
def test_parts_of_a_batch_add_up_to_the_whole(options):
    whole, halves = sums(options=options), [sums(options=options, rows=rows) for rows in (slice(3), slice(3, None))]
    for name, value in pairs(whole).items():
        added = halves[0][name] + halves[1][name]
        assert (float(added.total), float(added.weight)) == pytest.approx(value, rel=1e-5)
    for name in ("nll", "accuracy"):
        assert pairs(whole)[name] == pairs(sums())[name], "options are in the loss only"
    if options:
        assert abs(whole["loss"].mean() - sums()["loss"].mean()) > 0.03


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[3:])
def test_smoothing_and_class_weights_are_those_of_pytorch(options):
    torch = pytest.importorskip("torch")
    given = {name: torch.tensor(value) if name == "class_weights" else value for name, value in options.items()}
    weight = {"weight": given.pop("class_weights")} if "class_weights" in given else {}
    theirs = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(LABELS).long(), **given, **weight)
    ours = sums(options=options, weights=np.ones(ROWS, np.float32))["loss"].mean()
    assert ours == pytest.approx(float(theirs), rel=1e-5)


def test_a_focal_loss_is_that_of_its_paper_and_has_a_gradient_where_a_row_is_certain():
    """Lin et al. 2017, eq. 4."""
    p = np.exp(LOG_P[np.arange(ROWS), LABELS])
    for gamma in (0.5, 2.0):
        expected = ((1 - p) ** gamma * -np.log(p) * WEIGHTS).sum()
        assert float(sums(options={"focal": gamma})["loss"].total) == pytest.approx(expected, rel=1e-4)
    certain = np.where(np.arange(CLASSES) == LABELS[:, None], 200.0, 0.0).astype(np.float32)
    gradient = jax.grad(lambda logits: sums(logits, options={"focal": 0.5})["loss"].total)(jnp.asarray(certain))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_two_labels_a_row_are_counted_in_their_shares(options):
    share = np.linspace(0, 1, ROWS, dtype=np.float32)
    found = pairs(sums(options=options, label_mix=OTHERS, mix=share))
    first, second = (pairs(sums(options=options, label=label, weights=WEIGHTS * part))
                     for label, part in ((LABELS, share), (OTHERS, 1 - share)))  # fmt: skip
    for name, value in found.items():
        assert value == pytest.approx((first[name][0] + second[name][0], first[name][1] + second[name][1]), rel=1e-5)
    soft = share[:, None] * np.eye(CLASSES)[LABELS] + (1 - share[:, None]) * np.eye(CLASSES)[OTHERS]
    assert found["nll"] == (pytest.approx(-(soft * LOG_P * WEIGHTS[:, None]).sum(), rel=1e-5), WEIGHTS.sum())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"class_weights": (1.0, 2.0)}, "objective.class_weights has 2 numbers, and there are 5 classes"),
        ({"class_weights": (1.0, -2.0)}, "objective.class_weights=.*numbers of 0 or more"),
        ({"focal": -1.0}, "objective.focal=-1.0: 0 or more"),
        ({"label_smoothing": 1.0}, "objective.label_smoothing=1.0: from 0 to below 1"),
        ({"chunk": 8}, "objective.chunk=8: the objective 'classification' does not take it"),
        ({"z_loss": 1e-4}, "objective.z_loss=0.0001: the objective 'classification' does not take it"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        sums(options=options)


def test_predicting_tokens_takes_no_option_of_classes():
    section = tiny.config({"objective.class_weights": (1.0, 2.0)}).objective
    with pytest.raises(UserError, match="objective.class_weights=.*'next_token' does not take it"):
        objectives.build(section, vocab=64, platform="cpu")
