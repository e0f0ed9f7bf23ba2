import math

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.metrics import Sum, fetch, means, merge


def test_the_mean_of_merged_sums_is_the_weighted_mean_however_the_rows_are_grouped():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 3, size=(6, 4)).astype(np.float32)
    expected = (values * weights).sum() / weights.sum()
    for cuts in ([3], [1, 2], [1, 4, 5], []):
        parts = [Sum.of(v, w) for v, w in zip(np.split(values, cuts), np.split(weights, cuts), strict=True)]
        whole = parts[0]
        for part in parts[1:]:
            whole += part
        np.testing.assert_allclose(whole.mean(), expected, rtol=1e-5)
    of_means = np.mean([part.mean() for part in (Sum.of(values[:1], weights[:1]), Sum.of(values[1:], weights[1:]))])
    assert abs(of_means - expected) > 1e-3  # what Sum is there to avoid


def test_what_weighs_nothing_counts_nothing_even_when_it_is_not_a_number():
    found = Sum.of(jnp.array([1.0, jnp.nan, jnp.inf, 3.0]), jnp.array([1.0, 0.0, 0.0, 2.0]))
    assert found.mean() == 7 / 3
    assert math.isnan(Sum.of(jnp.array([1.0]), jnp.array([0.0])).mean())


def test_weights_broadcast_and_are_counted_once_for_every_value():
    found = Sum.of(jnp.ones((3, 4)), jnp.array([[1.0], [0.0], [2.0]]))
    assert (float(found.total), float(found.weight)) == (12.0, 12.0)
    assert float(Sum.of(jnp.ones((3, 4))).weight) == 12.0


def test_sums_of_bfloat16_are_kept_in_float32():
    found = Sum.of(jnp.ones(4097, jnp.bfloat16))
    assert (found.total.dtype, float(found.total), float(found.weight)) == (jnp.float32, 4097.0, 4097.0)


def test_merging_adds_by_name_and_keeps_what_only_one_side_has():
    merged = merge({"a": Sum(1.0, 2.0), "b": Sum(3.0, 4.0)}, {"a": Sum(10.0, 20.0), "c": Sum(5.0, 6.0)})
    assert merged == {"a": Sum(11.0, 22.0), "b": Sum(3.0, 4.0), "c": Sum(5.0, 6.0)}


def test_sums_pass_through_jit_and_come_back_as_floats_that_count_beyond_float32():
    metrics = jax.jit(lambda x: {"loss": Sum.of(x) + Sum.of(x)})(jnp.ones(3))
    assert means(metrics) == {"loss": 1.0}
    many = fetch({"loss": Sum(jnp.float32(2.0**24), jnp.float32(2.0**24))})
    assert merge(many, {"loss": Sum(1.0, 1.0)})["loss"].weight == 2**24 + 1
