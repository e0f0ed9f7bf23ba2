"""Images moved by affine maps: rotated, scaled, shifted, sheared, cropped, with bilinear interpolation.

An image is float32 (h, w, c), from 0 to 255. A map is a (2, 3) array that gives for a point (x, y) of the output the
point of the input seen there, in pixels; pixel (i, j) covers x from j to j + 1 and y from i to i + 1. That is
Pillow's `Image.transform(AFFINE)`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

GREY = 128.0  # what is seen outside of the image; Cubuk et al. 2020 fill with it too


def warp(image_hwc: jax.Array, from_23: jax.Array, *, fill: float = GREY) -> jax.Array:
    """The image seen through a map; `fill` where that is outside of it. At the edge the nearest pixels count."""
    h, w, _ = image_hwc.shape
    y_hw, x_hw = jnp.meshgrid(jnp.arange(h) + 0.5, jnp.arange(w) + 0.5, indexing="ij")
    (a, b, c), (d, e, f) = from_23
    x_hw, y_hw = a * x_hw + b * y_hw + c, d * x_hw + e * y_hw + f
    inside_hw = (x_hw >= 0) & (x_hw < w) & (y_hw >= 0) & (y_hw < h)
    left_hw, top_hw = jnp.floor(x_hw - 0.5), jnp.floor(y_hw - 0.5)
    right_hw1, below_hw1 = (x_hw - 0.5 - left_hw)[..., None], (y_hw - 0.5 - top_hw)[..., None]

    def pixel(y, x):
        return image_hwc[jnp.clip(y, 0, h - 1).astype(jnp.int32), jnp.clip(x, 0, w - 1).astype(jnp.int32)]

    above = pixel(top_hw, left_hw) * (1 - right_hw1) + pixel(top_hw, left_hw + 1) * right_hw1
    below = pixel(top_hw + 1, left_hw) * (1 - right_hw1) + pixel(top_hw + 1, left_hw + 1) * right_hw1
    return jnp.where(inside_hw[..., None], above * (1 - below_hw1) + below * below_hw1, fill)


def rotation(size_hw: tuple[int, int], degrees: jax.Array) -> jax.Array:
    """Turns counter-clockwise about the middle."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _about_middle(size_hw, cos, -sin, sin, cos)


def scaling(size_hw: tuple[int, int], factor: jax.Array) -> jax.Array:
    """Makes larger (factor above 1) or smaller about the middle."""
    return _about_middle(size_hw, 1 / factor, 0.0, 0.0, 1 / factor)


def shear(size_hw: tuple[int, int], along_x: jax.Array, along_y: jax.Array) -> jax.Array:
    """Each row is moved by along_x times its distance from the middle, each column by along_y times its own."""
    return _about_middle(size_hw, 1.0, along_x, along_y, 1.0)


def shift(right: jax.Array, down: jax.Array) -> jax.Array:
    """Moves by pixels."""
    return _map(1.0, 0.0, -right, 0.0, 1.0, -down)


def window(size_hw: tuple[int, int], left: jax.Array, top: jax.Array, width: jax.Array, height: jax.Array) -> jax.Array:
    """A rectangle of the image, in pixels, stretched over all of it."""
    h, w = size_hw
    return _map(width / w, 0.0, left, 0.0, height / h, top)


def _about_middle(size_hw, a, b, d, e) -> jax.Array:
    h, w = size_hw
    return _map(a, b, w / 2 - a * w / 2 - b * h / 2, d, e, h / 2 - d * w / 2 - e * h / 2)


def _map(*numbers) -> jax.Array:
    return jnp.stack([jnp.asarray(number, jnp.float32) for number in numbers]).reshape(2, 3)
