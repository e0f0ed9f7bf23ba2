"""Exact weighted loss, perplexity and bits per byte of a language model over a validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np


def evaluate(run: Callable[[Any, Mapping], dict], params: Any, batches: Iterable[Mapping]) -> dict[str, float]:
    """Means over all batches of what `run(params, batch)` gives as sums, added in float64, and the perplexity.

    Perplexity is of models of tokens, which have bits a byte as well; labels have a likelihood and no perplexity.
    Rows that only fill up the last batch weigh nothing, so the batch size changes nothing but rounding.
    """
    totals: dict[str, np.ndarray] = {}
    waiting = None
    for batch in batches:
        sums = run(params, batch)
        _add(totals, waiting)
        waiting = sums
    _add(totals, waiting)
    means = {name: float(total / weight) if weight else math.nan for name, (total, weight) in totals.items()}
    if {"nll", "bits_per_byte"} <= means.keys():
        means["perplexity"] = math.exp(min(means["nll"], 700.0)) if not math.isnan(means["nll"]) else math.nan
    return means


def _add(totals: dict[str, np.ndarray], sums: dict | None) -> None:
    for name, value in jax.device_get(sums or {}).items():
        totals[name] = totals.get(name, np.zeros(2)) + np.array([value.total, value.weight], np.float64)
