"""How the next token is chosen: penalty, temperature, filters, then one draw with a key of its own for every row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lmjax.errors import UserError

BLOCK = 128  # ids
REMOVED = -1e30  # the logit of a token that a filter took out; padded ids come with it


@dataclass(frozen=True)
class Options:
    """What `choose` does, made by `options`. A filter that is None is not compiled at all; greedy: no temperature.

    A pytree whose leaves are the numbers, so that another temperature is no other program; another `top_k` is.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


jax.tree_util.register_dataclass(
    Options, data_fields=["temperature", "top_p", "min_p", "repetition_penalty"], meta_fields=["top_k"]
)


GREEDY = Options()


COLDEST = 1e-6  # a lower temperature is 0: float32 could not divide by it


def options(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Options:
    """Checked `Options`; temperature 0 is greedy, and values that change nothing (top_p=1, ...) switch a filter off."""
    given = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
    for name, value in given.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name}={value}: it must be a finite number")
    if temperature < 0:
        raise UserError(f"temperature={temperature}: 0 is greedy, 1 the model's own distribution; never negative")
    if top_k is not None and (top_k < 1 or top_k != int(top_k)):
        raise UserError(f"top_k={top_k}: the number of likeliest tokens to choose from, 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p}: a probability above 0, at most 1")
    if min_p is not None and not 0 <= min_p <= 1:
        raise UserError(f"min_p={min_p}: a fraction of the likeliest token's probability, from 0 to 1")
    if repetition_penalty is not None and not 0.01 <= repetition_penalty <= 100:
        raise UserError(f"repetition_penalty={repetition_penalty}: from 0.01 to 100; 1 changes nothing, 1.2 is usual")
    penalty = None if repetition_penalty in (None, 1) else float(repetition_penalty)
    if temperature < COLDEST or top_k == 1:
        return Options(repetition_penalty=penalty)
    return Options(
        temperature=float(temperature),
        top_k=None if top_k is None else int(top_k),
        top_p=None if top_p in (None, 1) else float(top_p),
        min_p=None if not min_p else float(min_p),
        repetition_penalty=penalty,
    )


def repetition_penalty(logits_bv: jax.Array, seen_bv: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Logits of seen tokens divided by `penalty`; Keskar et al. 2019 (CTRL), arXiv:1909.05858, section 4.1.

    The paper divides negative logits too, which would favour these tokens: they are multiplied.
    """
    penalised_bv = jnp.where(logits_bv > 0, logits_bv / penalty, logits_bv * penalty)
    return jnp.where(seen_bv, penalised_bv, logits_bv)


def temperature(logits_bv: jax.Array, t: jax.Array | float) -> jax.Array:
    """Logits over t, with the largest at 0 so that no t overflows; Ackley et al. 1985. Removed ids stay removed."""
    scaled_bv = (logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True)) / t
    return jnp.where(logits_bv > REMOVED / 2, scaled_bv, REMOVED)


def top_k(logits_bv: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest logits of a row, largest first, and their ids, both (b, k); of equal ones the lower ids."""
    return jax.lax.top_k(logits_bv, min(k, logits_bv.shape[-1]))


def top_p(logits_bv: jax.Array, p: jax.Array | float) -> jax.Array:
    """Keep the smallest set of likeliest tokens with probability >= p; Holtzman et al. 2020, arXiv:1904.09751, eq. 2-3.

    The least probability in that set is found by bisection over the bits of a float32 (those of positive numbers are
    in order): 31 sums instead of a sort, in a twentieth of its time. Exact; all tokens that tie with the last one stay.
    """
    weights_bv = jnp.exp(logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True))  # the largest is 1
    mass_b = p * jnp.sum(weights_bv, axis=-1)

    def halve(_, bounds):
        low_b, high_b = bounds  # tokens of at least low have the mass, those of at least high do not
        middle_b = low_b + (high_b - low_b) // 2
        kept_bv = jnp.where(weights_bv >= _from_bits(middle_b)[:, None], weights_bv, 0.0)
        enough_b = jnp.sum(kept_bv, axis=-1) >= mass_b
        return jnp.where(enough_b, middle_b, low_b), jnp.where(enough_b, high_b, middle_b)

    above_one = 0x3F800001  # the bits of the smallest number above 1
    start = (jnp.zeros_like(mass_b, jnp.int32), jnp.full_like(mass_b, above_one, jnp.int32))
    low_b, _ = jax.lax.fori_loop(0, 31, halve, start)
    return jnp.where(weights_bv >= _from_bits(low_b)[:, None], logits_bv, REMOVED)


def _from_bits(bits_b: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits_b, jnp.float32)


def min_p(logits_bv: jax.Array, p: jax.Array | float) -> jax.Array:
    """Keep tokens at least p times as probable as the likeliest; Nguyen et al. 2024, arXiv:2407.01082, section 3."""
    best_b1 = jnp.max(logits_bv, axis=-1, keepdims=True)
    return jnp.where(logits_bv >= best_b1 + jnp.log(p), logits_bv, REMOVED)


def likeliest(logits_bv: jax.Array) -> jax.Array:
    """The id of the largest logit, the lowest on a tie; by blocks, several times faster than one argmax on a CPU."""
    logits_bnv = _blocks(logits_bv)
    block_b = jnp.argmax(jnp.max(logits_bnv, axis=-1), axis=-1)
    return block_b * BLOCK + jnp.argmax(_take(logits_bnv, block_b), axis=-1)


def draw(logits_bv: jax.Array, keys_b: jax.Array) -> jax.Array:
    """An id of the distribution softmax(logits), by inversion: first a block of ids, then one in it.

    Two random numbers a row: a Gumbel for every id (`jax.random.categorical`) costs more than the whole output layer.
    """
    weights_bnv = _blocks(jnp.exp(logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True)), 0.0)
    uniform_b2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_b)
    block_b = _invert(jnp.sum(weights_bnv, axis=-1), uniform_b2[:, :1])
    return block_b * BLOCK + _invert(_take(weights_bnv, block_b), uniform_b2[:, 1:])


def _blocks(x_bv: jax.Array, fill: float = -jnp.inf) -> jax.Array:
    """(b, n, BLOCK)."""
    b, v = x_bv.shape
    return jnp.pad(x_bv, ((0, 0), (0, -v % BLOCK)), constant_values=fill).reshape(b, -1, BLOCK)


def _take(x_bnv: jax.Array, block_b: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_bnv, block_b[:, None, None], axis=1)[:, 0]


def _invert(weights_bv: jax.Array, uniform_b1: jax.Array) -> jax.Array:
    """The first index whose cumulative weight is above uniform x total; never one of weight 0, rounding or not."""
    sums_bv = jnp.where(weights_bv > 0, jnp.cumsum(weights_bv, axis=-1), 0.0)
    return jnp.argmax(sums_bv > uniform_b1 * jnp.max(sums_bv, axis=-1, keepdims=True), axis=-1)


def choose(logits_bv: jax.Array, keys_b: jax.Array, options: Options, seen_bv: jax.Array | None) -> jax.Array:
    """A token id for every row (b,) int32: penalty, temperature, top-k, top-p, min-p, then a draw with the row's key.

    `seen_bv` says which tokens the penalty is for. Without a temperature: the likeliest token, the lowest id on a tie.
    """
    if options.repetition_penalty is not None:
        logits_bv = repetition_penalty(logits_bv, seen_bv, options.repetition_penalty)
    if options.temperature is None:
        return likeliest(logits_bv).astype(jnp.int32)
    ids_bv = None
    if options.top_k is not None:  # everything after it runs over k candidates only
        logits_bv, ids_bv = top_k(logits_bv, options.top_k)
    logits_bv = temperature(logits_bv, options.temperature)
    if options.top_p is not None:
        logits_bv = top_p(logits_bv, options.top_p)
    if options.min_p is not None:
        logits_bv = min_p(logits_bv, options.min_p)
    chosen_b = draw(logits_bv, keys_b)
    if ids_bv is not None:
        chosen_b = jnp.take_along_axis(ids_bv, chosen_b[:, None], axis=-1)[:, 0]
    return chosen_b.astype(jnp.int32)
