"""The table of `lmjax invariance`: what holds, and that it says so where something does not."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import runs

from configs import lm
from lmjax.config import update
from lmjax.data import packing
from lmjax.errors import UserError
from lmjax.study import invariance

BATCH = {"tokens": np.arange(32, dtype=np.int32).reshape(8, 4)}


@pytest.mark.parametrize(
    "loss, norm, holds", [(2.0, 1.0, True), (2.00001, 1.0, True), (2.0001, 1.0, False), (2.0, 1.01, False),
                          (2.0, None, True), (math.nan, 1.0, False)]
)  # fmt: skip
def test_a_line_holds_within_its_tolerances_and_nan_never_does(loss, norm, holds):
    line = invariance.judged("mesh", "data 2", (loss, norm), (2.0, 1.0), (1e-5, 1e-4))
    assert line.holds is holds and ("DIFFERS" in invariance.row(line)) is not holds


def test_hosts_that_make_other_rows_differ():
    config = update(lm.tiny(), {"batch": 8})
    good = SimpleNamespace(train_batch=lambda i, size, rows: {"tokens": BATCH["tokens"][rows]})
    bad = SimpleNamespace(train_batch=lambda i, size, rows: {"tokens": BATCH["tokens"][: len(rows)]})
    assert invariance.of_hosts(config, good, BATCH, 2, (2.0, 1.0)) == (2.0, 1.0)
    assert math.isnan(invariance.of_hosts(config, bad, BATCH, 2, (2.0, 1.0))[0])
    with pytest.raises(UserError, match="batch=8"):
        invariance.of_hosts(config, good, BATCH, 3, (2.0, 1.0))


def test_what_cannot_be_measured_is_noted():
    def fails():
        raise UserError("2 devices, and 1 are here")

    line = invariance.attempt("mesh", "data 2", (2.0, 1.0), lm.tiny(), fails)
    assert line.holds is None and "not here: 2 devices" in invariance.row(line)


def test_16_bit_sums_may_differ_by_more_than_32_bit_ones():
    assert invariance.tolerances(lm.tiny()) == invariance.TOLERANCES["float32"]
    leaves = invariance.flatten(lm.tiny())
    path = next(path for path in leaves if "dtype" in path or "precision" in path)
    assert invariance.tolerances(update(lm.tiny(), {path: "bfloat16"})) == invariance.TOLERANCES["other"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    text = runs.write_text(tmp_path_factory.mktemp("text"))
    values = {path: value for path, value in runs.SMALL.items()} | {"data.source": str(text)}
    return update(lm.tiny(), values | {"batch": 8, "model.depth": 1})


@pytest.mark.slow
def test_a_decoder_s_loss_is_one_however_it_is_computed_and_packing_without_segments_shows(small, monkeypatch):
    lines = list(invariance.measure(small))
    assert all(line.holds in (True, None) for line in lines)
    kinds = {line.what for line in lines if line.holds}
    assert kinds >= {"microbatches", "packing", "padding", "hosts", "evaluation batch"}
    whole = packing.whole

    def leaking(pieces, length, sizes):
        row = whole(pieces, length, sizes)
        return row | {"segments": (row["segments"] > 0).astype(np.int32)}

    monkeypatch.setattr(packing, "whole", leaking)
    assert [line.what for line in invariance.measure(small) if line.holds is False] == ["packing"]
