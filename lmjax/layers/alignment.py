"""Attention of a recurrent decoder: one state asks, and a source's positions answer by what they score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.attention import MASKED
from lmjax.layers.linear import project
from lmjax.layers.recurrent import uniform
from lmjax.sharding import param


class Source(NamedTuple):
    """What an encoder leaves to a recurrent decoder; everything has a leading batch dimension."""

    values_bsd: jax.Array
    keys_bsk: jax.Array  # what scores are made of: once for all times
    segments_bs: jax.Array


class Alignment(nn.Module):
    """The context (b, t, d) of queries (b, t, d): the source's values, weighed by the softmax of their scores.

    dot: query . value; general: query . W value; concat: v . tanh(W query + U value), the scores of Luong et al. 2015,
    eq. 8, where the decoder's new state asks. additive: concat, asked by the state before (Bahdanau et al. 2015, A.1.2).
    Parameters: `key` (d, k) but for dot, and for concat and additive `query` (d, k) and `score` (k).
    """

    kind: str
    width: int

    def setup(self):
        d, init = self.width, uniform(self.width**-0.5)
        self.key_dk = None if self.kind == "dot" else param(self, "key", "dk", (d, d), init)
        deep = SCORES[self.kind] is _deep
        self.query_dk = param(self, "query", "dk", (d, d), init) if deep else None
        self.score_k = param(self, "score", "k", (d,), init) if deep else None

    def source(self, values_bsd: jax.Array, segments_bs: jax.Array) -> Source:
        """Values, with their keys."""
        keys_bsk = values_bsd if self.key_dk is None else project("bsd,dk->bsk", values_bsd, self.key_dk)
        return Source(values_bsd, keys_bsk, segments_bs)

    def asker(self, dtype: Any) -> Asker:
        """The function of queries, source and the queries' segments, with its parameters."""
        if self.query_dk is None:
            return Asker(self.kind, None, None)
        return Asker(self.kind, self.query_dk.astype(dtype), self.score_k.astype(dtype))


class Asker(NamedTuple):
    """`Alignment`, as a function that a scan over time may call."""

    kind: str
    query_dk: jax.Array | None
    score_k: jax.Array | None

    def __call__(self, query_btd: jax.Array, source: Source, segments_bt: jax.Array) -> jax.Array:
        """Context (b, t, d); a position that has no source, such as padding, gets the mean of all values."""
        weights_bts = jax.nn.softmax(self.scores(query_btd, source, segments_bt), axis=-1)
        return jnp.einsum("bts,bsd->btd", weights_bts.astype(query_btd.dtype), source.values_bsd)

    def scores(self, query_btd: jax.Array, source: Source, segments_bt: jax.Array) -> jax.Array:
        """Float32 (b, t, s); `MASKED` for what is padding, or belongs to another segment."""
        scores_bts = SCORES[self.kind](self, query_btd, source.keys_bsk).astype(jnp.float32)
        same_bts = segments_bt[:, :, None] == source.segments_bs[:, None, :]
        return jnp.where(same_bts & (source.segments_bs > 0)[:, None, :], scores_bts, MASKED)


def _product(asker: Asker, query_btk: jax.Array, keys_bsk: jax.Array) -> jax.Array:
    return jnp.einsum("btk,bsk->bts", query_btk, keys_bsk, preferred_element_type=jnp.float32)


def _deep(asker: Asker, query_btd: jax.Array, keys_bsk: jax.Array) -> jax.Array:
    query_btk = project("btd,dk->btk", query_btd, asker.query_dk)
    both_btsk = jnp.tanh(query_btk[:, :, None] + keys_bsk[:, None])
    return jnp.einsum("btsk,k->bts", both_btsk, asker.score_k, preferred_element_type=jnp.float32)


SCORES: dict[str, Callable[..., jax.Array]] = {
    "additive": _deep, "dot": _product, "general": _product, "concat": _deep,
}  # fmt: skip
