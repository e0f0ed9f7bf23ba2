"""Generation with a key/value cache: one compiled prefill, and one compiled loop that makes some tokens a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.sampling import GREEDY, Options, choose
from lmjax.decode.text import Stream
from lmjax.errors import UserError

SHORTEST = 16  # tokens; prompts are padded to this times a power of two, so that few shapes are compiled
CACHE_MULTIPLE = 64  # the cache's length is a multiple of this


class Tokenizer(Protocol):
    """What generation asks of a tokenizer; `doc` is the id that begins every document, and so ends the one before."""

    doc: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Sample(NamedTuple):
    """What was generated for one row.

    `log_probs` are the model's own, of each of `tokens`, before penalty, temperature and filters. `ended` says why:
    "doc" (the model ended the document; <doc> itself is left out), "stop" (a stop text) or "length".
    """

    prompt: str
    text: str
    tokens: list[int]
    log_probs: list[float]
    ended: str


class State(NamedTuple):
    """What the loop goes on from. `token_b` is each row's newest token, which is not in the cache yet."""

    cache: Any
    keys_b: jax.Array
    token_b: jax.Array
    position_b: jax.Array
    step: jax.Array  # new tokens so far
    ended_b: jax.Array
    seen_bv: jax.Array | None  # tokens that a repetition penalty is for


class Prompt(NamedTuple):
    """A text to go on from: its ids, <doc> first, and the other fields of its row, such as its image."""

    text: str
    ids: np.ndarray
    given: Mapping[str, np.ndarray]

    def stream(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> Stream:
        """The text behind it, as its tokens come."""
        return Stream(tokenizer.decode, self.ids[1:], stop)


@dataclass
class _Row:
    number: int
    prompt: Prompt
    stream: Stream
    log_probs: list[float] = field(default_factory=list)

    def sample(self) -> Sample:
        tokens = self.stream.tokens
        ended = self.stream.ended or "length"
        return Sample(self.prompt.text, self.stream.text, tokens, self.log_probs[: len(tokens)], ended)


class Generator:
    """Text from `apply({"params": params}, batch, train=False, cache=cache) -> (logits_btv, cache)`.

    `init_cache(rows, length)` gives an empty cache; `prepare(params)` may lay parameters out for decoding, once each
    time that `params` is set. Row r's key is fold_in(key(seed), r) and a step's fold_in(that, step), so that what is
    drawn for a row depends on nothing else in its batch.
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
        source: Callable[[str], Mapping[str, np.ndarray]] | None = None,
    ):
        """`max_length`: positions that the model has (None: no limit); `rows` at once; `chunk` tokens a call.

        `source(text)`, for encoder-decoders, gives the fields of a prompt's source, each (s,) and as long as it is: what is
        written then begins with <doc>, and not with the prompt's tokens.
        """
        self.tokenizer, self.max_length, self.rows, self.chunk = tokenizer, max_length, rows, chunk
        self.source = source
        self.prepare = None if prepare is None else jax.jit(prepare)
        self.params = params
        doc = tokenizer.doc
        self.apply, self.prefilled = apply, partial(_prefill, apply, init_cache, doc)
        self.prefill = jax.jit(self.prefilled, static_argnames=("length", "penalty"))
        self.decode = jax.jit(partial(_decode, apply, doc, chunk), donate_argnames=("state",))

    @property
    def params(self) -> Any:
        """Parameters as `prepare` lays them out; set them as the model has them, or to None to free their memory."""
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        self._params = params if self.prepare is None or params is None else self.prepare(params)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        new: int,
        images: Sequence[np.ndarray] | None = None,
        options: Options = GREEDY,
        seed: int = 0,
        n: int = 1,
        stop: Sequence[str] = (),
        on_text: Callable[[int, str], None] | None = None,
        on_done: Callable[[int], None] | None = None,
        first_row: int = 0,
    ) -> list[Sample]:
        """`n` samples of at most `new` tokens for each prompt, prompt by prompt; greedy unless `options` say otherwise.

        `on_text(row, piece)` is called as text is made; the pieces of a row, joined, are its `Sample.text`; `on_done(n)`
        when n rows in all are. Rows are numbered from `first_row`, in the order of the result. An empty prompt begins a
        document. `images`, one for each prompt, are (s, s, 3) of 0 to 255, for a model that was trained on texts after
        images.
        """
        if new < 1 or n < 1:
            raise UserError(f"{n} samples of {new} new tokens: ask for at least 1 of each")
        asked = [prompt for prompt in self.prompts(prompts, images, new) for _ in range(n)]
        rows = [_Row(first_row + i, prompt, prompt.stream(self.tokenizer, stop)) for i, prompt in enumerate(asked)]
        for start in range(0, len(rows), self.rows):
            self._fill(rows[start : start + self.rows], min(self.rows, len(rows)), new, options, seed, on_text)
            if on_done is not None:
                on_done(min(start + self.rows, len(rows)))
        return [row.sample() for row in rows]

    def prompts(self, texts: Sequence[str], images: Sequence[np.ndarray] | None, new: int) -> list[Prompt]:
        """The prompts of these texts, with an image each if there are any, checked for `new` tokens to come."""
        if images is not None and len(images) != len(texts):
            raise UserError(f"{len(images)} images for {len(texts)} prompts: one for each")
        given = [{} for _ in texts] if images is None else [{"image": image} for image in images]
        if self.source is not None:
            given = [fields | self.source(text) for text, fields in zip(texts, given, strict=True)]
        return [Prompt(text, self._encode(text, new), fields) for text, fields in zip(texts, given, strict=True)]

    def length(self, prompt: str) -> int:
        """Tokens of a prompt, with the <doc> before it or, of a source, after it."""
        return 1 + len(self.tokenizer.encode(prompt))

    def _encode(self, prompt: str, new: int) -> np.ndarray:
        text = self.tokenizer.encode(prompt) if self.source is None else []
        ids = np.concatenate([[self.tokenizer.doc], text]).astype(np.int32)
        needed = len(ids) - 1 + new  # the last token is only predicted
        if self.max_length is not None and needed > self.max_length:
            more, longest = self.max_length + 1 - len(ids), self.max_length + 1 - new
            raise UserError(
                f"a prompt of {len(ids)} tokens (<doc> is one) and {new} new tokens need {needed} positions, and the "
                f"model has learned {self.max_length}: ask for at most {max(0, more)} new tokens, or shorten the "
                f"prompt to {max(0, longest)} tokens"
            )
        return ids

    def _fill(self, rows: list[_Row], size: int, new: int, options: Options, seed: int, on_text) -> None:
        """Generate the text of `rows`, in a batch of `size`."""
        for tokens_bt, log_probs_bt in self._chunks(rows, size, new, options, seed):
            for row, tokens_t, log_probs_t in zip(rows, tokens_bt, log_probs_bt, strict=False):
                row.log_probs += log_probs_t.tolist()
                self._tell(row, row.stream.push(tokens_t, self.tokenizer.doc), on_text)
        for row in rows:
            self._tell(row, row.stream.finish(), on_text)

    def _tell(self, row: _Row, piece: str, on_text) -> None:
        if piece and on_text is not None:
            on_text(row.number, piece)

    def _chunks(self, rows, size, new, options, seed) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """New tokens and their log-probabilities, (b, t) each; the next chunk runs while one is read."""
        numbers = np.array([row.number for row in rows] + [0] * (size - len(rows)), np.uint32)
        prompts = [row.prompt for row in rows]
        state = self.start(prompts, size, new, np.uint32(seed % 2**32), numbers, options)
        unread = None
        for made in range(0, new, self.chunk):
            stopped_b = np.array([row.stream.ended is not None for row in rows] + [True] * (size - len(rows)))
            if stopped_b.all():
                break
            until = min(made + self.chunk, new)
            state, tokens_bt, log_probs_bt = self.decode(self.params, state, options, stopped_b, until)
            if unread is not None:
                yield _read(*unread)
            unread = (tokens_bt, log_probs_bt, until - made)
        yield _read(*unread)

    def start(self, prompts: Sequence[Prompt], size: int, new: int, seed, numbers_b, options: Options) -> State:
        """The state after every prompt token but the last, which is for the loop's first step, and what is beside them.

        Rows that only fill up a batch of `size` hold <doc> alone.
        """
        before = self.before(prompts)
        tokens_bt = np.full((size, before + 1), self.tokenizer.doc, np.int32)
        lengths_b = np.ones(size, np.int32)
        for row, prompt in enumerate(prompts):
            tokens_bt[row, before + 1 - len(prompt.ids) :] = prompt.ids
            lengths_b[row] = len(prompt.ids)
        length = cache_length(before + new)
        penalty = options.repetition_penalty is not None
        given = {"tokens": tokens_bt}
        for name in prompts[0].given:
            rows = [prompt.given[name] for prompt in prompts]
            given[name] = _stacked(rows + rows[:1] * (size - len(rows)))
        return self.prefill(self.params, given, lengths_b, seed, numbers_b, length=length, penalty=penalty)

    def before(self, prompts: Sequence[Prompt]) -> int:
        """The columns that the prompts' tokens but the last take in the cache; none where they are sources."""
        return 0 if self.source is not None else bucket(max(len(prompt.ids) for prompt in prompts) - 1)


def cache_length(tokens: int) -> int:
    """The length of a cache that has room for so many tokens."""
    return -(-tokens // CACHE_MULTIPLE) * CACHE_MULTIPLE


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows one below the other; those of different numbers of tokens end with zeros."""
    if rows[0].ndim != 1:
        return np.stack(rows)
    found = np.zeros((len(rows), bucket(max(map(len, rows)))), rows[0].dtype)
    for held, row in zip(found, rows, strict=True):
        held[: len(row)] = row
    return found


def bucket(length: int) -> int:
    """The padded length that `length` tokens are computed in."""
    size = SHORTEST
    while size < length:
        size *= 2
    return size


def _read(tokens_bt, log_probs_bt, count):
    return np.asarray(tokens_bt)[:, :count], np.asarray(log_probs_bt)[:, :count]


def _prefill(apply, init_cache, doc, params, given, lengths_b, seed, numbers_b, *, length, penalty) -> State:
    """A cache with all tokens but the last of each row; prompts end at the right edge, <doc> is to the left of them.

    `given`: tokens (b, t), and the image of each row if there are any.
    """
    tokens_bt = given["tokens"]
    b, t = tokens_bt.shape
    positions_bt = jnp.arange(t) - (t - lengths_b[:, None])
    batch = {"tokens": tokens_bt, "segments": (positions_bt >= 0).astype(jnp.int32), "positions": positions_bt.clip(0)}
    before = {**given, **{name: x_bt[:, :-1] for name, x_bt in batch.items()}}
    logits_btv, cache = apply({"params": params}, before, train=False, cache=init_cache(b, length))
    keys_b = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers_b)
    seen_bv = None
    if penalty:  # not for <doc>: it is no text, and a penalty on it would only make documents longer
        seen_bv = jnp.zeros((b, logits_btv.shape[-1]), bool)
        seen_bv = seen_bv.at[jnp.arange(b)[:, None], tokens_bt].set(True).at[:, doc].set(False)
    return State(cache, keys_b, tokens_bt[:, -1], lengths_b - 1, jnp.int32(0), jnp.zeros(b, bool), seen_bv)


def _decode(apply, doc, chunk, params, state, options, stopped_b, until):
    """The state after `until` new tokens in all, or when every row has ended; the new tokens and log-probabilities."""
    b, first = state.token_b.shape[0], state.step

    def going(carry):
        return (carry[0].step < until) & ~jnp.all(carry[0].ended_b)

    def one(carry):
        state, tokens_bt, log_probs_bt = carry
        batch = {"tokens": state.token_b, "segments": jnp.ones_like(state.token_b), "positions": state.position_b}
        batch = {name: x_b[:, None] for name, x_b in batch.items()}
        logits_btv, cache = apply({"params": params}, batch, train=False, cache=state.cache)
        logits_bv = logits_btv[:, 0]
        keys_b = jax.vmap(jax.random.fold_in, (0, None))(state.keys_b, state.step)
        token_b = jnp.where(state.ended_b, doc, choose(logits_bv, keys_b, options, state.seen_bv))
        chosen_b1 = jnp.take_along_axis(logits_bv, token_b[:, None], axis=-1)
        at = (0, state.step - first)
        log_probs_bt = jax.lax.dynamic_update_slice(
            log_probs_bt, chosen_b1 - jax.nn.logsumexp(logits_bv, axis=-1, keepdims=True), at
        )
        tokens_bt = jax.lax.dynamic_update_slice(tokens_bt, token_b[:, None], at)
        seen_bv = state.seen_bv
        if seen_bv is not None:
            seen_bv = seen_bv.at[jnp.arange(b), token_b].set(token_b != doc)
        ended_b = state.ended_b | (token_b == doc)
        state = State(cache, state.keys_b, token_b, state.position_b + 1, state.step + 1, ended_b, seen_bv)
        return state, tokens_bt, log_probs_bt

    state = state._replace(ended_b=state.ended_b | stopped_b)
    return jax.lax.while_loop(going, one, (state, jnp.full((b, chunk), doc, jnp.int32), jnp.zeros((b, chunk))))
