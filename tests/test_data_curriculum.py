"""Curricula: from easy to hard and back to chance, no document lost, segments that grow and lose no target."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import curriculum
from lmjax.data.curriculum import Curriculum, Growing
from lmjax.data.packing import MODES, pack
from lmjax.data.shards import in_memory
from lmjax.errors import UserError

ONES = np.ones(100_000, np.int32)
SIZES = [9, 30, 2, 17, 4, 25, 11, 7]


def corpus(sizes=SIZES):
    return in_memory(np.array([0, *range(1 + 100 * i, 1 + 100 * i + n)], np.uint32) for i, n in enumerate(sizes))


def section(**leaves):
    return SimpleNamespace(
        **{"by": "length", "epochs": 1, "noise": 0.0, "start_length": None, "grow_rows": None, **leaves}
    )


def documents_of(rows, epoch):
    """The documents of an epoch in the order in which they are first met."""
    count = round(rows.tokens / rows.length) if rows.efficiency == 1 else rows.epoch_rows
    tokens = np.concatenate([rows.row(epoch * count + r)["tokens"] for r in range(count)])
    return list(dict.fromkeys(((tokens[tokens > 0] - 1) // 100).tolist()))


@pytest.mark.parametrize("packing", ["concat", "none"])
def test_the_first_epochs_go_from_short_to_long_and_then_it_is_chance(packing):
    documents = corpus()
    length = 40 if packing == "none" else int(documents.lengths.sum())
    made = curriculum.make(section(epochs=2), documents)
    rows = pack(packing, documents, length, 0, 0, ONES, made)
    by_size = np.argsort(SIZES).tolist()
    assert documents_of(rows, 0) == documents_of(rows, 1) == by_size != documents_of(rows, 2)
    assert documents_of(rows, 2) == documents_of(pack(packing, documents, length, 0, 0, ONES), 2)


def test_rows_of_several_documents_go_by_their_mean_score():
    documents = corpus([3] * 40)
    scores = np.arange(40.0)
    rows = pack("best_fit", documents, 16, 0, 0, ONES, Curriculum(scores, 1, 0.0))
    means = [np.mean([(t - 1) // 100 for t in rows.row(r)["tokens"] if t]) for r in range(rows.epoch_rows)]
    assert means == sorted(means)
    after = [np.mean([(t - 1) // 100 for t in rows.row(rows.epoch_rows + r)["tokens"] if t]) for r in range(10)]
    assert after != sorted(after)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0, 2), st.integers(0, 3))
def test_an_order_has_everything_once_and_is_as_far_from_sorted_as_the_noise(scores, noise, seed):
    order = Curriculum(np.array(scores, float), 9, noise).order(np.array(scores, float), seed, 4)
    assert sorted(order) == list(range(len(scores)))
    if noise == 0:
        assert np.array(scores)[order].tolist() == sorted(scores)
    again = Curriculum(np.array(scores, float), 9, noise).order(np.array(scores, float), seed, 4)
    assert order.tolist() == again.tolist()


def test_noise_moves_documents_by_no_more_than_its_share():
    scores = np.arange(1000.0)
    moved = np.abs(Curriculum(scores, 1, 0.1).order(scores, 0, 0) - np.arange(1000))
    assert 10 < moved.mean() and moved.max() <= 100


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 16), st.integers(1, 30), st.integers(0, 60))
def test_growing_segments_keep_every_token_and_target_and_see_no_more_than_their_length(mode, start, until, k):
    stream = pack(mode, corpus(), 16, 1, 0, ONES)
    grown, row, before = Growing(stream, start, until), Growing(stream, start, until).row(k), stream.row(k)
    for name in ("tokens", "targets", "weights", "bytes"):
        np.testing.assert_array_equal(row[name], before[name])
    most = grown.most(k)
    assert most == 16 if k >= until else start <= most <= 16
    assert grown.most(k) <= grown.most(k + 1)
    real = row["weights"] > 0
    assert np.bincount(row["segments"][real])[1:].max() <= most and not row["segments"][~real].any()
    starts = np.flatnonzero(np.diff(np.append(0, row["segments"])) > 0)
    np.testing.assert_array_equal(row["positions"][real], (np.arange(16) - starts[row["segments"] - 1])[real])
    for segment in np.unique(row["segments"][real]):  # no segment of two documents
        assert len(np.unique(before["segments"][row["segments"] == segment])) == 1
    if k >= until:
        np.testing.assert_array_equal(row["segments"], before["segments"])


def test_common_words_are_easier_than_rare_ones():
    documents = in_memory(
        [np.array(tokens, np.uint16) for tokens in ([0, 1, 1, 1], [0, 1, 2, 1], [0, 3, 4, 5], [0, 1, 1, 2])]
    )
    scores = curriculum.by_rarity(documents)
    assert scores[0] < scores[1] == scores[3] < scores[2]
    counts = np.array([4, 7, 2, 1, 1, 1])
    np.testing.assert_allclose(scores[1], 1000 * np.mean(-np.log(counts[[0, 1, 2, 1]] / 16)), atol=2)


def alphabet(documents):
    return np.arange(len(documents.lengths))


def broken(documents):
    return np.full(len(documents.lengths), np.nan)


def test_scores_come_from_a_file_or_anyones_function(tmp_path):
    np.save(tmp_path / "scores.npy", np.arange(8)[::-1])
    documents = corpus()
    from_file = curriculum.make(section(by=str(tmp_path / "scores.npy")), documents)
    from_function = curriculum.make(section(by="test_data_curriculum:alphabet"), documents)
    assert from_file.scores.tolist() == from_function.scores.tolist()[::-1] == list(range(8))[::-1]
    assert curriculum.make(section(by="none"), documents) is None


def test_scores_that_are_none_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", np.arange(3))
    (tmp_path / "text.npy").write_text("1, 2, 3")
    for leaves, said in [
        ({"by": str(tmp_path / "short.npy")}, r"shape \(3,\).*there are 8 documents"),
        ({"by": str(tmp_path / "text.npy")}, "cannot be read as an array of scores"),
        ({"by": str(tmp_path / "gone.npy")}, "cannot be read as an array of scores"),
        ({"by": "test_data_curriculum:broken"}, "the score of document 0 is nan"),
        ({"by": "rareness"}, "rarity"),
        ({"noise": -1.0}, "data.curriculum.noise=-1.0"),
    ]:
        with pytest.raises(UserError, match=said):
            curriculum.make(section(**leaves), corpus())
