"""Sampling is what the papers say: filters against NumPy, frequencies against probabilities, each row by itself."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.decode import choose, options, sampling
from lmjax.errors import UserError

PADDED = -1e30


def random_logits(seed, rows=3, vocab=300, spread=2.0):
    return np.random.RandomState(seed).normal(scale=spread, size=(rows, vocab)).astype(np.float32)


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def nucleus(logits, p):
    """Holtzman et al. 2020, eq. 2: tokens in order of probability until the sum reaches p. One row, a set of ids."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    size = 1 + np.searchsorted(np.cumsum(probabilities[order]), p)
    return set(order[:size].tolist())


def kept(filtered):
    return [set(np.flatnonzero(row > sampling.REMOVED / 2).tolist()) for row in np.asarray(filtered)]


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def frequencies(logits, chosen, n=40_000, seen=None):
    """How often each id comes when one row is drawn n times."""
    rows = jnp.broadcast_to(jnp.asarray(logits), (n, len(logits)))
    seen = None if seen is None else jnp.broadcast_to(jnp.asarray(seen), rows.shape)
    drawn = jax.jit(choose)(rows, keys(n), chosen, seen)
    return np.bincount(np.asarray(drawn), minlength=len(logits)) / n


def assert_frequencies(found, expected, n=40_000):
    """Each within five standard deviations of a binomial, and nothing where nothing may be."""
    assert not found[expected == 0].any()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9).all()


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_has_the_mass(p):
    for seed in range(5):
        logits = random_logits(seed)
        assert kept(sampling.top_p(logits, p)) == [nucleus(row, p) for row in logits]


def test_top_p_keeps_all_tokens_that_tie_with_the_last_one():
    logits = np.log(np.array([[0.4, 0.2, 0.2, 0.1, 0.1]], np.float32))
    assert kept(sampling.top_p(logits, 0.5)) == [{0, 1, 2}]
    assert kept(sampling.top_p(logits, 0.39)) == [{0}]
    almost = logits + np.array([0, 0, -3e-7, 0, 0], np.float32)
    assert kept(sampling.top_p(almost, 0.5)) == [{0, 1}]


@pytest.mark.parametrize("p", [0.02, 0.3, 1.0])
def test_min_p_keeps_what_is_at_least_that_share_of_the_likeliest(p):
    logits = random_logits(1)
    probabilities = softmax(logits)
    expected = [set(np.flatnonzero(row >= p * row.max() * (1 - 1e-6)).tolist()) for row in probabilities]
    assert kept(sampling.min_p(logits, p)) == expected


def test_top_k_gives_the_k_largest_and_of_equal_ones_the_lower_ids():
    values, ids = sampling.top_k(jnp.array([[1.0, 3.0, 2.0, 3.0, 2.0]]), 3)
    assert ids.tolist() == [[1, 3, 2]] and values.tolist() == [[3, 3, 2]]
    assert sampling.top_k(jnp.zeros((2, 5)), 99)[0].shape == (2, 5)


def test_a_repetition_penalty_lowers_seen_tokens_whatever_their_sign():
    logits = jnp.array([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.array([[True, True, False, False]])
    assert sampling.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=str,
)
def test_ids_come_as_often_as_they_should(given):
    """The filters in their order, by NumPy; 300 ids are more than two blocks."""
    logits = random_logits(7, rows=1)[0]
    expected = softmax(logits)
    if "top_k" in given:
        expected = np.where(expected >= np.sort(expected)[-given["top_k"]], expected, 0)
    expected = expected ** (1 / given.get("temperature", 1))
    expected /= expected.sum()
    if "top_p" in given:
        order = np.argsort(-expected, kind="stable")
        size = 1 + np.searchsorted(np.cumsum(expected[order]), given["top_p"])
        expected[order[size:]] = 0
    expected = np.where(expected >= given.get("min_p", 0) * expected.max(), expected, 0)
    assert_frequencies(frequencies(logits, options(**given)), expected / expected.sum())


def test_a_penalty_changes_frequencies_as_its_paper_says():
    logits = np.array([1.0, 1.0, -1.0, -1.0], np.float32)
    found = frequencies(logits, options(repetition_penalty=2.0), seen=np.array([True, False, True, False]))
    assert_frequencies(found, softmax(np.array([0.5, 1.0, -2.0, -1.0])))


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 1e30},
        {"temperature": 1e30, "top_k": 200},
        {"top_p": 0.999999},
        {"temperature": 1e-30},
        {"temperature": 0},
    ],
    ids=str,
)
def test_padded_ids_are_never_chosen(given):
    logits = np.where(np.arange(256) % 2 == 0, -3e4, PADDED).astype(np.float32)
    found = frequencies(logits, options(**given), n=5000)
    assert found[::2].sum() == 1


def test_rounding_never_chooses_an_id_of_no_probability():
    weights = np.random.RandomState(0).uniform(size=(1, 128)).astype(np.float32)
    weights[:, ::2] = 0
    weights[:, -5:] = 0
    sums = np.cumsum(weights) / weights.sum()
    near = np.concatenate([np.nextafter(sums, 0), sums, np.nextafter(sums, 2)])  # where rounding decides
    uniform = np.append(near[near < 1], [0, 1 - 2.0**-23]).astype(np.float32)[:, None]
    index = jax.jit(sampling._invert)(jnp.repeat(weights, len(uniform), axis=0), uniform)
    assert (weights[0, index] > 0).all()
    assert index[-2:].tolist() == [1, 121]


def test_the_likeliest_is_chosen_without_temperature_and_with_one_candidate():
    logits = random_logits(3)
    logits[0, [17, 290]] = 50
    expected = logits.argmax(-1).tolist()
    assert expected[0] == 17
    for chosen in (options(temperature=0), options(top_k=1), options(temperature=1e-20), options(top_p=1e-9)):
        assert choose(logits, keys(3), chosen, None).tolist()[1:] == expected[1:]
    assert choose(logits, keys(3), options(temperature=0), None).tolist() == expected


def test_a_row_is_chosen_by_its_own_key_alone():
    logits = random_logits(5, rows=6)
    chosen = options(temperature=3.0, top_p=0.99)
    together = choose(logits, keys(6), chosen, None).tolist()
    alone = [choose(logits[i : i + 1], keys(6)[i : i + 1], chosen, None).item() for i in range(6)]
    assert together == alone
    assert together != choose(logits, keys(6, seed=1), chosen, None).tolist()


def operations(chosen):
    """The names of all primitives in `choose`, those of inner functions too."""
    jaxpr = jax.make_jaxpr(choose)(random_logits(0), keys(3), chosen, jnp.zeros((3, 300), bool))
    return set(re.findall(r" = (\w+)", str(jaxpr)))


def test_nothing_is_computed_that_the_options_do_not_ask_for():
    greedy = operations(options(temperature=0, repetition_penalty=1.1))
    assert "argmax" in greedy and not greedy & {"random_bits", "sort", "top_k", "cumsum", "exp", "while", "scan"}
    assert "top_k" in operations(options(top_k=4)) and "scan" in operations(options(top_p=0.9))
    for given in ({}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert not operations(options(**given)) & {"sort", "top_k"}


def test_another_number_is_not_another_program():
    compiled = jax.jit(lambda *arguments: choose(*arguments))
    for t, p in ((0.7, 0.9), (1.3, 0.5)):
        compiled(random_logits(0), keys(3), options(temperature=t, top_p=p), None)
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
    ],
)
def test_an_illegal_option_is_told_with_its_value(given, message):
    with pytest.raises(UserError, match=message):
        options(**given)
