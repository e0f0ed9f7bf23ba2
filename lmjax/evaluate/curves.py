"""Curves of classifiers: ROC with its area, and how often what is said with confidence is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmjax.evaluate import intervals
from lmjax.evaluate.intervals import Estimate

BINS = 15  # Guo et al. 2017, table 1


class Roc(NamedTuple):
    """Points of the curve from (0, 0) to (1, 1): shares of false and of true positives at each threshold."""

    false_positives: np.ndarray
    true_positives: np.ndarray
    area: float


class Calibration(NamedTuple):
    """The expected calibration error, and by bins of confidence its mean, the accuracy and the number of examples."""

    error: Estimate
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def roc(truth_n: np.ndarray, scores_n: np.ndarray) -> Roc:
    """The curve of scores for what is true against what is not; equal scores are one point (Fawcett 2006, section 5)."""
    order = np.argsort(-scores_n, kind="stable")
    truth, scores = np.asarray(truth_n, np.int64)[order], np.asarray(scores_n)[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.concatenate([[0], np.cumsum(truth)[ends]])
    false = np.concatenate([[0], (ends + 1) - np.cumsum(truth)[ends]])
    x, y = false / max(false[-1], 1), true / max(true[-1], 1)
    return Roc(x, y, float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2))


def roc_auc(labels_n: np.ndarray, shares_nc: np.ndarray) -> tuple[Estimate | None, dict[int, float]]:
    """The area under the ROC curve, and that of each class against all others.

    Of two classes it is the second one's, of more the mean over those that some examples have and others not; none where
    there is no such class. The standard error is DeLong's (1988, Biometrics 44), for a mean of several areas by the sum
    of their placement values for the same example.
    """
    classes, n = shares_nc.shape[1], len(labels_n)
    shown = [1] if classes == 2 else range(classes)
    areas, influence_n = {}, np.zeros(n)
    for i in shown:
        truth_n = labels_n == i
        if 0 < truth_n.sum() < n:
            areas[i], part_n = _area(truth_n, shares_nc[:, i])
            influence_n += part_n
    if not areas:
        return None, {}
    error = float(np.sqrt((influence_n**2).sum()) / len(areas))
    value = float(np.mean(list(areas.values())))
    if classes == 2:
        areas[0] = areas[1]
    return intervals.within(value, error, n, 0.0, 1.0), areas


def _area(truth_n: np.ndarray, scores_n: np.ndarray) -> tuple[float, np.ndarray]:
    """The area, ties counting half, and what each example moves it, (n,): the squares add up to its variance."""
    positive, negative = np.sort(scores_n[truth_n]), np.sort(scores_n[~truth_n])
    p, m = len(positive), len(negative)
    below = (np.searchsorted(negative, scores_n, "left") + np.searchsorted(negative, scores_n, "right")) / (2 * m)
    above = 1 - (np.searchsorted(positive, scores_n, "left") + np.searchsorted(positive, scores_n, "right")) / (2 * p)
    area = float(below[truth_n].mean())
    unbiased_p, unbiased_m = np.sqrt(p * max(p - 1, 1)), np.sqrt(m * max(m - 1, 1))
    return area, np.where(truth_n, (below - area) / unbiased_p, (above - area) / unbiased_m)


def calibration(
    confidence_n: np.ndarray, right_n: np.ndarray, *, bins: int = BINS, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> Calibration:  # fmt: skip
    """Expected calibration error of confidences in equal bins of (0, 1]; Guo et al. 2017, arXiv:1706.04599, eq. 5."""
    n = len(confidence_n)
    bin_n = np.clip(np.ceil(np.asarray(confidence_n, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    in_bin_nk = np.eye(bins)[bin_n]
    parts_nk = np.concatenate([in_bin_nk, in_bin_nk * confidence_n[:, None], in_bin_nk * right_n[:, None]], axis=1)

    def gap(weights_rn: np.ndarray) -> dict[str, np.ndarray]:
        _, confident_rk, right_rk = np.split(weights_rn @ parts_nk, 3, axis=1)
        return {"error": np.abs(confident_rk - right_rk).sum(axis=1) / n}

    found = intervals.bootstrap(gap, n, resamples=resamples, seed=seed)
    count_k, confident_k, right_k = np.split(parts_nk.sum(axis=0), 3)
    with np.errstate(invalid="ignore"):
        return Calibration(found["error"], confident_k / count_k, right_k / count_k, count_k.astype(int))
