"""Optimizer state in 16 or 8 bits: kept small between steps, float32 while a step computes.

bfloat16 is float32 without its last 16 bits. int8 is after Dettmers et al. 2022, arXiv:2110.02861: each block has a scale
of its own, its largest magnitude, and codes that are dense near zero; arrays of fewer than 4096 numbers stay float32, as
there (section 2.3). Two things differ. A code c stands for (c / 127)^4 of the scale, which spans the seven decades of
their table of exponents without a table. And rounding is by chance with the right mean, where theirs is to the nearest:
a second moment with b2 = 0.999 changes by a thousandth a step, which the nearest code would lose every time. Chance is
a hash of the number and the step, so a run repeats itself bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import unknown

SMALLEST = 4096  # numbers in an array that is worth it
BLOCK = 256  # numbers under one scale, at most; Dettmers et al. have 2048, which would cross shards
LEVELS = 127


class Packed(NamedTuple):
    """codes: int8, of the array's shape; scales: float32, one for each block of its last axis."""

    codes: jax.Array
    scales: jax.Array


def compact(inner: optax.GradientTransformation, kind: str, known: dict) -> optax.GradientTransformationExtraArgs:
    """`inner` with what is like a parameter in its state kept in `kind`; `update` takes the `step`, for its chances.

    known: key paths of the parameters, with their shapes. What has another shape (counts, factored moments) stays.
    """
    inner, small = optax.with_extra_args_support(inner), KINDS[kind]

    def kept(state, step):
        def one(keys, leaf):
            of = parameter(keys, known)
            moment = of is not None and known[of] == leaf.shape and leaf.dtype == jnp.float32
            return small(leaf, step) if moment and leaf.size >= SMALLEST else leaf

        return jax.tree_util.tree_map_with_path(one, state)

    def init(params):
        return kept(inner.init(params), jnp.uint32(0))

    def update(updates, state, params=None, *, step, **more):
        updates, state = inner.update(updates, jax.tree.map(whole, state, is_leaf=is_packed), params, step=step, **more)
        return updates, kept(state, step)

    return optax.GradientTransformationExtraArgs(init, update)


def moments(section: Any) -> str:
    """optim.moments: how state that is like the parameters is kept. Runs from before have no such leaf."""
    kind = getattr(section, "moments", "float32")
    if kind not in ("float32", *KINDS):
        raise unknown("value of optim.moments", kind, ("float32", *KINDS))
    return kind


def parameter(keys: tuple, known: dict) -> tuple | None:
    """Which parameter's path ends a path in a state: (... mu, blocks, attention, query) has one in it."""
    return next((keys[start:] for start in range(len(keys)) if keys[start:] in known), None)


def is_packed(x: Any) -> bool:
    return isinstance(x, Packed)


def whole(x: Any) -> jax.Array:
    """The float32 array again; anything else as it is."""
    if not is_packed(x):
        return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    share = (jnp.abs(x.codes.astype(jnp.float32)) / LEVELS) ** 4 * jnp.sign(x.codes).astype(jnp.float32)
    return _blocked(share, x.scales.shape[-1], jnp.multiply, x.scales)


def bfloat16(x: jax.Array, step: jax.Array) -> jax.Array:
    """Rounded up with the probability that the mean asks for."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits + (chance(x, step) >> 16)) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def int8(x: jax.Array, step: jax.Array) -> Packed | jax.Array:
    """Codes and scales; nothing but 0 becomes 0, for the root of a second moment divides. Odd sizes stay as they are."""
    size = max(n for n in range(1, BLOCK + 1) if x.shape[-1] % n == 0)
    if size < BLOCK // 16:
        return x
    blocks = x.shape[-1] // size
    scales = jnp.max(jnp.abs(x).reshape(*x.shape[:-1], blocks, size), axis=-1)
    share = _blocked(jnp.abs(x), blocks, jnp.divide, jnp.where(scales > 0, scales, 1))
    below = jnp.minimum(jnp.floor(LEVELS * jnp.sqrt(jnp.sqrt(share))), LEVELS - 1)
    low, high = ((code / LEVELS) ** 4 for code in (below, below + 1))
    up = (chance(x, step) >> 8).astype(jnp.float32) * 2.0**-24 * (high - low) < share - low
    codes = jnp.maximum(below + up, share > 0)
    return Packed((codes * jnp.sign(x)).astype(jnp.int8), scales)


def _blocked(x: jax.Array, blocks: int, operation: Callable, scales: jax.Array) -> jax.Array:
    return operation(x.reshape(*x.shape[:-1], blocks, -1), scales[..., None]).reshape(x.shape)


def chance(x: jax.Array, step: jax.Array) -> jax.Array:
    """32 bits for each number, as good as random: MurmurHash3's last mixing of the number's bits and the step."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) ^ (jnp.asarray(step, jnp.uint32) * jnp.uint32(0x9E3779B9))
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


KINDS = {"bfloat16": bfloat16, "int8": int8}
