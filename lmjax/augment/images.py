"""Random changes of one image, each a pure function of (image, key): for `jax.vmap` over a batch, inside `jax.jit`.

An image is float32 (h, w, 3) from 0 to 255, and stays that. The options are the leaves of config.data.augment; `fill`
is the level of what comes into sight from outside of the image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lmjax.augment import affine, colour

RATIO = 4 / 3  # a crop's sides are at most as unequal as this; Szegedy et al. 2015, arXiv:1409.4842, section 6


def crop(image_hwc: jax.Array, key: jax.Array, *, area: float = 0.3) -> jax.Array:
    """A rectangle of at least `area` of the image, stretched over all of it; Szegedy et al. 2015, section 6.

    Sides are as unequal as fits the image: nothing is drawn again, and an area of 1 changes nothing.
    """
    share, ratio, x, y = jax.random.uniform(key, (4,))
    share = area + (1 - area) * share
    ratio = jnp.minimum(RATIO, 1 / share) ** (2 * ratio - 1)
    h, w, _ = image_hwc.shape
    width, height = w * jnp.sqrt(share * ratio), h * jnp.sqrt(share / ratio)
    return affine.warp(image_hwc, affine.window((h, w), x * (w - width), y * (h - height), width, height))


def flip(image_hwc: jax.Array, key: jax.Array) -> jax.Array:
    """Left and right change places, or not."""
    return jnp.where(jax.random.bernoulli(key), image_hwc[:, ::-1], image_hwc)


def rotate(image_hwc: jax.Array, key: jax.Array, *, degrees: float = 15.0, fill: float = affine.GREY) -> jax.Array:
    """Turned about the middle by at most `degrees` either way."""
    return affine.warp(image_hwc, affine.rotation(image_hwc.shape[:2], _between(key, -degrees, degrees)), fill=fill)


def scale(image_hwc: jax.Array, key: jax.Array, *, zoom: float = 0.2, fill: float = affine.GREY) -> jax.Array:
    """Larger or smaller about the middle, by a factor from 1 / (1 + zoom) to 1 + zoom, both as likely."""
    factor = (1 + zoom) ** _between(key, -1, 1)
    return affine.warp(image_hwc, affine.scaling(image_hwc.shape[:2], factor), fill=fill)


def translate(image_hwc: jax.Array, key: jax.Array, *, shift: float = 0.1, fill: float = affine.GREY) -> jax.Array:
    """Moved by at most the share `shift` of its sides."""
    h, w, _ = image_hwc.shape
    right, down = _between(key, -shift, shift, (2,))
    return affine.warp(image_hwc, affine.shift(w * right, h * down), fill=fill)


def brightness(image_hwc: jax.Array, key: jax.Array, *, jitter: float = 0.4) -> jax.Array:
    """Times a factor from 1 - jitter to 1 + jitter."""
    return colour.brightness(image_hwc, _between(key, 1 - jitter, 1 + jitter))


def contrast(image_hwc: jax.Array, key: jax.Array, *, jitter: float = 0.4) -> jax.Array:
    """Contrast times a factor from 1 - jitter to 1 + jitter."""
    return colour.contrast(image_hwc, _between(key, 1 - jitter, 1 + jitter))


def saturation(image_hwc: jax.Array, key: jax.Array, *, jitter: float = 0.4) -> jax.Array:
    """Saturation times a factor from 1 - jitter to 1 + jitter."""
    return colour.saturation(image_hwc, _between(key, 1 - jitter, 1 + jitter))


def hue(image_hwc: jax.Array, key: jax.Array, *, turn: float = 0.1) -> jax.Array:
    """Every hue turned by at most `turn` of the circle, all by the same."""
    return colour.hue(image_hwc, _between(key, -turn, turn))


OPERATIONS = (
    "identity", "autocontrast", "equalize", "posterize", "solarize", "saturation", "contrast", "brightness",
    "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
MOVES = OPERATIONS.index("rotate")  # the first of those that move pixels


def rand_augment(
    image_hwc: jax.Array, key: jax.Array, *, operations: int = 2, magnitude: float = 9.0, fill: float = affine.GREY
) -> jax.Array:
    """`operations` of OPERATIONS, drawn with replacement, each by `magnitude` out of 10.

    Cubuk et al. 2020, arXiv:1909.13719; the ranges are those of AutoAugment (Cubuk et al. 2019, table 6), with
    magnitudes that all grow in strength and a random sign.
    """

    def one(image_hwc, key):
        which, sign = jax.random.split(key)
        signed = jnp.where(jax.random.bernoulli(sign), 1.0, -1.0) * magnitude / 10
        which = jax.random.randint(which, (), 0, len(OPERATIONS))
        return operation(image_hwc, which, signed, fill), None

    return jax.lax.scan(one, image_hwc, jax.random.split(key, operations))[0]  # compiled once


def operation(image_hwc: jax.Array, which: jax.Array, signed: jax.Array, fill: float = affine.GREY) -> jax.Array:
    """Operation number `which` of OPERATIONS by a strength from -1 to 1; its sign counts where there are two ways.

    All that move pixels go through one warp, for a batch under vmap takes every branch.
    """
    h, w, _ = image_hwc.shape
    still, strength, factor = affine.shift(0.0, 0.0), jnp.abs(signed), 1 + 0.9 * signed
    maps = [still] * MOVES + [
        affine.rotation((h, w), 30 * signed),
        affine.shear((h, w), 0.3 * signed, 0.0),
        affine.shear((h, w), 0.0, 0.3 * signed),
        affine.shift(0.45 * w * signed, 0.0),
        affine.shift(0.0, 0.45 * h * signed),
    ]
    colours = [
        colour.autocontrast,
        colour.equalize,
        lambda image: colour.posterize(image, 8 - jnp.round(4 * strength)),
        lambda image: colour.solarize(image, 256 * (1 - strength)),
        lambda image: colour.saturation(image, factor),
        lambda image: colour.contrast(image, factor),
        lambda image: colour.brightness(image, factor),
        lambda image: colour.sharpness(image, factor),
    ]
    moved = affine.warp(image_hwc, jnp.stack(maps)[which], fill=fill)
    moved = jax.lax.optimization_barrier(
        moved
    )  # else XLA fuses it into, and repeats it for, every branch: 3 times as slow
    return jax.lax.switch(jnp.where(which < MOVES, which, 0), [lambda image: image, *colours], moved)


def _between(key: jax.Array, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=low, maxval=high)


IMAGE = {
    "crop": crop,
    "flip": flip,
    "rotate": rotate,
    "scale": scale,
    "translate": translate,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "rand_augment": rand_augment,
}
