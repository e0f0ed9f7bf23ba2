"""Intervals and tests over seeds: against SciPy and by hand, and by simulation: what they promise is what they do."""

import math

import numpy as np
import pytest
from scipy import stats

from lmjax.study import statistics

RNG = np.random.default_rng
STUDIES = 4000


def covered(found, truth=0.0):
    """The share of intervals that hold the truth."""
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


@pytest.mark.parametrize("n", [2, 5, 20])
def test_students_intervals_hold_the_mean_in_95_of_100_studies(n):
    assert 0.93 <= covered(statistics.student(RNG(n).normal(3.0, 0.2, (STUDIES, n))), 3.0) <= 0.97


@pytest.mark.parametrize("n", [4, 5, 10])
def test_bootstrap_intervals_hold_the_mean_in_95_of_100_studies(n):
    values = RNG(n).normal(3.0, 0.2, (2000, n))
    assert 0.93 <= covered(statistics.bootstrap(values, resamples=1000), 3.0) <= 0.97


def test_intervals_of_paired_differences_hold_the_difference_whatever_the_seeds_share():
    rng = RNG(0)
    shared = rng.normal(0, 5.0, (STUDIES, 5))  # what a seed does to every variant
    baseline, variant = shared + rng.normal(0, 0.1, (2, STUDIES, 5))
    found = statistics.student(variant + 0.3 - baseline)
    assert 0.93 <= covered(found, 0.3) <= 0.97
    assert np.median(found.high - found.low) < 1  # pairing took the 5.0 out


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_of_studies_in_which_nothing_works_at_most_5_of_100_report_something(test):
    """Seven variants against one baseline, all alike; a finding is a corrected p of at most 0.05."""
    rng, studies = RNG(1), 3000
    values = rng.normal(0, 1, (studies, 8, 9))  # study, variant, seed
    p = statistics.paired(values[:, 1:] - values[:, :1], test)
    wrong = np.mean(statistics.holm(p).min(-1) <= 0.05)
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    uncorrected = np.mean(p.min(-1) <= 0.05)
    assert uncorrected > 0.1  # the correction is needed


def test_a_single_paired_test_is_wrong_as_often_as_it_says():
    p = statistics.paired(RNG(2).normal(0, 1, (STUDIES, 5)))
    assert 0.04 <= np.mean(p <= 0.05) <= 0.06


def test_p_is_that_of_scipys_paired_tests():
    a, b = RNG(3).normal(0, 1, (2, 7)) + [[0.0], [0.8]]
    assert statistics.paired(b - a) == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert statistics.paired(b - a, "wilcoxon") == pytest.approx(stats.wilcoxon(b, a).pvalue)


def test_students_interval_is_scipys():
    values = RNG(4).normal(0, 1, 6)
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert statistics.student(values)[1:] == pytest.approx((low, high))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    known = statistics.holm([0.01, math.nan, 0.03])
    assert known[0] == pytest.approx(0.02) and math.isnan(known[1]) and known[2] == pytest.approx(0.03)
    assert statistics.holm([]).size == 0


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = [0.2, 0.003, 0.012, 0.04, 0.003]
    assert statistics.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_effects_are_not_biased_by_few_pairs():
    differences = RNG(5).normal(0.5, 1.0, (40_000, 5))
    assert statistics.effect(differences).mean() == pytest.approx(0.5, abs=0.015)
    assert (differences.mean(-1) / differences.std(-1, ddof=1)).mean() > 0.6  # Cohen's d is


def test_power_is_how_often_a_simulated_study_finds_the_difference():
    n = statistics.seeds_needed(0.01, 0.008, 0.8)
    found = np.mean(statistics.paired(RNG(6).normal(0.01, 0.008, (STUDIES, n))) <= 0.05)
    assert statistics.power(0.01, 0.008, n) == pytest.approx(found, abs=0.02)
    assert statistics.power(0.01, 0.008, n - 1) < 0.8 <= statistics.power(0.01, 0.008, n)
    assert statistics.seeds_needed(1.0, 1e-9) == 2 and statistics.seeds_needed(1e-9, 1.0, most=1000) == 1000


def test_the_bound_of_the_spread_is_right_as_often_as_it_says():
    spreads = RNG(7).normal(0, 2.0, (STUDIES, 3)).std(-1, ddof=1)
    assert np.mean([statistics.spread_at_most(spread, 3) >= 2.0 for spread in spreads[:1000]]) == pytest.approx(
        0.8, abs=0.03
    )


def test_what_does_not_vary_has_no_p_and_no_width():
    same = np.full(5, 1.3797)
    assert statistics.deviation(same) == 0
    assert math.isnan(statistics.paired(same)) and math.isnan(statistics.effect(same))
    for found in (statistics.student(same), statistics.bootstrap(same)):
        assert found.low == found.value == found.high


def test_too_few_values_have_no_interval():
    assert math.isnan(statistics.student([1.0]).low) and math.isnan(statistics.bootstrap([1.0, 2.0, 3.0]).high)
    assert math.isnan(statistics.paired([1.0])) and math.isnan(statistics.effect([1.0, 2.0]))


def test_a_bootstrap_is_the_same_every_time():
    values = RNG(8).normal(0, 1, 5)
    assert statistics.bootstrap(values) == statistics.bootstrap(values)
    assert statistics.bootstrap(values).low != statistics.bootstrap(values, seed=1).low
