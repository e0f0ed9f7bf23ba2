"""Sums with weights: what losses and metrics are, until the line that a human reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum:
    """A weighted sum and the sum of the weights: float32 scalars on the device, Python floats after `fetch`.

    Sums add over microbatches, batches, devices and hosts without error: sum(w x) / sum(w) is the same however the
    rows were grouped, which no mean of means is.
    """

    total: jax.Array | float
    weight: jax.Array | float

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array | float = 1.0) -> Sum:
        """The sum over every element; weights broadcast to values, and what weighs 0 counts 0 even if it is NaN."""
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
        return cls(jnp.sum(jnp.where(weights == 0, 0.0, values) * weights), jnp.sum(weights))

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.weight + other.weight)

    def mean(self) -> float:
        """total / weight as a Python float (this waits for the device); nan when nothing weighs anything."""
        total, weight = float(self.total), float(self.weight)
        return total / weight if weight else math.nan


def merge(a: Mapping[str, Sum], b: Mapping[str, Sum]) -> dict[str, Sum]:
    """Adds metrics by name; a name that only one side has is kept as it is."""
    return {name: a[name] + b[name] if name in a and name in b else a.get(name, b.get(name)) for name in {**a, **b}}


def fetch(metrics: Mapping[str, Sum]) -> dict[str, Sum]:
    """The same sums as Python floats (float64), in one transfer: merging many of these on the host loses no counts."""
    return {name: Sum(float(s.total), float(s.weight)) for name, s in jax.device_get(dict(metrics)).items()}


def means(metrics: Mapping[str, Sum]) -> dict[str, float]:
    """The mean of every metric, in one transfer: the line that a human reads."""
    return {name: s.mean() for name, s in fetch(metrics).items()}
