"""From the config's optim section to `init` and `update`: clipping, direction, decay, schedule, rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.errors import UserError
from lmjax.optim import clipping, compact, layerwise, optimizers, rules, schedules
from lmjax.optim.axes import Axes, axes
from lmjax.optim.rules import Row


class OptState(NamedTuple):
    """Arrays only. direction is Optax's state for the parameters that are not frozen, plateau reduce_on_plateau's."""

    direction: Any
    plateau: Any


class Optimizer(NamedTuple):
    init: Callable[[Any], OptState]
    update: Callable[..., tuple[Any, OptState]]
    schedule: Callable[[jax.Array | int], jax.Array]
    table: tuple[Row, ...]
    frozen: Any  # a pytree like the parameters, of bools

    def learning_rate(self, step: jax.Array | int, state: OptState) -> jax.Array:
        """The schedule at that step times what the plateau has left of it."""
        return self.schedule(step) * (state.plateau.scale if state.plateau else 1.0)


def trainable(tree: Any, frozen: Any) -> Any:
    """The tree with None, an empty subtree to JAX, for what is frozen."""
    return jax.tree.map(lambda is_frozen, leaf: None if is_frozen else leaf, frozen, tree)


def with_frozen(part: Any, params: Any) -> Any:
    """A whole tree again: what `trainable` left out comes from params."""
    return jax.tree.map(lambda t, p: p if t is None else t, part, params, is_leaf=lambda x: x is None)


def build(section, steps: int, params: Any, dims: Any) -> Optimizer:
    """The optimizer of the config's optim section; params may be abstract, dims is a pytree of letters like "ldhk".

    `update(grads, state, params, step=, loss=, norm=) -> (params, state)` takes the mean gradient, None where a
    parameter is frozen, with its 2-norm and the step's mean loss (the plateau schedule reads it). Arithmetic is
    float32, and so is the state unless optim.moments says otherwise (`compact`). Raises UserError for whatever is wrong
    in the section, by its path in the config.
    """
    _check(section, steps)
    spec, hyper = optimizers.choose(section)
    schedule = schedules.make(section.schedule, section.learning_rate, steps)
    plateau = schedules.make_plateau(section.schedule)
    rows, all_axes, treedef = _table(section, spec, params, dims)

    def static(leaves):  # a tree of plain values, None where frozen
        return treedef.unflatten([None if row.frozen else leaf for row, leaf in zip(rows, leaves, strict=True)])

    frozen = treedef.unflatten([row.frozen for row in rows])
    layer_decay, unfreeze = layerwise.check(section)
    heights = _heights(rows, treedef.flatten_up_to(dims)) if layer_decay or unfreeze else [np.zeros(())] * len(rows)
    by_layer = layerwise.factors(heights, layer_decay)
    axes_tree = static(all_axes)
    rate = static([row.rate * factor for row, factor in zip(rows, by_layer, strict=True)])
    height = static(heights)
    decay = static([section.weight_decay * row.decay for row in rows])
    direction = optax.with_extra_args_support(spec.make(hyper, optimizers.Tree(axes_tree, decay)))
    if (kind := compact.moments(section)) != "float32":
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        direction = compact.compact(direction, kind, {keys: leaf.shape for keys, leaf in leaves})
    clip = clipping.make(section.clip, axes_tree)
    added = jax.tree.map(lambda d: 0.0 if spec.decays else d, decay)

    def init(params):
        floats = jax.tree.map(lambda p: p.astype(jnp.float32), trainable(params, frozen))
        return OptState(direction.init(floats), plateau.init(jnp.float32(1)) if plateau else ())

    def update(grads, state, params, *, step, loss, norm):
        old = trainable(params, frozen)
        floats = jax.tree.map(lambda p: p.astype(jnp.float32), old)
        grads = clip(jax.tree.map(lambda g: g.astype(jnp.float32), grads), floats, norm)
        updates, inner = direction.update(grads, state.direction, floats, step=step)
        factor, plateau_state = schedule(step), ()
        if plateau:
            factor, plateau_state = plateau.update(factor, state.plateau, value=loss)
        rates = rate
        if unfreeze:
            rates = jax.tree.map(lambda r, h: r * layerwise.awake(h, unfreeze, step), rate, height)
        new = jax.tree.map(
            lambda p, f, u, r, d: (f - factor * r * (u + d * f if d else u)).astype(p.dtype),
            old, floats, updates, rates, added,
        )  # fmt: skip
        return with_frozen(new, params), OptState(inner, plateau_state)

    table = tuple(row._replace(rate=row.rate * float(np.max(factor)), lowest=float(np.min(factor) / np.max(factor)))
                  for row, factor in zip(rows, by_layer, strict=True))  # fmt: skip
    return Optimizer(init, update, schedule, table, frozen)


def _heights(rows: list[Row], dims: list[str]) -> list[np.ndarray]:
    return layerwise.heights([row.path for row in rows], dims, [row.shape for row in rows])


def _table(section, spec, params, dims) -> tuple[list[Row], list[Axes], Any]:
    """A row and the axes of each parameter, in the order of its leaves, and the tree they came from."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    letters = treedef.flatten_up_to(dims)
    paths = [rules.path_of(keys) for keys, _ in leaves]
    rules.check(section.rules)
    chosen = rules.resolve(section.rules, paths)
    rows, all_axes = [], []
    for path, (_, leaf), letter in zip(paths, leaves, letters, strict=True):
        if len(letter) != len(leaf.shape):
            raise ValueError(f"{path}: dimensions {letter!r} for shape {leaf.shape}")
        rule = section.rules[chosen[path]] if section.rules else rules.DEFAULT
        a = axes(letter)
        to_adamw = spec.muon and not a.matrix
        name = "frozen" if rule["freeze"] else "adamw" if to_adamw else section.name
        rate = rule["rate"] * (spec.rest_rate if to_adamw else 1.0)
        rows.append(Row(path, tuple(leaf.shape), chosen[path], rule["decay"], rate, rule["freeze"], name))
        all_axes.append(a)
    if all(row.frozen for row in rows):
        raise UserError("optim.rules freezes every parameter: there is nothing to train")
    return rows, all_axes, treedef


def _check(section, steps: int) -> None:
    legal = {
        "steps": (steps, steps >= 1, "1 or more"),
        "optim.learning_rate": (section.learning_rate, section.learning_rate >= 0, "0 or more"),
        "optim.weight_decay": (section.weight_decay, section.weight_decay >= 0, "0 or more"),
        "optim.microbatches": (section.microbatches, section.microbatches >= 1, "1 or more"),
        "optim.ema": (section.ema, section.ema is None or 0 < section.ema < 1, "between 0 and 1, or none"),
        "optim.skip.spike": (section.skip.spike, section.skip.spike is None or section.skip.spike > 1, "above 1"),
        "optim.skip.stop_after": (section.skip.stop_after, section.skip.stop_after >= 1, "1 or more"),
    }
    for path, (value, good, meaning) in legal.items():
        if not good:
            raise UserError(f"{path}={value}: must be {meaning}")


SCALES = jax.tree_util.GetAttrKey("scales")


def _cut_as(sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding for another shape of as many dimensions, which is whole along those that it does not divide."""
    spec = (*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))

    def even(size, entry):
        axes = (entry,) if isinstance(entry, str) else entry or ()
        return entry if size % math.prod(sharding.mesh.shape[axis] for axis in axes) == 0 else None

    return NamedSharding(sharding.mesh, PartitionSpec(*map(even, shape, spec)))


def opt_state_shardings(optimizer: Optimizer, params: Any, shardings: Any, replicated: Any) -> OptState:
    """A tree of shardings for `optimizer.init`: what has a parameter's shape lies as that parameter does.

    params (abstract) and shardings are pytrees alike. The scales of 8-bit moments are cut as the parameter is where that
    is even. Everything else (counts, Adafactor's rows and columns) is replicated.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    known = {keys: (leaf.shape, s) for (keys, leaf), s in zip(leaves, jax.tree.leaves(shardings), strict=True)}

    def place(keys, leaf):
        of = compact.parameter(keys, known) or compact.parameter(keys[:-1], known)  # (... query, codes)
        if of is None:
            return replicated
        shape, sharding = known[of]
        if shape == leaf.shape:
            return sharding
        return _cut_as(sharding, leaf.shape) if len(shape) == len(leaf.shape) and keys[-1] == SCALES else replicated

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params))
