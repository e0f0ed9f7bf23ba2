"""Changes of an image's colours: the operations of Pillow's ImageEnhance and ImageOps, and hue, for float images.

An image is float32 (h, w, 3): red, green, blue from 0 to 255. A factor of 1 changes nothing and 0 takes all of that
property away. Results are not rounded to whole levels, except where an operation is one of levels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey
LEVELS = 256


def brightness(image_hwc: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with black."""
    return _blend(jnp.zeros_like(image_hwc), image_hwc, factor)


def contrast(image_hwc: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with the mean of its own grey."""
    return _blend(jnp.mean(grey(image_hwc)), image_hwc, factor)


def saturation(image_hwc: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with its own grey, pixel by pixel."""
    return _blend(grey(image_hwc), image_hwc, factor)


def sharpness(image_hwc: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with itself smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the pixels at the edge stay."""
    h, w, _ = image_hwc.shape
    rows = image_hwc[:-2] + image_hwc[1:-1] + image_hwc[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image_hwc[1:-1, 1:-1]
    smooth = jax.lax.dynamic_update_slice(image_hwc, sums / 13, (1, 1, 0)) if min(h, w) > 2 else image_hwc
    return _blend(smooth, image_hwc, factor)


def hue(image_hwc: jax.Array, turn: jax.Array) -> jax.Array:
    """Turns every colour round the hues of HSV: a turn of 1 is all the way, 1/3 makes red green."""
    red, green, blue = jnp.moveaxis(image_hwc, -1, 0)
    value_hw, least_hw = jnp.max(image_hwc, -1), jnp.min(image_hwc, -1)
    chroma_hw = value_hw - least_hw
    safe_hw = jnp.where(chroma_hw > 0, chroma_hw, 1.0)
    sixth_hw = jnp.where(
        value_hw == red,
        (green - blue) / safe_hw,
        jnp.where(value_hw == green, 2 + (blue - red) / safe_hw, 4 + (red - green) / safe_hw),
    )
    sixth_hw = jnp.where(chroma_hw > 0, sixth_hw, 0.0) + 6 * turn

    def channel(n):
        """Smith 1978, in the form of one formula for all three channels."""
        k_hw = (n + sixth_hw) % 6
        return value_hw - chroma_hw * jnp.clip(jnp.minimum(k_hw, 4 - k_hw), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def invert(image_hwc: jax.Array) -> jax.Array:
    """The negative."""
    return 255 - image_hwc


def solarize(image_hwc: jax.Array, threshold: jax.Array) -> jax.Array:
    """What is as bright as the threshold or brighter, inverted."""
    return jnp.where(image_hwc < threshold, image_hwc, 255 - image_hwc)


def posterize(image_hwc: jax.Array, bits: jax.Array) -> jax.Array:
    """Only the first `bits` (1 to 8) of the 8 bits of each level."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image_hwc) / step) * step


def autocontrast(image_hwc: jax.Array) -> jax.Array:
    """Each channel stretched from 0 to 255."""
    low, high = jnp.min(image_hwc, (0, 1)), jnp.max(image_hwc, (0, 1))
    flat = high <= low
    stretched = (image_hwc - low) * (255 / jnp.where(flat, 1.0, high - low))
    return jnp.where(flat, image_hwc, stretched)


def equalize(image_hwc: jax.Array) -> jax.Array:
    """Each channel with its levels moved so that all are about as frequent, as Pillow does it."""
    levels_hwc = jnp.clip(jnp.round(image_hwc), 0, 255).astype(jnp.int32)

    def channel(levels_n):
        counts = jnp.zeros(LEVELS, jnp.int32).at[levels_n].add(1)
        step = (levels_n.size - counts[jnp.max(levels_n)]) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.where(step > 0, (step // 2 + before) // jnp.maximum(step, 1), jnp.arange(LEVELS))
        return jnp.minimum(table, 255)[levels_n].astype(image_hwc.dtype)

    flat = levels_hwc.reshape(-1, 3)
    return jax.vmap(channel, in_axes=1, out_axes=1)(flat).reshape(image_hwc.shape)


def grey(image_hwc: jax.Array) -> jax.Array:
    """(h, w, 1)"""
    red, green, blue = jnp.split(image_hwc, 3, -1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue  # a reduction over three numbers takes 40 times as long


def _blend(other: jax.Array, image_hwc: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(other + (image_hwc - other) * factor, 0, 255)
