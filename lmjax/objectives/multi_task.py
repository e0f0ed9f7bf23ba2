"""Several tasks of one model at once: how their losses are weighed, and whether their gradients agree."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import UserError, unknown
from lmjax.metrics import Sum
from lmjax.objectives.classification import classification
from lmjax.objectives.masked import masked
from lmjax.objectives.regression import regression
from lmjax.objectives.span import span
from lmjax.objectives.tagging import tagging

TASKS = {"masked": masked, "label": classification, "tags": tagging, "span": span, "value": regression}
WEIGHTINGS = ("fixed", "uncertainty", "gradnorm")


def multi_task(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    weighting: str = "fixed", task_weights: Sequence[float] | None = None, conflict: bool = False, alpha: float = 1.5,
    shared: str = "blocks/.*", initial: Sequence[float] | None = None, predictions: int | None = None,
) -> dict[str, Sum]:  # fmt: skip
    """The weighted sum of the tasks of a model that gives a dict, the output for each of some `TASKS`.

    `loss` is sum_i w_i L_i with L_i the mean of task i over the batch, and weighs as many rows as there are; `i/loss`,
    `i/accuracy` and so on are the tasks' own, exact sums; `i/weight` is w_i. weighting: fixed (`task_weights`, 1 each);
    uncertainty: Kendall et al. 2018, arXiv:1705.07115, eq. 10, w_i = exp(-s_i) (half of it for a number) and s_i / 2 is
    added; gradnorm: Chen et al. 2018, arXiv:1711.02257, algorithm 1, with exponent alpha, the weights 1 on average; L_i
    at the start are `initial`, or ln(classes), 1 for a number (section 3.2). s_i, or for gradnorm the logits of w_i, are
    the model's parameter `task_weights` (n).

    conflict: the cosine of each two tasks' gradients, `cosine/i,j`, is logged in training (Yu et al. 2020,
    arXiv:2001.06782, definition 1), over parameters whose path `shared` matches in full. Like gradnorm it costs a
    backward pass for each task, out of which the step's own gradient is then made. label has `label_weights` for its own
    weights where there are some; predictions is that of `masked`.
    """
    if weighting not in WEIGHTINGS:
        raise unknown("value of objective.weighting", weighting, WEIGHTINGS)
    means = partial(_means, apply, batch, rng, train, predictions)
    measured = train and (conflict or weighting == "gradnorm")
    if not measured:
        losses_n, (sums, names, starts) = means(params)
        gradients = None
    else:
        losses_n, pull, (sums, names, starts) = jax.vjp(means, jax.lax.stop_gradient(params), has_aux=True)
        gradients = [pull(one_n)[0] for one_n in jnp.eye(len(names))]
    given_n = _numbers("task_weights", task_weights, names, [1.0] * len(names))
    starts_n = _numbers("initial", initial, names, starts)
    learned_n = params["task_weights"] if weighting != "fixed" else jnp.zeros(len(names))
    found: dict[str, jax.Array] = {}
    if measured:
        flat = [_matching(gradient, shared) for gradient in gradients]
        norms_n = jnp.stack([jnp.sqrt(_dot(one, one)) for one in flat])
        for i, j in itertools.combinations(range(len(names)), 2):
            cosine = _dot(flat[i], flat[j]) / jnp.maximum(norms_n[i] * norms_n[j], 1e-20)
            found[f"cosine/{names[i]},{names[j]}"] = cosine
        found |= {f"{name}/grad_norm": norm for name, norm in zip(names, norms_n, strict=True)}
        losses_n = jax.lax.stop_gradient(losses_n)
    if weighting == "uncertainty":
        halves_n = jnp.asarray([0.5 if name == "value" else 1.0 for name in names])
        weights_n = given_n * halves_n * jnp.exp(-learned_n)
        more = jnp.sum(given_n * learned_n) / 2
    elif weighting == "gradnorm":
        weights_n, more = len(names) * jax.nn.softmax(learned_n), 0.0
        if measured:
            balance = _gradnorm(weights_n, norms_n, losses_n / starts_n, alpha)
            more = balance - jax.lax.stop_gradient(balance)  # of no value: it only moves the weights
        weights_n = jax.lax.stop_gradient(weights_n)
    else:
        weights_n, more = given_n, 0.0
    loss = jnp.sum(weights_n * losses_n) + more
    if measured:
        loss += _with_gradient(params, _weighted(jax.lax.stop_gradient(weights_n), gradients))
    rows = jnp.sum(jnp.any(batch["segments"] > 0, axis=1).astype(jnp.float32))
    found |= {f"{name}/weight": weight for name, weight in zip(names, weights_n, strict=True)}
    logged = {name: Sum(value * rows, rows) for name, value in found.items()}
    return {"loss": Sum(loss * rows, rows)} | sums | jax.lax.stop_gradient(logged)


def _means(apply, batch, rng, train, predictions, params) -> tuple[jax.Array, tuple]:
    """The mean of each task's loss (n,); all their sums, the tasks' names, and what guessing evenly would lose."""
    outputs = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    sums, losses, starts = {}, [], []
    for name, output in outputs.items():
        if name not in TASKS:
            raise unknown("task of the model", name, TASKS)
        fields = dict(batch)
        if name == "label" and "label_weights" in batch:
            fields["weights"] = batch["label_weights"]
        options = {"predictions": predictions} if name == "masked" else {}
        own = TASKS[name](lambda *_, output=output, **__: output, params, fields, rng, train=train, **options)
        losses.append(own["loss"].total / jnp.maximum(own["loss"].weight, 1e-9))
        sums |= {f"{name}/{metric}": value for metric, value in own.items()}
        starts.append(_at_first(name, output))
    return jnp.stack(losses), (sums, _Names(outputs), starts)


class _Names(tuple):
    """Names that pass through a gradient as no array."""


jax.tree_util.register_static(_Names)


def _at_first(name: str, output: Any) -> float:
    """The loss of a guess that knows nothing: ln of what there is to choose from."""
    if name == "value":
        return 1.0
    if name == "masked":
        return math.log(output[1].vocab)
    return math.log(output.shape[1] if name == "span" else output.shape[-1])


def _numbers(leaf: str, values: Sequence[float] | None, names: Sequence[str], default: Sequence[float]) -> jax.Array:
    values = default if values is None else values
    if len(values) != len(names):
        raise UserError(
            f"objective.{leaf} has {len(values)} numbers, and the tasks are {', '.join(names)}: one for each"
        )
    return jnp.asarray(values, jnp.float32)


def _gradnorm(weights_n: jax.Array, norms_n: jax.Array, ratios_n: jax.Array, alpha: float) -> jax.Array:
    """L_grad of Chen et al. 2018, eq. 2: how far the weighted norms are from what training at one rate asks for."""
    norms_n = weights_n * jax.lax.stop_gradient(norms_n)
    rates_n = ratios_n / jnp.maximum(jnp.mean(ratios_n), 1e-9)
    return jnp.sum(jnp.abs(norms_n - jax.lax.stop_gradient(jnp.mean(norms_n) * rates_n**alpha)))


def _matching(gradient: Any, shared: str) -> list[jax.Array]:
    leaves = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
              if re.fullmatch(shared, jax.tree_util.keystr(path, simple=True, separator="/"))]  # fmt: skip
    if not leaves:
        raise UserError(f"objective.shared={shared!r} matches the path of no parameter")
    return leaves


def _dot(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    return sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True))


def _weighted(weights_n: jax.Array, gradients: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights_n, leaves, strict=True)), *gradients)


@jax.custom_vjp
def _with_gradient(params: Any, gradient: Any) -> jax.Array:
    """0, whose gradient by params is the one given."""
    return jnp.float32(0)


def _given(params: Any, gradient: Any) -> tuple[jax.Array, Any]:
    return jnp.float32(0), gradient


def _back(gradient: Any, scale: jax.Array) -> tuple[Any, Any]:
    return jax.tree.map(lambda leaf: scale * leaf, gradient), jax.tree.map(jnp.zeros_like, gradient)


_with_gradient.defvjp(_given, _back)
