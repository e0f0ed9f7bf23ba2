"""Intervals, paired tests and corrections over a few seeds, by SciPy and statsmodels. No JAX in here.

Arrays of values end with the axis of seeds, `..._n`; everything before it is done at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Test = Literal["t", "wilcoxon"]
LEAST_FOR_BOOTSTRAP = 4  # of 3 normal values the interval covers the mean 8 times in 10, of 4 or more 95 times in 100
RESAMPLES = 10_000
FLAT = 1e-12  # a standard deviation below this share of the values' size is rounding


class Interval(NamedTuple):
    """The mean and its 95 % interval, each of the shape before the axis of seeds; NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def student(values_n: np.ndarray, level: float = 0.95) -> Interval:
    """The mean with Student's interval; NaN bounds of a single value."""
    from scipy import stats

    values_n = np.asarray(values_n, np.float64)
    n, mean = values_n.shape[-1], values_n.mean(-1)
    if n < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = stats.t.ppf((1 + level) / 2, n - 1) * deviation(values_n) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def bootstrap(values_n: np.ndarray, level: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean with the bootstrap-t interval; Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 12.5.

    A percentile or BCa interval of five values covers the mean 84 times in 100 at best, for no resample leaves their
    range; this one covers it 95 times. NaN bounds of fewer than four values.
    """
    values_n = np.asarray(values_n, np.float64)
    n, mean = values_n.shape[-1], values_n.mean(-1)
    if n < LEAST_FOR_BOOTSTRAP:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    draws_rn = np.random.Generator(np.random.Philox(seed)).integers(n, size=(resamples, n))
    counts_rn = np.stack([(draws_rn == i).sum(-1, dtype=np.int32) for i in range(n)], axis=-1)
    share_rn = counts_rn[counts_rn.max(-1) < n] / n  # one value n times has no spread to divide by
    error = deviation(values_n) / math.sqrt(n)
    scale = np.where(error > 0, error, 1.0)[..., None]
    centred_n = (values_n - mean[..., None]) / scale
    mean_r = centred_n @ share_rn.T
    spread_r = np.sqrt(np.maximum((centred_n**2) @ share_rn.T - mean_r**2, 0) * n / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t_r = np.where(spread_r > 1e-9, mean_r / (spread_r / math.sqrt(n)), np.nan)  # ties have no spread either
    tail = 50 * (1 - level)
    with np.errstate(all="ignore"):
        low, high = np.nanpercentile(np.where(error[..., None] > 0, t_r, 0.0), (tail, 100 - tail), axis=-1)
    return Interval(mean, mean - high * error, mean - low * error)


def deviation(values_n: np.ndarray) -> np.ndarray:
    """The standard deviation over seeds, 0 where it is no more than rounding; NaN of a single value."""
    values_n = np.asarray(values_n, np.float64)
    if values_n.shape[-1] < 2:
        return np.full(values_n.shape[:-1], np.nan)
    found = values_n.std(-1, ddof=1)
    return np.where(found <= FLAT * np.abs(values_n).max(-1), 0.0, found)


def effect(differences_n: np.ndarray) -> np.ndarray:
    """Hedges' g of paired differences: their mean over their standard deviation, corrected for few pairs.

    Hedges 1981, J. Educational Statistics 6, equation 6e. NaN of fewer than three pairs, where it is
    not defined, and where the differences are all alike.
    """
    from scipy.special import gammaln

    differences_n = np.asarray(differences_n, np.float64)
    m = differences_n.shape[-1] - 1
    if m < 2:
        return np.full(differences_n.shape[:-1], np.nan)
    spread = deviation(differences_n)
    unbiased = math.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, unbiased * differences_n.mean(-1) / spread, np.nan)


def paired(differences_n: np.ndarray, test: Test = "t") -> np.ndarray:
    """Two-sided p of paired differences: Student's t test, or Wilcoxon's signed-rank test (exact for few pairs).

    NaN of one pair, and where the differences are all alike: nothing then says how much chance would do.
    """
    from scipy import stats

    differences_n = np.asarray(differences_n, np.float64)
    spread = deviation(differences_n)
    if differences_n.shape[-1] < 2:
        return spread
    with np.errstate(all="ignore"):
        if test == "t":
            error = spread / math.sqrt(differences_n.shape[-1])
            p = 2 * stats.t.sf(np.abs(differences_n.mean(-1)) / error, differences_n.shape[-1] - 1)
        else:
            p = stats.wilcoxon(differences_n, axis=-1).pvalue
    return np.where(spread > 0, p, np.nan)


def holm(p_k: Sequence[float] | np.ndarray) -> np.ndarray:
    """p of k comparisons, corrected so that one false finding among them is as rare as with one comparison.

    Holm 1979, Scandinavian J. of Statistics 6; k is the last axis. A NaN is no comparison: it stays and does not count.
    """
    p_k = np.asarray(p_k, np.float64)
    order_k = np.argsort(p_k, axis=-1)  # NaN last
    known = np.isfinite(p_k).sum(-1, keepdims=True)
    raised_k = np.take_along_axis(p_k, order_k, -1) * np.maximum(known - np.arange(p_k.shape[-1]), 1)
    corrected_k = np.empty_like(p_k)
    np.put_along_axis(corrected_k, order_k, np.minimum(np.maximum.accumulate(raised_k, axis=-1), 1.0), -1)
    return corrected_k


def power(difference: float, spread: float, n: int, alpha: float = 0.05) -> float:
    """The chance that a paired t test of n seeds finds a difference, if the differences by seed spread so."""
    from statsmodels.stats.power import TTestPower

    if n < 2:
        return 0.0
    if spread == 0 or abs(difference) / spread * math.sqrt(n) > 40:  # beyond what the noncentral t is computed for
        return float(difference != 0)
    return float(TTestPower().power(abs(difference) / spread, n, alpha))


def seeds_needed(
    difference: float, spread: float, target: float = 0.8, alpha: float = 0.05, most: int = 100_000
) -> int:
    """The least number of seeds whose paired t test finds a difference with the chance `target`; most: more than that."""
    low, high = 1, 2
    while power(difference, spread, high, alpha) < target:
        low, high = high, 2 * high
        if low >= most:
            return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, spread, middle, alpha) >= target else (middle, high)
    return high


def spread_at_most(spread: float, n: int, level: float = 0.8) -> float:
    """An upper bound of the true standard deviation, right `level` of the time, from that of n normal values.

    A power analysis from the pilot's own spread asks for too few seeds half of the time; Browne 1995, Statistics in
    Medicine 14, takes this one.
    """
    from scipy import stats

    return spread * math.sqrt((n - 1) / stats.chi2.ppf(1 - level, n - 1))
