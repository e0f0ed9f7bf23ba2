"""Recurrent language models: Elman networks, LSTMs and GRUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.cells import CELLS, empty
from lmjax.layers.readout import Readout
from lmjax.layers.recurrent import Stack
from lmjax.sharding import constrain, param

EMBED_STD = 0.05  # about the uniform values within 0.1 and 0.05 of Zaremba et al. 2014, section 4.1


class Rnn(nn.Module):
    """Tokens to logits over the padded vocabulary, by states that start from zeros with every document of a row.

    With `truncate`, gradients go back so many tokens at most, and states go on (Mikolov et al. 2010, section 2.1).
    Parameters: `embed` (v, d), the layers of `stack`, and `head` (v, d) where it is not tied (Press & Wolf 2017).
    """

    vocab: int
    depth: int
    width: int
    cell: str = "lstm"
    truncate: int | None = None
    tied: bool = True
    vocab_multiple: int = 128
    dropout: float = 0.0
    dtype: Any = jnp.float32

    max_length = None  # tokens that it has positions for: it needs none
    position = "none"

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, cache: Any = None) -> Any:
        """Logits (b, t, padded v) in float32; with a cache from `init_cache`, (logits, the cache after this batch)."""
        x_btd, readout, cache_after = self._run(batch, train=train and cache is None, cache=cache)
        logits_btv = readout.logits(x_btd)
        return logits_btv if cache is None else (logits_btv, cache_after)

    def features(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, Readout]:
        """What the logits are made of: features (b, t, d) and the readout, for losses that work in chunks."""
        return self._run(batch, train=train, cache=None)[:2]

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    def init_cache(self, batch_size: int, length: int = 0) -> dict:
        """States of zeros before any token, and the `segment` (b,) that they belong to; any `length` fits in."""
        layers = [empty(self.cell, batch_size, self.width) for _ in range(self.depth)]
        return {"layers": layers, "segment": jnp.zeros(batch_size, jnp.int32)}

    def for_decoding(self, params: dict) -> dict:
        """The parameters for calls with a cache only: weights in the compute dtype, once for all."""
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype) if leaf.ndim > 1 else leaf, params)

    @nn.compact
    def _run(self, batch, *, train: bool, cache: Any) -> tuple[jax.Array, Readout, Any]:
        init, sizes = nn.initializers.normal(EMBED_STD), (self.padded_vocab(), self.width)
        embed_vd = param(self, "embed", "vd", sizes, init)
        x_btd = constrain(jnp.take(embed_vd, batch["tokens"], axis=0).astype(self.dtype), "btd")
        stack = Stack(self.cell, self.depth, self.width, self.dropout, truncate=self.truncate, name="stack")
        segments_bt = batch["segments"]
        if cache is None:
            x_btd, _ = stack(x_btd, segments_bt, train=train)
        else:
            x_btd, layers = stack(x_btd, segments_bt, cache["layers"], cache["segment"], train=False)
            cache = {"layers": layers, "segment": segments_bt[:, -1]}
        x_btd = nn.Dropout(self.dropout, deterministic=not train)(x_btd)
        head_vd = embed_vd if self.tied else param(self, "head", "vd", sizes, init)
        return x_btd, Readout(head_vd, self.vocab), cache


def rnn(section: ConfigDict, *, vocab: int, dtype: Any, **_: Any) -> Rnn:
    """An `Rnn` of a config's model section."""
    check(section)
    if section.truncate is not None and section.truncate < 1:
        raise UserError(f"model.truncate={section.truncate}: tokens that gradients go back, at least 1, or none")
    same = ("depth", "width", "cell", "truncate", "tied", "vocab_multiple", "dropout")
    return Rnn(vocab=vocab, dtype=dtype, **{name: section[name] for name in same})


def check(section: ConfigDict) -> None:
    """UserError for what recurrent models cannot be made of."""
    if section.cell not in CELLS:
        raise unknown("value of model.cell", section.cell, CELLS)
    for name in ("depth", "width", "vocab_multiple"):
        if section[name] < 1:
            raise UserError(f"model.{name}={section[name]}: it must be positive")
    if not 0 <= section.dropout < 1:
        raise UserError(f"model.dropout={section.dropout}: from 0 to below 1")
