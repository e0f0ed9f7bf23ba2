"""Numbers beside those that should be: errors and correlations."""

from __future__ import annotations

import math

import numpy as np

from lmjax.evaluate import intervals
from lmjax.evaluate.intervals import Estimate


def regression(
    values_n: np.ndarray, guesses_n: np.ndarray, *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """`mae`, `rmse`, `pearson` and `spearman`; the last three with bootstrap intervals.

    Spearman's is Pearson's of the ranks, equal values having the mean of theirs; samples keep the ranks of the whole.
    """
    values_n, guesses_n = np.asarray(values_n, np.float64), np.asarray(guesses_n, np.float64)
    of_ranks = ranks(values_n), ranks(guesses_n)

    def statistic(weights_rn: np.ndarray) -> dict[str, np.ndarray]:
        squares_r = weights_rn @ (values_n - guesses_n) ** 2 / weights_rn.sum(axis=1)
        return {"rmse": np.sqrt(squares_r), "pearson": _pearson(weights_rn, values_n, guesses_n),
                "spearman": _pearson(weights_rn, *of_ranks)}  # fmt: skip

    found = intervals.bootstrap(statistic, len(values_n), resamples=resamples, seed=seed)
    return {"mae": intervals.mean(np.abs(values_n - guesses_n)), **found}


def ranks(values_n: np.ndarray) -> np.ndarray:
    """Ranks from 1 (n,), equal values having the mean of theirs."""
    _, which_n, count = np.unique(values_n, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[which_n]


def _pearson(weights_rn: np.ndarray, x_n: np.ndarray, y_n: np.ndarray) -> np.ndarray:
    """The weighted correlation of each sample, (r,); nan where one of both is always the same."""
    x_n, y_n = x_n - x_n.mean(), y_n - y_n.mean()  # before sums of squares, in which large means would drown the rest
    total_r = weights_rn.sum(axis=1)
    sums = {name: weights_rn @ part / total_r
            for name, part in {"x": x_n, "y": y_n, "xx": x_n**2, "yy": y_n**2, "xy": x_n * y_n}.items()}  # fmt: skip
    spread_r = (sums["xx"] - sums["x"] ** 2) * (sums["yy"] - sums["y"] ** 2)
    product_r = sums["xy"] - sums["x"] * sums["y"]
    return np.divide(product_r, np.sqrt(spread_r.clip(0)), out=np.full(len(total_r), math.nan), where=spread_r > 1e-24)
