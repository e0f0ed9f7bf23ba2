"""One label a row: the decoder's stack over a text, an image, or an image before a text, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.linear import project
from lmjax.layers.transformer import EMBED_STD
from lmjax.models.decoder import Decoder
from lmjax.sharding import constrain, param


class Classifier(nn.Module):
    """Rows to logits over their classes, from the features of the last position or the mean over all but padding.

    Parameters: those of the decoder that it shares its stack with, by the same names, so that a language model's fit
    in; without the readout, and `embed` or `patches` only where there are tokens or images; and `head` (n, d). The last
    position has seen all others (Radford et al. 2018, section 3.3); the mean weighs what each had seen by then.
    """

    decoder: Decoder
    classes: int
    pool: str = "last"

    def setup(self):
        nn.share_scope(self, self.decoder)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Logits (b, n) in float32."""
        x_btd, segments_bt = self.decoder.trunk(batch, train=train)
        x_bd = POOLING[self.pool](x_btd, segments_bt)
        shape = (self.classes, x_bd.shape[-1])
        head_nd = param(self, "head", "nd", shape, nn.initializers.normal(EMBED_STD))
        return constrain(project("bd,nd->bn", x_bd, head_nd, jnp.float32), "bn")

    def padded_vocab(self) -> int:
        return self.decoder.padded_vocab()


def last(x_btd: jax.Array, segments_bt: jax.Array) -> jax.Array:
    """The features (b, d) of the last position that is not padding; of the first where all are."""
    t = segments_bt.shape[1]
    at_b = jnp.max(jnp.where(segments_bt > 0, jnp.arange(t), 0), axis=1)
    return jnp.take_along_axis(x_btd, at_b[:, None, None], axis=1)[:, 0]


def mean(x_btd: jax.Array, segments_bt: jax.Array) -> jax.Array:
    """The mean (b, d), in float32, over the positions that are not padding; 0 where all are."""
    kept_bt = (segments_bt > 0).astype(jnp.float32)
    total_bd = jnp.einsum("btd,bt->bd", x_btd.astype(jnp.float32), kept_bt)
    return (total_bd / jnp.maximum(kept_bt.sum(axis=1, keepdims=True), 1)).astype(x_btd.dtype)


POOLING = {"last": last, "mean": mean}
