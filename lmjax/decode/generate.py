"""Generation with a key/value cache: one compiled prefill and one compiled loop that runs some tokens a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.sampling import Options, choose
from lmjax.decode.text import Stream
from lmjax.errors import UserError

SHORTEST = 16  # tokens; prompts are padded to this times a power of two, so that few shapes compile
CACHE_MULTIPLE = 64  # the cache's length is a multiple of this


class Tokenizer(Protocol):
    """What generation asks of a tokenizer; `doc` is the id that starts and ends every document."""

    doc: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Sample(NamedTuple):
    """What was generated for one row.

    `log_probs` are the model's own, of each of `tokens`, before penalty, temperature and filters. `ended` says why:
    "doc" (the model ended the document; the <doc> itself is left out), "stop" (a stop text) or "length".
    """

    prompt: str
    text: str
    tokens: list[int]
    log_probs: list[float]
    ended: str


class State(NamedTuple):
    """Between two calls of the loop: everything but the parameters. `token_b` is not in the cache yet."""

    cache: Any
    token_b: jax.Array
    position_b: jax.Array
    step: jax.Array  # new tokens so far
    ended_b: jax.Array
    seen_bv: jax.Array | None


def bucket(length: int) -> int:
    """The smallest padded length that holds `length` tokens."""
    size = SHORTEST
    while size < length:
        size *= 2
    return size


class Generator:
    """Text from `apply({"params": params}, batch, train=False, cache=cache) -> (logits_btv, cache)`.

    `init_cache(rows, length)` gives an empty cache. `prepare(params)` may lay the parameters out for decoding (once).
    A row's key is fold_in(key(seed), row), then fold_in(step): its text depends on nothing else in its batch.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        init_cache: Callable[[int, int], Any],
        params: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        rows: int = 32,
        chunk: int = 16,
        prepare: Callable[[Any], Any] | None = None,
    ):
        """`max_length`: positions that the model has (None: no limit); `rows` at once; `chunk` tokens a loop call."""
        self.tokenizer, self.max_length, self.rows, self.chunk = tokenizer, max_length, rows, chunk
        self.params = params if prepare is None else jax.jit(prepare)(params)
        self.prefill = jax.jit(partial(_prefill, apply, init_cache, tokenizer.doc), static_argnames=("length", "seen"))
        self.decode = jax.jit(partial(_decode, apply, tokenizer.doc, chunk), donate_argnames=("state",))

    def generate(
        self,
        prompts: Sequence[str],
        *,
        new: int,
        options: Options = Options(),
        seed: int = 0,
        n: int = 1,
        stop: Sequence[str] = (),
        on_text: Callable[[int, str], None] | None = None,
        first_row: int = 0,
    ) -> list[Sample]:
        """`n` samples of at most `new` tokens for each prompt, prompt by prompt.

        `on_text(row, piece)` is called as text is made; the pieces of a row joined are its `Sample.text`. Rows are
        numbered from `first_row`, in the order of the result. An empty prompt starts a document.
        """
        ids = [self._encode(prompt, new) for prompt in prompts for _ in range(n)]
        texts = [prompt for prompt in prompts for _ in range(n)]
        samples = []
        for start in range(0, len(ids), self.rows):
            part = slice(start, start + self.rows)
            streams = [Stream(self.tokenizer.decode, row[1:], stop) for row in ids[part]]
            samples += self._batch(
                texts[part], ids[part], streams, new, options, seed, first_row + start, on_text or (lambda row, text: None)
            )
        return samples

    def _encode(self, prompt: str, new: int) -> np.ndarray:
        if new < 1:
            raise UserError(f"{new} new tokens: ask for 1 or more")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the prompt {prompt!r} is not valid text: {error.reason} at {error.start}") from None
        ids = np.concatenate([[self.tokenizer.doc], np.asarray(self.tokenizer.encode(prompt))]).astype(np.int32)
        if self.max_length is not None and len(ids) - 1 + new > self.max_length:
            raise UserError(
                f"a prompt of {len(ids)} tokens (with <doc>) and {new} new tokens need {len(ids) - 1 + new} positions, "
                f"and the model has learned {self.max_length}; ask for at most {max(0, self.max_length - len(ids) + 1)} "
                f"new tokens, or shorten the prompt to {max(0, self.max_length - new)} tokens"
            )
        return ids

    def _batch(self, texts, ids, streams, new, options, seed, first_row, on_text) -> list[Sample]:
        rows, log_probs = range(len(ids)), [[] for _ in ids]
        for tokens_bt, log_probs_bt in self._chunks(ids, streams, new, options, seed, first_row):
            for row in rows:
                if piece := streams[row].push(tokens_bt[row], self.tokenizer.doc):
                    on_text(first_row + row, piece)
                log_probs[row] += log_probs_bt[row].tolist()
        for row in rows:
            if piece := streams[row].finish():
                on_text(first_row + row, piece)
        return [
            Sample(text, stream.text, stream.tokens, values[: len(stream.tokens)], stream.ended or "length")
            for text, stream, values in zip(texts, streams, log_probs, strict=True)
        ]

    def _chunks(self, ids, streams, new, options, seed, first_row) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens and their log-probabilities, both (b, t), as they are made; one chunk is computed ahead."""
        state = self.start(ids, new, seen=options.repetition_penalty is not None)
        keys_b = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(first_row + np.arange(len(ids)))
        waiting = []
        for made in range(0, new, self.chunk):
            stopped_b = np.array([stream.ended is not None for stream in streams])
            if stopped_b.all():
                break
            count = min(self.chunk, new - made)
            state, tokens_bt, log_probs_bt = self.decode(self.params, state, keys_b, options, stopped_b, made + count)
            waiting.append((tokens_bt, log_probs_bt, count))
            if len(waiting) > 1:
                yield _fetch(*waiting.pop(0))
        for chunk in waiting:
            yield _fetch(*chunk)

    def start(self, ids: Sequence[np.ndarray], new: int, *, seen: bool) -> State:
        """The state after every prompt token but the last, which the loop's first step takes."""
        before = bucket(max(len(row) for row in ids) - 1)
        tokens_bt = np.zeros((len(ids), before + 1), np.int32)
        lengths_b = np.array([len(row) for row in ids], np.int32)
        for row, tokens in enumerate(ids):
            tokens_bt[row, before + 1 - len(tokens) :] = tokens
        length = -(-(before + new) // CACHE_MULTIPLE) * CACHE_MULTIPLE
        return self.prefill(self.params, tokens_bt, lengths_b, length=length, seen=seen)


def _fetch(tokens_bt, log_probs_bt, count):
    return np.asarray(tokens_bt)[:, :count], np.asarray(log_probs_bt)[:, :count]


def _prefill(apply, init_cache, doc, params, tokens_bt, lengths_b, *, length: int, seen: bool) -> State:
    """Fill a new cache with all tokens but the last of each row; prompts end at the right edge."""
    b, t = tokens_bt.shape
    positions_bt = jnp.arange(t) - (t - lengths_b[:, None])
    real_bt = positions_bt >= 0
    batch = {"tokens": tokens_bt, "segments": real_bt.astype(jnp.int32), "positions": jnp.where(real_bt, positions_bt, 0)}
    logits_btv, cache = apply(
        {"params": params}, {name: x[:, :-1] for name, x in batch.items()}, train=False, cache=init_cache(b, length)
    )
    seen_bv = None
    if seen:  # <doc> is not text: a penalty on it would only make documents longer
        seen_bv = jnp.zeros((b, logits_btv.shape[-1]), bool)
        seen_bv = seen_bv.at[jnp.arange(b)[:, None], jnp.where(real_bt, tokens_bt, doc)].set(True).at[:, doc].set(False)
    return State(cache, tokens_bt[:, -1], lengths_b - 1, jnp.int32(0), jnp.zeros(b, bool), seen_bv)


def _decode(apply, doc, chunk, params, state, keys_b, options, stopped_b, until):
    """Up to `chunk` more tokens, ending at `until` in all; stops early when every row has ended."""
    b, first = state.token_b.shape[0], state.step

    def going(carry):
        state = carry[0]
        return (state.step < until) & ~jnp.all(state.ended_b)

    def one(carry):
        state, tokens_bt, log_probs_bt = carry
        batch = {"tokens": state.token_b, "segments": jnp.ones_like(state.token_b), "positions": state.position_b}
        logits_btv, cache = apply(
            {"params": params}, {name: x[:, None] for name, x in batch.items()}, train=False, cache=state.cache
        )
        logits_bv = logits_btv[:, 0]
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys_b, state.step)
        token_b = jnp.where(state.ended_b, doc, choose(logits_bv, keys, options, state.seen_bv))
        log_prob_b = jnp.take_along_axis(logits_bv, token_b[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits_bv, axis=-1)
        at = (0, state.step - first)
        tokens_bt = jax.lax.dynamic_update_slice(tokens_bt, token_b[:, None], at)
        log_probs_bt = jax.lax.dynamic_update_slice(log_probs_bt, log_prob_b[:, None], at)
        seen_bv = state.seen_bv
        if seen_bv is not None:
            seen_bv = seen_bv.at[jnp.arange(b), token_b].set(token_b != doc)
        ended_b = state.ended_b | (token_b == doc)
        state = State(cache, token_b, state.position_b + 1, state.step + 1, ended_b, seen_bv)
        return state, tokens_bt, log_probs_bt

    state = state._replace(ended_b=state.ended_b | stopped_b)
    return jax.lax.while_loop(going, one, (state, jnp.full((b, chunk), doc, jnp.int32), jnp.zeros((b, chunk))))
