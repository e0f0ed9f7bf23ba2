"""Encoders of text, BERT- and RoBERTa-shaped: every token sees its whole document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError
from lmjax.layers.linear import project
from lmjax.layers.readout import Readout
from lmjax.layers.transformer import EMBED_STD, Transformer
from lmjax.models.sections import shape
from lmjax.sharding import constrain, param


class Encoder(nn.Module):
    """Tokens to logits of what stood in their places, for masked language modelling; Devlin et al. 2019, section 3.1.

    Of a batch it reads `tokens`, `segments`, `positions` and, with `types` kinds of them, `types` (0 where the batch
    has none). Parameters: `embed` (v, d), `types` (n, d), those of `Transformer`, and for the logits `transform`,
    `transform_bias`, `transform_norm`, the table `head` (v, d) unless it is that of the embeddings, and `head_bias` (v).
    """

    transformer: Transformer
    vocab: int
    types: int = 2
    tied: bool = True
    vocab_multiple: int = 128

    def setup(self):
        nn.share_scope(self, self.transformer)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Logits (b, t, padded v) in float32."""
        x_btd, readout = self.features(batch, train=train)
        return readout.logits(x_btd)

    def features(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, Readout]:
        """Features (b, t, d), transformed for the readout, and the readout: for losses over some of the positions."""
        return self.run(batch, train=train)[1:]

    def trunk(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features (b, t, d) and segments (b, t), without a readout: for other heads."""
        return self.run(batch, train=train, read=False)[0], batch["segments"]

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @nn.compact
    def run(
        self, batch: Mapping[str, jax.Array], *, train: bool, read: bool = True
    ) -> tuple[jax.Array, jax.Array | None, Readout | None]:
        """Features (b, t, d), and to `read` masked words these transformed, and the readout."""
        if batch["tokens"].ndim != 2:
            raise UserError(
                f"tokens of {batch['tokens'].ndim} dimensions: rows of several texts (data.kind=choices) are for "
                "model.kind=encoder_chooser, rows of one for the other encoders"
            )
        dtype, d = self.transformer.shape.dtype, self.transformer.shape.width
        init = nn.initializers.normal(EMBED_STD)
        embed_vd = param(self, "embed", "vd", (self.padded_vocab(), d), init)
        x_btd = jnp.take(embed_vd, batch["tokens"], axis=0).astype(dtype)
        if self.types:
            types_nd = param(self, "types", "nd", (self.types, d), init).astype(dtype)
            x_btd = x_btd + (jnp.take(types_nd, batch["types"], axis=0) if "types" in batch else types_nd[0])
        x_btd, _ = self.transformer(x_btd, batch["segments"], batch["positions"], train=train)
        return x_btd, *(self._read(x_btd, embed_vd) if read else (None, None))

    def _read(self, x_btd: jax.Array, embed_vd: jax.Array) -> tuple[jax.Array, Readout]:
        """The published code's head: a linear map, GELU and a norm before the table, and a bias of every id."""
        d = x_btd.shape[-1]
        kernel_fd = param(self, "transform", "fd", (d, d), nn.initializers.normal(d**-0.5))
        bias_d = param(self, "transform_bias", "d", (d,), nn.initializers.zeros)
        x_btd = jax.nn.gelu(project("btf,fd->btd", x_btd, kernel_fd) + bias_d.astype(x_btd.dtype), approximate=False)
        x_btd = constrain(self.transformer.shape.make_norm()(name="transform_norm")(x_btd), "btd")
        table_vd = embed_vd
        if not self.tied:
            table_vd = param(self, "head", "vd", embed_vd.shape, nn.initializers.normal(EMBED_STD))
        bias_v = param(self, "head_bias", "v", embed_vd.shape[:1], nn.initializers.zeros)
        return x_btd, Readout(table_vd, self.vocab, bias_v=bias_v)


def encoder(
    section: ConfigDict, *, vocab: int, length: int, platform: str, dtype: Any, multiple: int | None = None, **_: Any
) -> Encoder:
    """An `Encoder` of a config's section."""
    if section.types < 0:
        raise UserError(f"model.types={section.types}: 0 or more, how many kinds of text a row may have")
    made = shape(section, lengths=(length,), multiple=multiple, platform=platform, dtype=dtype)
    return Encoder(Transformer(made), vocab, section.types, section.tied, section.vocab_multiple)
