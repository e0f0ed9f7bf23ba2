"""Batches by length: each example once an epoch, in a batch wide enough, few shapes, as little padding as can be."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data.buckets import EMPTY, Buckets, widths_for
from lmjax.errors import UserError

sizes = st.lists(st.integers(0, 64), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(sizes, st.lists(st.integers(1, 63), max_size=4), st.integers(1, 7), st.sampled_from([None, 0, 1]))
def test_each_epoch_has_each_example_once_in_the_narrowest_bucket_that_holds_it(sizes, widths, batch, seed):
    buckets = Buckets(np.array(sizes), [*widths, 64], batch, seed)
    for epoch in range(3):
        found = [buckets.at(epoch * buckets.epoch_batches + b) for b in range(buckets.epoch_batches)]
        examples = np.concatenate([indices for _, indices in found])
        assert sorted(examples[examples != EMPTY]) == list(range(len(sizes)))
        for width, indices in found:
            assert indices.shape == (batch,) and (indices != EMPTY).any()
            for i in indices[indices != EMPTY]:
                assert width == min(w for w in buckets.widths if w >= sizes[i])
    cells = sum(batch * width for width, _ in found)
    assert buckets.efficiency == pytest.approx(sum(sizes) / cells)
    assert sum(rows * width * n for (rows, width), n in buckets.shapes.items()) == cells


def test_batches_do_not_depend_on_which_were_made_before_and_epochs_differ():
    sizes = np.arange(40) % 17
    used = Buckets(sizes, [8, 16], 4, 3)
    n = used.epoch_batches
    for i in (30, 2, 10**6, 2, 11):
        width, indices = used.at(i)
        again = Buckets(sizes, [8, 16], 4, 3).at(i)
        assert width == again[0] and indices.tolist() == again[1].tolist()
    orders = {
        tuple(np.concatenate([Buckets(sizes, [8, 16], 4, seed).at(epoch * n + b)[1] for b in range(n)]))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    ordered = Buckets(sizes, [8, 16], 4, None)
    assert [ordered.at(b)[0] for b in range(n)] == sorted(ordered.at(b)[0] for b in range(n))


def test_the_longer_of_a_pair_decides():
    buckets = Buckets(np.array([[3, 12], [12, 3], [3, 3]]), [4, 12], 2, None)
    assert [(width, indices.tolist()) for width, indices in map(buckets.at, range(2))] == [
        (4, [2, EMPTY]),
        (12, [0, 1]),
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 4), st.sampled_from([1, 4]))
def test_no_other_choice_of_widths_pads_less(sizes, count, multiple):
    cells = lambda widths: sum(min(w for w in widths if w >= size) for size in sizes)  # noqa: E731
    chosen = widths_for(np.array(sizes), count, multiple)
    assert 1 <= len(chosen) <= count and all(width % multiple == 0 for width in chosen)
    top = -(-max(sizes) // multiple) * multiple
    others = itertools.combinations(range(multiple, top, multiple), min(count, 3) - 1)
    assert chosen[-1] == top and all(cells(chosen) <= cells([*widths, top]) for widths in others)


def test_buckets_of_real_sentence_lengths_pad_a_fraction_of_what_one_width_does():
    sizes = np.random.Generator(np.random.Philox(1)).lognormal(3, 0.6, 5000).astype(int).clip(1, 200)
    one, eight = (Buckets(sizes, widths_for(sizes, count), 32, 0) for count in (1, 8))
    assert one.efficiency < 0.3 and eight.efficiency > 0.8 and len(eight.shapes) <= 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([3, 70, 5], [8, 64], 4, 0), "example 1 has 70 tokens, more than the widest bucket, 64"),
        (([], [8], 4, 0), "no examples"),
        (([3], [8], 0, 0), "batches of 0"),
        (([3], [], 4, 0), "widths"),
    ],
)
def test_what_cannot_be_a_batch_is_named(arguments, said):
    with pytest.raises(UserError, match=said):
        Buckets(np.array(arguments[0]), *arguments[1:])
