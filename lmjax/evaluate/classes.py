"""Single-label classification: confusion matrix, accuracy, precision, recall and F1 (micro, macro, per class)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmjax.evaluate import curves, intervals
from lmjax.evaluate.intervals import Estimate


class Classification(NamedTuple):
    """What a classifier did on n examples of c classes: rows of `confusion_cc` are the true classes, columns guesses."""

    metrics: dict[str, Estimate]
    per_class: dict[str, dict[str, float]]  # of each class by name: precision recall f1 support (roc_auc)
    confusion_cc: np.ndarray
    calibration: curves.Calibration
    rocs: dict[str, curves.Roc]  # of a class against all others; of two classes that of the second only


def classification(labels_n: np.ndarray, shares_nc: np.ndarray, names: Sequence[str]) -> Classification:
    """Everything of the true labels (n,) and the probabilities (n, c) that were given to the classes."""
    labels_n, shares_nc = np.asarray(labels_n), np.asarray(shares_nc, np.float64)
    guesses_n = shares_nc.argmax(axis=1)
    confusion_cc = confusion(labels_n, guesses_n, len(names))
    metrics = {"accuracy": intervals.share(labels_n == guesses_n)} | averages(confusion_cc)
    auc, aucs = curves.roc_auc(labels_n, shares_nc)
    calibration = curves.calibration(shares_nc.max(axis=1), labels_n == guesses_n)
    metrics |= {"roc_auc": auc} if auc is not None else {}
    metrics["calibration_error"] = calibration.error
    scores = precision_recall_f1(confusion_cc)
    per_class = {}
    for i, name in enumerate(names):
        found = {score: float(value_c[i]) for score, value_c in scores.items()}
        per_class[name] = {**found, "support": int(confusion_cc[i].sum())}
        if i in aucs:
            per_class[name]["roc_auc"] = aucs[i]
    shown = [1] if len(names) == 2 else range(len(names))
    rocs = {names[i]: curves.roc(labels_n == i, shares_nc[:, i]) for i in shown if i in aucs}
    return Classification(metrics, per_class, confusion_cc, calibration, rocs)


def confusion(labels_n: np.ndarray, guesses_n: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (rows) was taken for each (columns), int64 (c, c)."""
    cells_n = np.asarray(labels_n, np.int64) * classes + np.asarray(guesses_n, np.int64)
    return np.bincount(cells_n, minlength=classes**2).reshape(classes, classes)


def precision_recall_f1(confusion_cc: np.ndarray) -> dict[str, np.ndarray]:
    """`precision`, `recall`, `f1` of each class, (..., c), of matrices (..., c, c); 0 where nothing was guessed or there."""
    right_c = np.diagonal(confusion_cc, axis1=-2, axis2=-1)
    guessed_c, there_c = confusion_cc.sum(axis=-2), confusion_cc.sum(axis=-1)
    return {"precision": _over(right_c, guessed_c), "recall": _over(right_c, there_c),
            "f1": _over(2 * right_c, guessed_c + there_c)}  # fmt: skip


def averages(confusion_cc: np.ndarray, *, resamples: int = intervals.RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """`macro_precision`, `macro_recall`, `macro_f1` and `micro_f1`, with bootstrap intervals.

    A macro average is over the classes that were guessed or are there, as scikit-learn's. Micro precision, recall and
    F1 of one label an example are all the accuracy. To draw n examples with replacement is to draw n cells.
    """
    count, classes = int(confusion_cc.sum()), len(confusion_cc)
    if not count:
        return {}
    cells = np.flatnonzero(confusion_cc)
    draw = np.random.Generator(np.random.Philox(seed))
    drawn_rk = draw.multinomial(count, confusion_cc.reshape(-1)[cells] / count, size=resamples)
    values = _averages(confusion_cc[None])
    samples = {name: np.empty(resamples) for name in values}
    rows = max(1, intervals.HELD // classes**2)
    for start in range(0, resamples, rows):
        some_rk = drawn_rk[start : start + rows]
        drawn = np.zeros((len(some_rk), classes**2), np.int64)
        drawn[:, cells] = some_rk
        for name, value_r in _averages(drawn.reshape(-1, classes, classes)).items():
            samples[name][start : start + rows] = value_r
    return {name: intervals.of_samples(float(value[0]), samples[name], count) for name, value in values.items()}


def _averages(confusion_rcc: np.ndarray) -> dict[str, np.ndarray]:
    there_rc = confusion_rcc.sum(axis=-1) + confusion_rcc.sum(axis=-2) > 0
    found = {f"macro_{name}": (value_rc * there_rc).sum(axis=-1) / there_rc.sum(axis=-1)
             for name, value_rc in precision_recall_f1(confusion_rcc).items()}  # fmt: skip
    right_r = np.trace(confusion_rcc, axis1=-2, axis2=-1)
    return {**found, "micro_f1": right_r / confusion_rcc.sum(axis=(-2, -1))}


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)
