"""Rows of whole documents: nothing lost or doubled, no document cut that fits, rows as full as best fit makes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data.packing import MODES, PLANS, PackedRows, best_fit, pack
from lmjax.data.shards import in_memory
from lmjax.errors import UserError

DOC = 0
TOKEN_BYTES = np.arange(100_000, dtype=np.int32) % 5 * (np.arange(100_000) != DOC)
sizes = st.lists(st.integers(0, 40), min_size=1, max_size=30)  # tokens of each document, without its <doc>
lengths = st.integers(1, 24)
plans = st.sampled_from(sorted(PLANS))


def corpus(sizes):
    """Documents in which every token but <doc> occurs once: document i, token j is 1 + 100 i + j."""
    return in_memory(
        np.array([DOC, *range(1 + 100 * i, 1 + 100 * i + size)], np.uint32) for i, size in enumerate(sizes)
    )


def pieces(row):
    """The tokens of each segment of a row, with the target of the last."""
    last = int(row["segments"].max())
    held = [row["segments"] == s for s in range(1, last + 1)]
    return [[*row["tokens"][at].tolist(), int(row["targets"][at][-1])] for at in held]


@settings(max_examples=150, deadline=None)
@given(sizes, lengths, st.integers(0, 3), plans)
def test_each_epoch_predicts_every_token_and_every_documents_end_once(sizes, length, seed, plan):
    rows = PackedRows(corpus(sizes), length, seed, DOC, TOKEN_BYTES, plan)
    document_of = lambda token: (token - 1) // 100  # noqa: E731
    for epoch in range(3):
        made = [rows.row(epoch * rows.epoch_rows + r) for r in range(rows.epoch_rows)]
        targets = sorted(t for row in made for piece in pieces(row) for t in piece[1:])
        assert targets == sorted(
            [t for i, n in enumerate(sizes) for t in range(1 + 100 * i, 1 + 100 * i + n)] + [DOC] * len(sizes)
        )
        tokens = sorted(t for row in made for piece in pieces(row) for t in piece[:-1])
        assert tokens == targets  # each document begins with the <doc> that ends it
        for piece in (piece for row in made for piece in pieces(row)):
            own = [token for token in piece if token != DOC]
            assert own == list(range(own[0], own[0] + len(own))) if own else True
            assert len({document_of(token) for token in own}) <= 1
            assert all(token != DOC for token in piece[1:-1])
        assert sum(row["weights"].sum() for row in made) == rows.tokens == len(tokens)


@settings(max_examples=150, deadline=None)
@given(sizes, lengths, plans)
def test_only_a_document_longer_than_a_row_is_cut_and_then_every_row_length(sizes, length, plan):
    rows = PackedRows(corpus(sizes), length, 1, DOC, TOKEN_BYTES, plan)
    found = [piece for r in range(rows.epoch_rows) for piece in pieces(rows.row(r))]
    expected = []
    for i, size in enumerate(sizes):
        whole = [DOC, *range(1 + 100 * i, 1 + 100 * i + size), DOC]
        expected += [whole[at : at + length + 1] for at in range(0, size + 1, length)]
    assert sorted(found) == sorted(expected)
    if plan == "none":
        assert rows.epoch_rows == len(expected)


@settings(max_examples=150, deadline=None)
@given(sizes, lengths, plans, st.integers(0, 100))
def test_a_row_marks_its_documents_and_its_padding(sizes, length, plan, k):
    row = PackedRows(corpus(sizes), length, 1, DOC, TOKEN_BYTES, plan).row(k)
    real = row["weights"] == 1
    assert real.any() and not real[np.argmin(real) :].any() or real.all()
    for name, values in row.items():
        assert values.shape == (length,) and values.dtype == (np.float32 if name == "weights" else np.int32)
        assert not values[~real].any()
    assert (np.diff(row["segments"][real]) >= 0).all() and row["segments"][0] == 1
    starts = np.flatnonzero(np.append(True, np.diff(row["segments"]) > 0))
    np.testing.assert_array_equal(row["positions"][real], (np.arange(length) - starts[row["segments"] - 1])[real])
    np.testing.assert_array_equal(row["bytes"], TOKEN_BYTES[row["targets"]] * real)


@settings(max_examples=50, deadline=None)
@given(sizes, lengths, st.sampled_from(MODES), st.lists(st.integers(0, 10**6), min_size=2, max_size=12))
def test_a_row_does_not_depend_on_which_rows_were_made_before(sizes, length, mode, indices):
    documents = corpus(sizes)
    used = pack(mode, documents, length, 3, DOC, TOKEN_BYTES)
    for k in indices:
        row, fresh = used.row(k), pack(mode, documents, length, 3, DOC, TOKEN_BYTES).row(k)
        for name in row:
            np.testing.assert_array_equal(row[name], fresh[name])


def one_at_a_time(sizes, length):
    """Best-fit decreasing as its definition says it: the room left in the row of each item."""
    rooms, left = [], []
    for size in sizes:
        fits = [r for r, room in enumerate(rooms) if room >= size]
        best = min(fits, key=lambda r: rooms[r], default=len(rooms))
        rooms += [length] * (best == len(rooms))
        rooms[best] -= size
        left.append(rooms[best])
    return left


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=200), st.integers(24, 40))
def test_best_fit_in_groups_is_best_fit_one_at_a_time(sizes, length):
    sizes = np.array(sorted(sizes, reverse=True))
    rooms, left = {}, []
    for size, r in zip(sizes.tolist(), best_fit(sizes, length).tolist(), strict=True):
        rooms[r] = rooms.get(r, length) - size
        left.append(rooms[r])
    assert sorted(rooms) == list(range(len(rooms))) and min(left) >= 0
    assert left == one_at_a_time(sizes.tolist(), length)


def test_best_fit_wastes_little_of_real_lengths_and_one_document_a_row_wastes_most():
    lengths = np.random.Generator(np.random.Philox(5)).lognormal(4, 1, 2000).astype(int)
    documents = in_memory(np.full(n + 1, 7) for n in lengths.tolist())
    share = {mode: pack(mode, documents, 512, 0, DOC, TOKEN_BYTES).efficiency for mode in MODES}
    assert share["concat"] == 1 and share["best_fit"] > 0.99 and share["none"] < 0.5
    rows = pack("none", documents, 512, 0, DOC, TOKEN_BYTES)
    real = sum(rows.row(r)["weights"].sum() for r in range(rows.epoch_rows))
    assert real / (rows.epoch_rows * 512) == pytest.approx(rows.efficiency)


def test_companions_and_order_are_new_every_epoch_and_seed():
    documents = corpus([5] * 12)
    orders = {
        tuple(
            t for r in range(6) for t in PackedRows(documents, 12, seed, DOC, TOKEN_BYTES).row(epoch * 6 + r)["tokens"]
        )
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    rows = PackedRows(documents, 12, 0, DOC, TOKEN_BYTES)
    pairs = [{tuple(sorted(rows.row(e * 6 + r)["tokens"].tolist())) for r in range(6)} for e in range(2)]
    assert pairs[0] != pairs[1]


def test_a_misspelt_packing_is_named_with_the_nearest():
    with pytest.raises(UserError, match="'bestfit'; did you mean 'best_fit'.*concat, best_fit, none"):
        pack("bestfit", corpus([3]), 4, 0, DOC, TOKEN_BYTES)


def test_the_rows_of_a_seed_never_change():
    """Golden: a change of it would change every published run."""
    rows = PackedRows(corpus([5, 2, 9, 1, 3]), 12, 0, DOC, TOKEN_BYTES)
    assert [rows.row(k)["tokens"].tolist() for k in range(rows.epoch_rows)] == [
        [0, 1, 2, 3, 4, 5, 0, 401, 402, 403, 0, 301],
        [0, 101, 102, *[0] * 9],
        [0, *range(201, 210), 0, 0],
    ]
