"""Mixtures: counted exactly, found without walking, nobody lost; caps are kept and what they free is shared out."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data.mixtures import BLOCK, Mixture, shares
from lmjax.data.packing import pack
from lmjax.data.shards import in_memory
from lmjax.errors import UserError

LENGTH = 8
weights = st.lists(st.integers(1, 40), min_size=1, max_size=6)
caps = st.lists(st.sampled_from([None, 0.5, 1, 2.75, 9]), min_size=6, max_size=6)


def stream(first, sizes=(20, 7, 41), mode="concat"):
    """Rows of documents whose tokens tell the component: first, first + 1, .."""
    documents = in_memory(np.array([0, *range(first, first + n)], np.uint32) for n in sizes)
    return pack(mode, documents, LENGTH, 3, 0, np.ones(100_000, np.int32))


def mixture(weights, caps=(), seed=0):
    names = [f"c{i}" for i in range(len(weights))]
    parts = {name: stream(1000 * (i + 1), (20 + i, 7, 41)) for i, name in enumerate(names)}
    most = {name: cap for name, cap in zip(names, caps, strict=False) if cap is not None}
    return Mixture(parts, shares(dict.fromkeys(names, 1), dict(zip(names, weights, strict=True))), seed, most)


def most_rows(mixture, name, cap):
    return max(1, int(cap * mixture.components[name].epoch_rows))


@settings(max_examples=15, deadline=None)
@given(weights, caps, st.integers(0, 3))
def test_each_components_rows_come_in_their_own_order_none_left_out_or_twice(weights, caps, seed):
    mixed = mixture(weights, caps, seed)
    next_of = Counter()
    for k in range(min(mixed.end or 10**9, 2 * BLOCK + 100)):
        if k % 97 == 0:
            assert mixed.counts(k) == {name: next_of[name] for name in mixed.names}
        name, own = mixed.place(k)
        next_of[name] += 1
        if k % 31 == 0:
            assert mixed.row(k)["tokens"].tolist() == mixed.components[name].row(own)["tokens"].tolist()
    for name in mixed.names:
        found = sorted(own for n, own in map(mixed.place, range(sum(next_of.values()))) if n == name)
        assert found == list(range(next_of[name]))


@settings(max_examples=100, deadline=None)
@given(weights, st.integers(0, 10**12))
def test_counts_far_away_are_exact_and_within_a_row_or_so_of_the_share(weights, block):
    mixed = mixture(weights)
    k = block * BLOCK
    counts, after = mixed.counts(k), mixed.counts(k + BLOCK)
    assert sum(counts.values()) == k
    for (name, n), weight in zip(counts.items(), weights, strict=True):
        assert abs(n - k * Fraction(weight, sum(weights))) <= len(weights) / 2
        assert after[name] - n >= BLOCK * weight // sum(weights) - len(weights) // 2 > 0
    assert Counter(mixed.place(i)[0] for i in range(k, k + BLOCK)) == {
        name: after[name] - counts[name] for name in after
    }


@settings(max_examples=100, deadline=None)
@given(weights, caps)
def test_caps_are_reached_exactly_and_never_passed(weights, caps):
    mixed = mixture(weights, caps)
    most = {f"c{i}": most_rows(mixed, f"c{i}", cap) for i, cap in enumerate(caps[: len(weights)]) if cap is not None}
    assert (mixed.end is None) == (len(most) < len(weights))
    end = mixed.phases[-1].start + 3 * BLOCK if mixed.end is None else mixed.end
    counts = mixed.counts(end)
    assert {name: counts[name] for name in most} == most and sum(counts.values()) == end
    for phase in mixed.phases:
        alive = [name for name in mixed.names if mixed.counts(phase.start)[name] < most.get(name, 10**18)]
        assert set(phase.shares) == set(alive) and sum(phase.shares.values()) == 1
        assert mixed.counts(phase.start) == phase.before
        weight = {name: weights[int(name[1:])] for name in alive}
        for name in alive:  # what a cap frees goes to the others in proportion
            assert phase.shares[name] == Fraction(weight[name], sum(weight.values()))
    if mixed.end is not None:
        with pytest.raises(UserError, match=f"the mixture has {mixed.end:,} rows"):
            mixed.row(mixed.end)


def test_a_cap_and_what_follows_are_reported():
    mixed = mixture([1, 3], [2, None])
    end = mixed.phases[0].stop
    assert mixed.report() == [
        "rows from 0: c0 0.25, c1 0.75",
        f"c0: all of its repeats are used up at row {end:,}; its share goes to the others",
        f"rows from {end:,}: c1 1",
    ]
    assert mixed.counts(end)["c0"] == 2 * 71 // LENGTH and mixed.place(end + 5)[0] == "c1"


def test_blocks_and_seeds_are_shuffled_differently():
    orders = {
        tuple(mixture([1, 1], seed=seed).place(b * BLOCK + i)[0] for i in range(64))
        for seed in range(3)
        for b in range(3)
    }
    assert len(orders) == 9


def test_temperature_makes_shares_alike_as_its_formula_says():
    sizes = {"a": 10_000, "b": 100, "c": 1}
    for temperature in (2.0, 4.0, 1e6):
        root = {name: size ** (1 / temperature) for name, size in sizes.items()}
        for name, share in shares(sizes, None, temperature).items():
            assert float(share) == pytest.approx(root[name] / sum(root.values()), rel=1e-9)
    assert shares({"a": 3, "b": 1}) == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    assert shares({"a": 3, "b": 1}, {"a": 1.0, "b": 1.0}) == {"a": Fraction(1, 2), "b": Fraction(1, 2)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (({"a": 10**6, "b": 1},), "b has 1e-06 of the mixture, less than one row in 1024"),
        (({"a": 1, "b": 1}, {"a": 1.0, "b": 0.0}), "data.mixture.weights: b has 0.0"),
        (({"a": 1, "b": 1}, {"a": 1.0, "b": float("nan")}), "data.mixture.weights: b has nan"),
        (({"a": 1}, None, 0.0), "data.mixture.temperature=0.0"),
    ],
)
def test_a_component_that_would_vanish_is_an_error(arguments, said):
    with pytest.raises(UserError, match=said):
        shares(*arguments)


def test_the_order_of_a_seed_never_changes():
    """Golden: a change of it would change every published run."""
    mixed = mixture([1, 3])
    places = [("c1", 0), ("c1", 1), ("c0", 0), ("c0", 1), ("c1", 2), ("c1", 3), ("c0", 2), ("c1", 4)]
    assert [mixed.place(k) for k in range(8)] == places
    assert [mixed.place(10**9 + k) for k in range(2)] == [("c0", 250000013), ("c1", 749999987)]
