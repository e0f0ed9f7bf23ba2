"""Beam search with a cache: one compiled prefill of the prompts, and one compiled loop that reorders the beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.generate import Generator, Prompt, cache_length
from lmjax.decode.reorder import Axes, cache_axes, reorder, spread
from lmjax.decode.sampling import BLOCK, GREEDY, REMOVED
from lmjax.errors import UserError, unknown

STOPS = ("early", "bound")


class Hypothesis(NamedTuple):
    """One of the n best texts: `score` is the sum of its log-probabilities over the length penalty.

    `log_probs` are of each of `tokens` and, where `ended` is "doc", of the end, which `tokens` leaves out; "length" says
    that it has not ended.
    """

    prompt: str
    text: str
    tokens: list[int]
    log_probs: list[float]
    ended: str
    score: float


class Steps(NamedTuple):
    """What every step chose for each beam, (t, b, k): a token, its log-probability, and the beam that it goes on from."""

    token: jax.Array
    log_prob: jax.Array
    parent: jax.Array


class Ended(NamedTuple):
    """The best hypotheses that have ended, (b, k), best first: the step of the end, and the beam that ended."""

    score: jax.Array
    step: jax.Array
    parent: jax.Array
    log_prob: jax.Array


class State(NamedTuple):
    """What the loop goes on from: beams (b, k) that have not ended, best first, with the sums of their log-probabilities."""

    cache: Any
    token_bk: jax.Array
    sum_bk: jax.Array
    position_b: jax.Array
    step: jax.Array
    done_b: jax.Array
    steps: Steps
    ended: Ended


def length_penalty(length: jax.Array | int, alpha: jax.Array | float) -> jax.Array:
    """((5 + length) / 6)^alpha, the end being a token; Wu et al. 2016 (GNMT), arXiv:1609.08144, eq. 14."""
    return ((5.0 + length) / 6.0) ** alpha


class BeamSearch:
    """Beam search with the model, parameters and tokenizer of a `Generator`.

    A hypothesis ends when its end is among the k best continuations. `early`: a prompt is done when k have ended, so
    that one beam is greedy decoding; `bound`: when no beam can overtake any of the k best that have ended.
    """

    def __init__(self, generator: Generator):
        self.generator = generator
        self._axes: dict[tuple[str, ...], tuple[Axes, ...]] = {}
        doc = generator.tokenizer.doc
        self.run = jax.jit(
            partial(_search, generator.apply, doc), static_argnames=("axes", "beams", "stop", "length", "before")
        )

    def search(
        self, prompts: Sequence[str], *, new: int, beams: int = 4, n: int = 1, alpha: float = 0.6, stop: str = "early",
        images: Sequence[np.ndarray] | None = None, on_done: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """The `n` best of `beams` for each prompt, best first, of at most `new` tokens, the end being one.

        Those that have not ended stand behind those that have. `alpha`: `length_penalty`; 0 compares sums. `on_done(n)`
        is called when n prompts in all are done.
        """
        if beams < 1 or not 1 <= n <= beams:
            raise UserError(f"the {n} best of {beams} beams: at least 1 beam, and from 1 to {beams} of them")
        if stop not in STOPS:
            raise unknown("way to stop a beam search", stop, STOPS)
        if new < 1:
            raise UserError(f"{new} new tokens: ask for at least 1")
        given = self.generator.prompts(prompts, images, new)
        at_once = max(1, self.generator.rows // beams)
        found: list[list[Hypothesis]] = []
        for start in range(0, len(given), at_once):
            found += self._some(given[start : start + at_once], min(at_once, len(given)), new, beams, n, alpha, stop)
            if on_done is not None:
                on_done(len(found))
        return found

    def _some(
        self, given: list[Prompt], size: int, new: int, beams: int, n: int, alpha: float, stop: str
    ) -> list[list[Hypothesis]]:
        """The search of some prompts in a batch of `size`."""
        started = self.generator.start(given, size, new, np.uint32(0), np.zeros(size, np.uint32), GREEDY)
        axes = self._cache_axes(given[0])
        before = self.generator.before(given)
        length = cache_length(before + new)
        filling_b = np.arange(size) >= len(given)
        state = self.run(self.generator.params, started, filling_b, new, np.float32(alpha), axes=axes, beams=beams,
                         stop=stop, length=length, before=before)  # fmt: skip
        state = jax.device_get(state)
        found = []
        for row, prompt in enumerate(given):
            chosen = _ended(state, row) + _going(state, row, alpha)
            found.append([self._hypothesis(prompt, *one) for one in chosen[:n]])
        return found

    def _cache_axes(self, prompt: Prompt) -> tuple[Axes, ...]:
        """The axes of every array of the cache that a prompt of this kind leaves."""
        key = tuple(sorted(prompt.given))
        if key not in self._axes:

            def cache_of(rows: int, length: int) -> Any:
                given = {name: jnp.zeros((rows, *x.shape), x.dtype) for name, x in prompt.given.items()}
                given["tokens"] = jnp.zeros((rows, 2), jnp.int32)
                ones = jnp.ones(rows, jnp.int32)
                generator = self.generator
                return generator.prefilled(generator.params, given, ones, 0, ones, length=length, penalty=False).cache

            self._axes[key] = cache_axes(cache_of)
        return self._axes[key]

    def _hypothesis(self, prompt: Prompt, tokens: list[int], log_probs: list[float], ended: str, score: float):
        doc = self.generator.tokenizer.doc
        stream = prompt.stream(self.generator.tokenizer)
        stream.push([*tokens, doc] if ended == "doc" else tokens, doc)
        stream.finish()
        return Hypothesis(prompt.text, stream.text, tokens, log_probs, ended, score)


def _ended(state: State, row: int) -> list[tuple[list[int], list[float], str, float]]:
    """The hypotheses of a row that have ended, best first."""
    found, ended = [], state.ended
    for i in np.flatnonzero(ended.score[row] > REMOVED / 2):
        tokens, log_probs = _path(state.steps, row, int(ended.step[row, i]), int(ended.parent[row, i]))
        log_probs.append(float(ended.log_prob[row, i]))
        found.append((tokens, log_probs, "doc", float(ended.score[row, i])))
    return found


def _going(state: State, row: int, alpha: float) -> list[tuple[list[int], list[float], str, float]]:
    """The beams of a row that have not ended, best first."""
    step, found = int(state.step), []
    for i in np.flatnonzero(state.sum_bk[row] > REMOVED / 2):
        score = float(state.sum_bk[row, i] / length_penalty(step, alpha))
        found.append((*_path(state.steps, row, step, int(i)), "length", score))
    return found


def _path(steps: Steps, row: int, length: int, beam: int) -> tuple[list[int], list[float]]:
    """The `length` tokens and log-probabilities that led to a beam."""
    tokens, log_probs = [], []
    for t in range(length - 1, -1, -1):
        tokens.append(int(steps.token[t, row, beam]))
        log_probs.append(float(steps.log_prob[t, row, beam]))
        beam = int(steps.parent[t, row, beam])
    return tokens[::-1], log_probs[::-1]


def _search(apply, doc, params, started, filling_b, until, alpha, *, axes, beams, stop, length, before) -> State:
    """The state when every prompt is done, or after `until` tokens, of `length` - `before` that there is room for."""
    b, k = started.token_b.shape[0], beams
    axes = jax.tree.unflatten(jax.tree.structure(started.cache), axes)
    cache = spread(started.cache, axes, k) if b * k > 1 else started.cache
    zeros = jnp.zeros((b, k), jnp.int32)
    none = jnp.full((b, k), -jnp.inf)
    state = State(
        cache, jnp.repeat(started.token_b[:, None], k, axis=1), none.at[:, 0].set(0.0), started.position_b, jnp.int32(0),
        filling_b, Steps(*(jnp.zeros((length - before, b, k), kind) for kind in (jnp.int32, jnp.float32, jnp.int32))),
        Ended(none, zeros, zeros, none),
    )  # fmt: skip

    def going(state: State) -> jax.Array:
        return (state.step < until) & ~jnp.all(state.done_b)

    def one(state: State) -> State:
        batch = {"tokens": state.token_bk, "segments": jnp.ones((b, k), jnp.int32),
                 "positions": jnp.repeat(state.position_b[:, None], k, axis=1)}  # fmt: skip
        batch = {name: x_bk.reshape(b * k, 1) for name, x_bk in batch.items()}
        logits_btv, cache = apply({"params": params}, batch, train=False, cache=state.cache)
        sum_bn, log_prob_bn, beam_bn, token_bn = continuations(logits_btv[:, 0].reshape(b, k, -1), state.sum_bk, 2 * k)
        end_bn = token_bn == doc
        ending_bk = end_bn[:, :k] & ~state.done_b[:, None]
        score_bk = jnp.where(ending_bk, sum_bn[:, :k] / length_penalty(state.step + 1, alpha), -jnp.inf)
        new = Ended(score_bk, jnp.full((b, k), state.step), beam_bn[:, :k], log_prob_bn[:, :k])
        ended = _best(state.ended, new, k)
        sum_bk, at_bk = jax.lax.top_k(jnp.where(end_bn, -jnp.inf, sum_bn), k)
        token_bk, log_prob_bk, beam_bk = (
            jnp.take_along_axis(x_bn, at_bk, 1) for x_bn in (token_bn, log_prob_bn, beam_bn)
        )
        if k > 1:
            cache = reorder(cache, axes, beam_bk, length, before, state.step)
        made = Steps(token_bk, log_prob_bk, beam_bk)
        steps = jax.tree.map(
            lambda all, x: jax.lax.dynamic_update_index_in_dim(all, x, state.step, 0), state.steps, made
        )
        done_b = state.done_b | _done(ended, sum_bk, state.step + 1, until, alpha, stop)
        return State(cache, token_bk, sum_bk, state.position_b + 1, state.step + 1, done_b, steps, ended)

    return jax.lax.while_loop(going, one, state)._replace(cache=None)


def _done(ended: Ended, sum_bk, length, until, alpha, stop: str) -> jax.Array:
    """Whether a prompt needs no more steps, (b,)."""
    worst_b = ended.score[:, -1]
    full_b = worst_b > REMOVED / 2
    if stop == "early":
        return full_b
    penalties = jnp.stack([length_penalty(length + 1, alpha), length_penalty(until, alpha)])
    reach_b = jnp.max(sum_bk[:, :1] / penalties, axis=1)  # no sum grows, and the penalty is monotonous in the length
    return full_b & (reach_b <= worst_b)


def _best(old: Ended, new: Ended, k: int) -> Ended:
    """The k best of what has ended, those from before first on a tie."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), old, new)
    _, at_bk = jax.lax.top_k(both.score, k)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, at_bk, axis=1), both)


def continuations(logits_bkv: jax.Array, sum_bk: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """The n best tokens after any of k beams: sums, log-probabilities, beams and tokens, (b, n), best first.

    Found among the n blocks of ids with the largest maxima, which hold them. Of one beam it is the order of its logits,
    the lowest id first of equal largest ones, as `likeliest` has it.
    """
    b, k, v = logits_bkv.shape
    log_z_bk = jax.nn.logsumexp(logits_bkv, axis=-1)
    padded_bkv = jnp.pad(logits_bkv, ((0, 0), (0, 0), (0, -v % BLOCK)), constant_values=-jnp.inf)
    blocks = padded_bkv.shape[-1] // BLOCK
    before_bk = sum_bk - log_z_bk if k > 1 else jnp.zeros_like(sum_bk)  # adding it would make ties of near logits
    best_bkp = jnp.max(padded_bkv.reshape(b, k, blocks, BLOCK), axis=-1) + before_bk[..., None]
    _, block_bp = jax.lax.top_k(best_bkp.reshape(b, k * blocks), min(n, k * blocks))
    logits_bpc = jnp.take_along_axis(padded_bkv.reshape(b, k * blocks, BLOCK), block_bp[..., None], axis=1)
    sums_bpc = logits_bpc + jnp.take_along_axis(before_bk, block_bp // blocks, axis=1)[..., None]
    _, at_bn = jax.lax.top_k(sums_bpc.reshape(b, -1), n)
    block_bn = jnp.take_along_axis(block_bp, at_bn // BLOCK, axis=1)
    beam_bn = block_bn // blocks
    logit_bn = jnp.take_along_axis(logits_bpc.reshape(b, -1), at_bn, axis=1)
    log_prob_bn = logit_bn - jnp.take_along_axis(log_z_bk, beam_bn, axis=1)
    sum_bn = jnp.take_along_axis(sum_bk, beam_bn, axis=1) + log_prob_bn
    token_bn = jnp.minimum((block_bn % blocks) * BLOCK + at_bn % BLOCK, v - 1)  # where there are fewer, at -inf
    return sum_bn, log_prob_bn, beam_bn, token_bn
