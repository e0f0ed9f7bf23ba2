"""Encoder-decoders: the original Transformer, T5- and BART-shaped models and what lies between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError
from lmjax.layers.readout import Readout
from lmjax.layers.stack import layer_slices
from lmjax.layers.transformer import EMBED_STD, Memory, Transformer
from lmjax.models.sections import shape
from lmjax.sharding import param


class Seq2Seq(nn.Module):
    """Logits of each next token of a target after those before it and its whole source; Vaswani et al. 2017, section 3.

    Of a batch it reads `source`, `source_segments`, `source_positions` (b, s) and `tokens`, `segments`, `positions`
    (b, t); targets see the source of their own segment. Parameters: `embed` (v, d) for both sides, `encoder` and
    `decoder` as `Transformer` has them, and `head` (v, d) unless it is the embeddings.
    """

    encoder: Transformer
    decoder: Transformer
    vocab: int
    tied: bool = True
    readout_scale: bool = False  # features by 1 / sqrt(d) before the readout, as in T5 1.0
    vocab_multiple: int = 128

    def setup(self):
        sizes = (self.padded_vocab(), self.decoder.shape.width)
        # A readout that is scaled down has embeddings of variance 1 in T5's published code: the logits start alike.
        std = 1.0 if self.readout_scale else EMBED_STD
        self.embed_vd = param(self, "embed", "vd", sizes, nn.initializers.normal(std))
        self.head_vd = None
        if not self.tied:
            self.head_vd = param(self, "head", "vd", sizes, nn.initializers.normal(sizes[1] ** -0.5))

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, cache: Any = None) -> Any:
        """Logits (b, t, padded v), in training in the compute dtype; with a cache, (logits, the cache after these tokens).

        The first call with a cache has the source in its batch, which is encoded then, and whose keys and values are
        kept; later ones have the tokens only.
        """
        if cache is None:
            x_btd, readout = self.features(batch, train=train)
            return readout.logits(x_btd, rounded=train)
        if "source" not in batch and "source" not in cache:
            raise UserError("a model.kind=seq2seq writes what belongs to a source, and there is none")
        memory = self.encode(batch) if "source" in batch else None
        x_btd, cache = self._decode(batch, memory, train=False, cache=cache)
        return self._readout().logits(x_btd), cache

    def features(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, Readout]:
        """What the logits are made of: features (b, t, d) and the readout, for losses that work in chunks."""
        memory = self.encode(batch, train=train)
        return self._decode(batch, memory, train=train, cache=None)[0], self._readout()

    def encode(self, batch: Mapping[str, jax.Array], *, train: bool = False) -> Memory:
        """What the encoder makes of the source, (b, s, d)."""
        x_bsd = self._embedded(batch["source"])
        segments_bs, positions_bs = batch["source_segments"], batch["source_positions"]
        return Memory(self.encoder(x_bsd, segments_bs, positions_bs, train=train)[0], segments_bs)

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    def init_cache(self, batch_size: int, length: int) -> dict:
        """An empty cache for `length` tokens of the target; the first call adds `source`, which does not change."""
        return self.decoder.init_cache(batch_size, length)

    def for_decoding(self, params: dict) -> dict:
        """The parameters for calls with a cache only: the decoder's layers apart, weights in the compute dtype."""
        dtype = self.decoder.shape.dtype

        def cast(leaf: jax.Array) -> jax.Array:
            return leaf.astype(dtype) if leaf.ndim > 1 else leaf

        layers = jax.tree.map(cast, layer_slices(params["decoder"]["blocks"], self.decoder.shape.depth))
        encoder = params["encoder"] | {"blocks": jax.tree.map(cast, params["encoder"]["blocks"])}
        tables = {name: cast(params[name]) for name in ("embed", "head") if name in params}
        return {**params, **tables, "encoder": encoder, "decoder": params["decoder"] | {"blocks": layers}}

    @property
    def position(self) -> str:
        return self.decoder.shape.position

    @property
    def max_length(self) -> int:
        """Positions of the target, where they are learned."""
        return self.decoder.shape.max_length

    def _decode(self, batch, memory: Memory | None, *, train: bool, cache: Any) -> tuple[jax.Array, Any]:
        x_btd = self._embedded(batch["tokens"])
        x_btd, cache = self.decoder(
            x_btd, batch["segments"], batch["positions"], train=train, memory=memory, cache=cache
        )
        scale = self.decoder.shape.width**-0.5 if self.readout_scale else 1.0
        return x_btd * jnp.asarray(scale, x_btd.dtype), cache

    def _embedded(self, tokens_bt: jax.Array) -> jax.Array:
        return jnp.take(self.embed_vd, tokens_bt, axis=0).astype(self.decoder.shape.dtype)

    def _readout(self) -> Readout:
        return Readout(self.embed_vd if self.head_vd is None else self.head_vd, self.vocab)


def seq2seq(
    section: ConfigDict, *, vocab: int, length: int, source_length: int, platform: str, dtype: Any,
    multiple: int | None = None, **_: Any,
) -> Seq2Seq:  # fmt: skip
    """A `Seq2Seq` of a config's section."""
    if section.decoder_depth is not None and section.decoder_depth < 1:
        raise UserError(f"model.decoder_depth={section.decoder_depth}: it must be positive")
    lengths = (length, source_length)
    made = shape(section, lengths=lengths, multiple=multiple, platform=platform, dtype=dtype)
    made = dataclasses.replace(made, scaled=section.scaled)
    decoder = dataclasses.replace(made, depth=section.decoder_depth or section.depth)
    return Seq2Seq(
        Transformer(made), Transformer(decoder, "causal", cross=True), vocab, section.tied, section.readout_scale,
        section.vocab_multiple,
    )  # fmt: skip
