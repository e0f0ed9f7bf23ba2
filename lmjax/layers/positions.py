"""Position encodings: rotary with scaling, sinusoidal, ALiBi and T5-relative biases."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

POSITIONS = ("rope", "sinusoidal", "learned", "alibi", "t5", "none")
ROPE_SCALINGS = ("none", "linear", "ntk", "llama3")


def sinusoids(positions_bt: jax.Array, width: int) -> jax.Array:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(the same); Vaswani et al. 2017, section 3.5."""
    rate_k = jnp.asarray(10_000.0 ** (-np.arange(0, width, 2) / width), jnp.float32)
    angle_btk = positions_bt[..., None].astype(jnp.float32) * rate_k
    pairs = jnp.stack([jnp.sin(angle_btk), jnp.cos(angle_btk)], axis=-1)
    return pairs.reshape(*positions_bt.shape, 2 * len(rate_k))[..., :width]  # also where there is no position at all


def rotary_angles(
    positions_bt: jax.Array, head: int, base: float, scaling: str = "none", factor: float = 1.0,
    trained: int = 8192, low: float = 1.0, high: float = 4.0,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Cosine and sine (b, t, head/2) of position x base^(-2i/head); Su et al. 2021, arXiv:2104.09864, eq. 15.

    `linear` divides positions by `factor` (Chen et al. 2023, arXiv:2306.15595); `ntk` raises the base by
    factor^(head/(head-2)), which leaves the fastest pair alone and slows the slowest by `factor`; `llama3` slows by
    `factor` the pairs that turn fewer than `low` times in `trained` positions, leaves alone those that turn more than
    `high` times, and goes from the one to the other in a line between them (Llama 3.1's model code, `apply_scaling`).
    """
    if scaling == "ntk":
        base = base * factor ** (head / (head - 2))
    rate_k = base ** (-np.arange(0, head, 2) / head)
    if scaling == "llama3":
        kept_k = np.clip((trained * rate_k / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
        rate_k = kept_k * rate_k + (1 - kept_k) * rate_k / factor
    rate_k = jnp.asarray(rate_k, jnp.float32)
    angle_btk = positions_bt[..., None].astype(jnp.float32) * rate_k / (factor if scaling == "linear" else 1.0)
    return jnp.cos(angle_btk), jnp.sin(angle_btk)


def rotate(x_bthk: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate the pairs (i, i + head/2) of every head by `angles` from `rotary_angles`."""
    cos, sin = (a[:, :, None, :].astype(x_bthk.dtype) for a in angles)
    first, second = jnp.split(x_bthk, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def alibi_slopes(heads: int) -> np.ndarray:
    """2^(-8i/n) for n a power of two, else interleaved with the next power's; Press et al. 2022, arXiv:2108.12409."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    extra = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - power), 2) / power)
    return np.concatenate([slopes, extra]).astype(np.float32)


def alibi_bias(distance_ts: jax.Array, heads: int) -> jax.Array:
    """-slope x distance, as (h, t, s); `distance_ts` is query index minus key index."""
    return -jnp.asarray(alibi_slopes(heads))[:, None, None] * distance_ts.astype(jnp.float32)


def t5_buckets(distance_ts: jax.Array, buckets: int = 32, furthest: int = 128, *, pattern: str = "causal") -> jax.Array:
    """Bucket of each distance, of the query behind the key: exact below buckets/2, then logarithmic up to `furthest`.

    pattern: bidirectional has half of the buckets for keys that come later. Raffel et al. 2020, arXiv:1910.10683,
    section 2.1.
    """
    if pattern == "bidirectional":
        later_ts = jnp.where(distance_ts < 0, buckets // 2, 0)
        return later_ts + t5_buckets(jnp.abs(distance_ts), buckets // 2, furthest)
    distance = jnp.maximum(distance_ts, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(furthest / exact)
    far = exact + (ratio * (buckets - exact)).astype(jnp.int32)
    return jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
