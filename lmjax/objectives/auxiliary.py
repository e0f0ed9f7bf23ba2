"""Losses of a model's own, such as those of a mixture of experts, added to whatever objective it is trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.layers.stack import SOWN
from lmjax.metrics import Sum


def with_auxiliary(objective: Callable) -> Callable:
    """The objective with the model's sown losses in `loss`, and each of them, summed over layers, a metric.

    Added are the losses times the weight of `loss`, so that a mean stays a mean over microbatches of unequal weight;
    measures are means over the layers. A model that sows nothing is left as it is.
    """

    def on_sown(apply, params, batch, rng, *, train):
        sown: list[dict] = []

        def listening(variables, *args: Any, **options: Any) -> Any:
            out, found = apply(variables, *args, mutable=SOWN, **options)
            sown.append(found)
            return out

        sums = objective(listening, params, batch, rng, train=train)
        weight = sums["loss"].weight
        losses, measures = (gathered([found.get(name, {}) for found in sown]) for name in SOWN)
        total = sums["loss"].total
        for name, value in losses.items():
            total = total + jnp.sum(value) * weight
            sums[name] = Sum(jnp.sum(value) * weight, weight)
        for name, value in measures.items():
            sums[name] = Sum(jnp.mean(value) * weight, weight)
        return {**sums, "loss": Sum(total, weight)}

    return on_sown


def gathered(trees: list[Any]) -> dict[str, jax.Array]:
    """All values of a name, of all layers and calls, in one array."""
    found: dict[str, list] = {}
    for tree in trees:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)][-1]
            found.setdefault(name, []).append(jnp.ravel(leaf))
    return {name: jnp.concatenate(values) for name, values in found.items()}
