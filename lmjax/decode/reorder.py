"""Caches of beams: from one row a prompt to one row a beam, and from the beams of a step to those that go on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SHARED = "source"  # of a cache: the part that the first call makes of a source, and no later one changes
POSITIONS = 16  # of a cache that are moved at a time
SELECTED = 8  # beams up to which one is selected out of all: on a CPU ten times as fast as a gather


class Axes(NamedTuple):
    """Of an array of a cache: its rank, and the axes of rows and of positions, -1 where it has none."""

    rank: int
    rows: int
    length: int


def cache_axes(cache_of: Callable[[int, int], Any]) -> tuple[Axes, ...]:
    """`Axes` of every array of the cache of so many rows and positions, found by what changes with these numbers."""
    one, other = jax.eval_shape(partial(cache_of, 2, 64)), jax.eval_shape(partial(cache_of, 3, 128))

    def of(x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Axes:
        pairs = list(zip(x.shape, y.shape, strict=True))
        rows = next((i for i, pair in enumerate(pairs) if pair == (2, 3)), -1)
        return Axes(len(pairs), rows, next((i for i, (a, b) in enumerate(pairs) if a != b and i != rows), -1))

    return tuple(of(x, y) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def spread(cache: Any, axes: Any, beams: int) -> Any:
    """The cache of b rows for b * beams of them; an array without a row axis, as one row may be kept, gets it."""

    def one(x: jax.Array, axis: Axes) -> jax.Array:
        if axis.rows < 0:
            return x
        x = x if x.ndim == axis.rank else jnp.expand_dims(x, axis.rows)
        return jnp.repeat(x, beams, axis=axis.rows)

    return jax.tree.map(one, cache, axes)


def reorder(cache: dict, axes: dict, parent_bk: jax.Array, length: int, before: int, step: jax.Array) -> dict:
    """The cache whose beams go on from their parents, of the same prompt, after the token of a step has been written.

    Positions up to `before` of `length` are the prompt's (an image's stand in front of these), and what is kept of a
    source is its own: the same for all beams. So only what the steps have written is moved, a few positions at a time.
    """

    def one(x: jax.Array, axis: Axes) -> jax.Array:
        if axis.rows < 0:
            return x
        if axis.length < 0:
            return _of_parents(x, axis.rows, parent_bk)
        all = x.shape[axis.length]
        size = next(n for n in range(POSITIONS, 0, -1) if all % n == 0)
        first = all - length + before

        def move(block: jax.Array, x: jax.Array) -> jax.Array:
            some = jax.lax.dynamic_slice_in_dim(x, block * size, size, axis.length)
            some = _of_parents(some, axis.rows, parent_bk)
            return jax.lax.dynamic_update_slice_in_dim(x, some, block * size, axis.length)

        return jax.lax.fori_loop(first // size, (first + step) // size + 1, move, x)

    return {name: part if name == SHARED else jax.tree.map(one, part, axes[name]) for name, part in cache.items()}


def _of_parents(x: jax.Array, axis: int, parent_bk: jax.Array) -> jax.Array:
    """An array of the beams' rows, b * k on an axis, with each row that of its parent, of the same prompt."""
    b, k = parent_bk.shape
    if k > SELECTED:
        return jnp.take(x, (jnp.arange(b)[:, None] * k + parent_bk).reshape(-1), axis=axis)
    shape = x.shape
    x = x.reshape(*shape[:axis], b, k, *shape[axis + 1 :])
    parent = parent_bk.reshape((1,) * axis + (b, k) + (1,) * (len(shape) - axis - 1))
    found = jax.lax.slice_in_dim(x, 0, 1, axis=axis + 1)
    for beam in range(1, k):
        found = jnp.where(parent == beam, jax.lax.slice_in_dim(x, beam, beam + 1, axis=axis + 1), found)
    return found.reshape(shape)
