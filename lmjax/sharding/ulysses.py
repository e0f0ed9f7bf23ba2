"""From a cut through the length to a cut through the heads and back: DeepSpeed-Ulysses.

Jacobs et al. 2023, arXiv:2309.14509. Every device then has whole rows of some heads, and any attention will do. Both
functions run inside `shard_map`, on one device's arrays.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def whole_rows(x_bthk: jax.Array, axis: str, size: int) -> jax.Array:
    """(b, t, h, k) of all heads and a part of the length: a part of the heads, and the whole length."""
    return jax.lax.all_to_all(x_bthk, axis, split_axis=2, concat_axis=1, tiled=True) if size > 1 else x_bthk


def whole_heads(x_bthk: jax.Array, axis: str, size: int) -> jax.Array:
    """The way back."""
    return jax.lax.all_to_all(x_bthk, axis, split_axis=1, concat_axis=2, tiled=True) if size > 1 else x_bthk


def enough_heads(x_bsgk: jax.Array, size: int) -> jax.Array:
    """Key/value heads repeated as often as it takes for `size` devices to have equally many."""
    times = size // math.gcd(size, x_bsgk.shape[2])
    return jnp.repeat(x_bsgk, times, axis=2) if times > 1 else x_bsgk
