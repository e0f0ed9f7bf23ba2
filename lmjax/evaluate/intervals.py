"""An estimate with its standard error and 95 % interval: of means, shares, and by the bootstrap of anything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 1000
HELD = 2**22  # numbers of a block of resampled weights


class Estimate(NamedTuple):
    """A number and what is known of it: its standard error, the 95 % interval, and of how many examples it is."""

    value: float
    error: float
    low: float
    high: float
    count: int


def mean(
    values: np.ndarray, weights: np.ndarray | float = 1.0, *, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """sum(w x) / sum(w) of independent examples, with the linearised error of a ratio and a normal interval.

    Cochran 1977, Sampling Techniques, section 6.4: with equal weights it is the standard error of the mean. What weighs
    nothing is no example. The interval is kept in [least, most].
    """
    values = np.asarray(values, np.float64)
    weights = np.broadcast_to(np.asarray(weights, np.float64), values.shape)
    values, weights = values[weights > 0], weights[weights > 0]
    n, total = len(values), weights.sum()
    if not n:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    value = float((weights * values).sum() / total)
    if n == 1:
        return Estimate(value, math.nan, math.nan, math.nan, 1)
    error = math.sqrt(n / (n - 1) * float(((weights * (values - value)) ** 2).sum())) / total
    return within(value, error, n, least, most)


def share(hits: np.ndarray) -> Estimate:
    """The share of independent examples that are hits, with Wilson's interval (1927, JASA 22), which stays in [0, 1]."""
    hits = np.asarray(hits, bool)
    n = len(hits)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    p = float(hits.mean())
    middle, half = p + Z95**2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    low, high = min((middle - half) / scale, p), max((middle + half) / scale, p)
    return Estimate(p, math.sqrt(p * (1 - p) / n), max(low, 0.0), min(high, 1.0), n)


def within(value: float, error: float, count: int, least: float = -math.inf, most: float = math.inf) -> Estimate:
    """A value with a known standard error and its normal interval, kept in [least, most]."""
    return Estimate(value, error, max(value - Z95 * error, least), min(value + Z95 * error, most), count)


def of_samples(value: float, samples: np.ndarray, count: int) -> Estimate:
    """A value with the spread of its bootstrap samples: their standard deviation, and the percentiles 2.5 and 97.5."""
    samples = samples[np.isfinite(samples)]
    if count < 2 or not len(samples):
        return Estimate(value, math.nan, math.nan, math.nan, count)
    low, high = np.percentile(samples, (2.5, 97.5))
    return Estimate(value, float(samples.std(ddof=1)), float(low), float(high), count)


def bootstrap(
    statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    count: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimates of what `statistic(weights_rn)` gives, (r,) by name; Efron & Tibshirani 1993, chapter 13.

    weights_rn says how often each of `count` independent examples is in each of r samples; all once for the value.
    """
    if not count:
        return {}
    values = {name: float(value[0]) for name, value in statistic(np.ones((1, count))).items()}
    parts = [statistic(weights_rn) for weights_rn in _resampled(count, resamples, seed)]
    samples = {name: np.concatenate([part[name] for part in parts]) for name in values}
    return {name: of_samples(value, samples[name], count) for name, value in values.items()}


def _resampled(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each example is drawn, with replacement, in blocks (r, n)."""
    draw = np.random.Generator(np.random.Philox(seed))
    rows = max(1, HELD // count)
    for start in range(0, resamples, rows):
        taken = (np.bincount(draw.integers(count, size=count), minlength=count)
                 for _ in range(min(rows, resamples - start)))  # fmt: skip
        yield np.stack(list(taken)).astype(np.float64)
