"""Images as tokens: squares of pixels through one linear map, and the row of positions that they and a text make."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.linear import project
from lmjax.sharding import param

STD = 0.02  # of the learned positions, as of the embeddings beside them


class Patches(nn.Module):
    """Squares of `size` pixels a side, in raster order, mapped to `width`, with learned places: Dosovitskiy et al. 2021.

    arXiv:2010.11929, eq. 1; the place of a patch is that of its row plus that of its column. Takes images (b, s, s, 3)
    from 0 to 255, integers or not; gives (b, p, d) in `dtype`. Raises ValueError when `size` does not divide s.
    """

    size: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        b, height, breadth, colours = image.shape
        size, d = self.size, self.width
        if height % size or breadth % size:
            raise ValueError(f"patches of {size} x {size} pixels do not tile images of {height} x {breadth}")
        rows, columns = height // size, breadth // size
        x = (image.astype(jnp.float32) / 127.5 - 1).reshape(b, rows, size, columns, size, colours)
        pixels = size * size * colours
        x_bpi = x.swapaxes(2, 3).reshape(b, rows * columns, pixels).astype(self.dtype)
        kernel_id = param(self, "kernel", "id", (pixels, d), nn.initializers.lecun_normal())
        row_pd = param(self, "row", "pd", (rows, d), nn.initializers.normal(STD))
        column_pd = param(self, "column", "pd", (columns, d), nn.initializers.normal(STD))
        place_pd = (row_pd[:, None] + column_pd[None]).reshape(rows * columns, d)
        return project("bpi,id->bpd", x_bpi, kernel_id) + place_pd.astype(self.dtype)


class Inputs(NamedTuple):
    """What a stack of blocks runs over."""

    x_btd: jax.Array
    segments_bt: jax.Array
    positions_bt: jax.Array


def of_image(patches_bpd: jax.Array) -> Inputs:
    """Patches as the beginning of a row's first document; their positions end at -1, for the text's begin at 0."""
    shape = patches_bpd.shape[:2]
    positions_bp = jnp.broadcast_to(jnp.arange(-shape[1], 0), shape)
    return Inputs(patches_bpd, jnp.ones(shape, jnp.int32), positions_bp)


def joined(image: Inputs, text: Inputs) -> Inputs:
    """The image, then the text."""
    return Inputs(*(jnp.concatenate(pair, axis=1) for pair in zip(image, text, strict=True)))


def behind_padding(image: Inputs, text: Inputs) -> Inputs:
    """Like `joined` for texts that are padded on the left: padding, image, text, so that no gap parts the last two."""
    p, t = image.segments_bt.shape[1], text.segments_bt.shape[1]
    pad_b1, slots = _padding(text.segments_bt), jnp.arange(p + t)
    from_bt = jnp.where(slots < pad_b1, p + slots, jnp.where(slots < pad_b1 + p, slots - pad_b1, slots))
    return Inputs(*(_take(x, from_bt) for x in joined(image, text)))


def text_behind_padding(x_btd: jax.Array, segments_bt: jax.Array) -> jax.Array:
    """The text's positions, padding included, of a row that `behind_padding` made; its segments are the text's."""
    t = segments_bt.shape[1]
    p, slots = x_btd.shape[1] - t, jnp.arange(t)
    return _take(x_btd, jnp.where(slots < _padding(segments_bt), slots, p + slots))


def _padding(segments_bt: jax.Array) -> jax.Array:
    """How many positions are before the first token of each row, (b, 1)."""
    return jnp.sum(jnp.cumsum(segments_bt > 0, axis=1) == 0, axis=1, keepdims=True)


def _take(x: jax.Array, from_bt: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, from_bt if x.ndim == 2 else from_bt[..., None], axis=1)
