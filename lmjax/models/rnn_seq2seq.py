"""Recurrent sequence-to-sequence models with attention, taught with true tokens or in part with their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.alignment import SCORES, Source
from lmjax.layers.attending import Attending
from lmjax.layers.cells import CELLS, State
from lmjax.layers.readout import Readout
from lmjax.layers.recurrent import Stack, uniform
from lmjax.models import rnn
from lmjax.sharding import constrain, param


def _constant(step: jax.Array, k: float) -> jax.Array | float:
    return 0.0


def _linear(step: jax.Array, k: float) -> jax.Array:
    return jnp.maximum(0.0, 1 - step / k)


def _exponential(step: jax.Array, k: float) -> jax.Array:
    return jnp.exp(-step / k)


def _sigmoid(step: jax.Array, k: float) -> jax.Array:
    return k / (k + jnp.exp(step / k))


SCHEDULES = {  # of the share of true tokens, from 1 to 0; Bengio et al. 2015, section 2.4
    "constant": _constant, "linear": _linear, "exponential": _exponential, "sigmoid": _sigmoid,
}  # fmt: skip


class RnnSeq2Seq(nn.Module):
    """Logits of each next token of a target after those before it and its whole source; Bahdanau et al. 2015.

    Of a batch it reads `source` and `source_segments` (b, s), `tokens` and `segments` (b, t): one pair a row. The
    encoder's last states, through tanh, are where the decoder starts (appendix A.2.2). Parameters: `embed` (v, d) for
    both sides, `encoder` as `Stack` and `decoder` as `Attending` have them, `start` (q, d, f) with a matrix for every
    state, and `head` (v, d) where it is not tied.

    sampling: the share of the decoder's tokens that in training are its own guesses, drawn from what it gives after
    those before (Bengio et al. 2015, section 2.2), by `schedule` of the step. Nothing flows back through the draws, so
    a pass over the mixed tokens has the value and the gradient of a step-by-step one.
    """

    vocab: int
    depth: int
    width: int
    encoder_depth: int
    cell: str = "lstm"
    attention: str = "general"
    feed: bool = False
    bidirectional: bool = True
    tied: bool = True
    vocab_multiple: int = 128
    dropout: float = 0.0
    sampling: float = 0.0
    schedule: str = "constant"
    schedule_steps: float = 1000.0
    dtype: Any = jnp.float32

    max_length = None  # tokens that it has positions for: it needs none
    position = "none"

    def setup(self):
        d, sizes, init = self.width, (self.padded_vocab(), self.width), nn.initializers.normal(rnn.EMBED_STD)
        self.embed_vd = param(self, "embed", "vd", sizes, init)
        self.head_vd = None if self.tied else param(self, "head", "vd", sizes, init)
        self.encoder = Stack(self.cell, self.encoder_depth, d, self.dropout, self.bidirectional)
        self.decoder = Attending(self.cell, self.depth, d, self.attention, self.feed, self.dropout)
        states = self.depth * CELLS[self.cell].states
        self.start_qdf = param(self, "start", "qdf", (states, d, d), uniform(d**-0.5))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, cache: Any = None) -> Any:
        """Logits (b, t, padded v) in float32; with a cache from `init_cache`, (logits, the cache after these tokens).

        The first call with a cache has the source in its batch, which is encoded then; later ones the tokens only.
        """
        if cache is None:
            x_btd, readout = self.features(batch, train=train)
            return readout.logits(x_btd)
        if "source" in batch:
            source, start = self.encode(batch)
            cache = {"source": source, "at": self.decoder.begin(start, self.dtype)}
        elif "source" not in cache:
            raise UserError("a model.kind=rnn_seq2seq writes what belongs to a source, and there is none")
        x_btd = self._embedded(batch["tokens"])
        x_btd, at = self.decoder.advance(x_btd, batch["segments"], cache["source"], cache["at"], train=False)
        return self._readout().logits(x_btd), {**cache, "at": at}

    def features(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, Readout]:
        """What the logits are made of: features (b, t, d) and the readout, for losses that work in chunks."""
        source, start = self.encode(batch, train=train)
        tokens_bt = batch["tokens"]
        if train and self.sampling:
            tokens_bt = self.mixed(batch, source, start)
        x_btd = self.decoder(self._embedded(tokens_bt), batch["segments"], source, start, train=train)
        return self.drop(x_btd, deterministic=not train), self._readout()

    def encode(self, batch: Mapping[str, jax.Array], *, train: bool = False) -> tuple[Source, list[State]]:
        """What the encoder makes of the source, and the states that the decoder starts from."""
        segments_bs = batch["source_segments"]
        x_bsd, _ = self.encoder(self._embedded(batch["source"]), segments_bs, train=train)
        source = self.decoder.source(self.drop(x_bsd, deterministic=not train), segments_bs)
        return source, self._start(x_bsd, segments_bs)

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    def init_cache(self, batch_size: int, length: int = 0) -> dict:
        """An empty cache, which the first call fills; any `length` fits in."""
        return {}

    def for_decoding(self, params: dict) -> dict:
        """The parameters for calls with a cache only: weights in the compute dtype, once for all."""
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype) if leaf.ndim > 1 else leaf, params)

    def _start(self, x_bsd: jax.Array, segments_bs: jax.Array) -> list[State]:
        """Each state from what the directions have read last: the end of the text, and the beginning of it."""
        at_b = jnp.max(jnp.where(segments_bs > 0, jnp.arange(segments_bs.shape[1]), 0), axis=1)
        end_bd = jnp.take_along_axis(x_bsd, at_b[:, None, None], axis=1)[:, 0]
        if self.bidirectional:
            half = self.width // 2
            end_bd = jnp.concatenate([end_bd[:, :half], x_bsd[:, 0, half:]], axis=-1)
        start_qdf = self.start_qdf.astype(end_bd.dtype)
        start_qbf = jnp.tanh(jnp.einsum("bd,qdf->qbf", end_bd, start_qdf, preferred_element_type=jnp.float32))
        states = CELLS[self.cell].states
        return [tuple(start_qbf[i * states + j] for j in range(states)) for i in range(self.depth)]

    def mixed(self, batch: Mapping[str, jax.Array], source: Source, start: list[State]) -> jax.Array:
        """The tokens (b, t), some of them the model's own draws; the first, <doc>, is always true."""
        tokens_bt, segments_bt = batch["tokens"], batch["segments"]
        true_share = SCHEDULES[self.schedule](jnp.asarray(batch.get("step", 0), jnp.float32), self.schedule_steps)
        key = self.make_rng("dropout")
        own_tb = jax.random.bernoulli(key, self.sampling * (1 - true_share), tokens_bt.T.shape).at[0].set(False)
        keys = jax.random.split(jax.random.fold_in(key, 1), tokens_bt.shape[1])
        source, start, table_vd = jax.lax.stop_gradient((source, start, self.embed_vd))
        readout, dtype = self._readout(), self.dtype
        enter, advance = self.decoder.steps(source, dtype)
        masks = [jnp.ones((1, 1), dtype)] * (self.depth - 1)

        def step(carry: Any, now: Any) -> tuple[Any, jax.Array]:
            at, drawn_b = carry
            token_b, own_b, segment_b, key = now
            token_b = jnp.where(own_b, drawn_b, token_b)
            x_bd = jnp.take(table_vd, token_b, axis=0).astype(dtype)
            at, features_bd = advance(at, (enter(x_bd), segment_b, masks))
            drawn_b = jax.random.categorical(key, readout.logits(features_bd[:, None])[:, 0])
            return (at, drawn_b.astype(token_b.dtype)), token_b

        first = (self.decoder.begin(start, dtype), tokens_bt[:, 0])
        _, mixed_tb = jax.lax.scan(step, first, (tokens_bt.T, own_tb, segments_bt.T, keys))
        return jax.lax.stop_gradient(mixed_tb.T)

    def _embedded(self, tokens_bt: jax.Array) -> jax.Array:
        return constrain(jnp.take(self.embed_vd, tokens_bt, axis=0).astype(self.dtype), "btd")

    def _readout(self) -> Readout:
        return Readout(self.embed_vd if self.head_vd is None else self.head_vd, self.vocab)


def rnn_seq2seq(section: ConfigDict, *, vocab: int, dtype: Any, **_: Any) -> RnnSeq2Seq:
    """An `RnnSeq2Seq` of a config's model section."""
    rnn.check(section)
    for name, legal in (("attention", SCORES), ("schedule", SCHEDULES)):
        if section[name] not in legal:
            raise unknown(f"value of model.{name}", section[name], legal)
    if section.feed and section.attention == "additive":
        raise UserError("model.feed is for dot, general and concat: with model.attention=additive the context is fed")
    if section.bidirectional and section.width % 2:
        raise UserError(f"model.width={section.width}: two directions share it, so it must be even")
    if not 0 <= section.sampling <= 1:
        raise UserError(f"model.sampling={section.sampling}: a share, from 0 to 1")
    for name in ("encoder_depth", "schedule_steps"):
        if section[name] is not None and section[name] <= 0:
            raise UserError(f"model.{name}={section[name]}: it must be positive")
    same = ("depth", "width", "cell", "attention", "feed", "bidirectional", "tied", "vocab_multiple", "dropout",
            "sampling", "schedule", "schedule_steps")  # fmt: skip
    depth = section.encoder_depth or section.depth
    return RnnSeq2Seq(vocab=vocab, dtype=dtype, encoder_depth=depth, **{name: section[name] for name in same})
