"""Multi-head, grouped-query and multi-query attention behind one function, with or without a key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.contextual import attend_over_mesh
from lmjax.layers.linear import project
from lmjax.layers.norms import rms_norm
from lmjax.layers.positions import rotate
from lmjax.sharding import constrain, param

MASKED = -1e30  # finite: a row with nothing to attend to (padding) gives a mean, not NaN


class Keep(NamedTuple):
    """What may attend to what: the same non-zero segment, within the window if there is one, and by pattern.

    causal: no later key, unless it is of a prefix, which is seen from everywhere (Raffel et al. 2020, section 3.2.1);
    bidirectional: every key, as in an encoder, or of a source that has segments of its own (cross-attention).
    """

    query_segments_bt: jax.Array
    key_segments_bs: jax.Array
    offset: jax.Array | int = 0  # index among the keys of the first query
    window: int | None = None  # a query sees itself and window - 1 keys before it, and as many after it if any
    pattern: Literal["causal", "bidirectional"] = "causal"
    prefix_bs: jax.Array | None = None  # of a causal pattern: not 0 where a key belongs to its segment's prefix

    def over_cache(self, queries: int, keys: int) -> bool:
        """Whether so many queries may be others than those at the places of the keys, where places matter."""
        first = isinstance(self.offset, int) and self.offset == 0
        return not first or (queries != keys and (self.pattern == "causal" or self.window is not None))

    def mask(self, queries: slice, keys: slice) -> jax.Array:
        """Boolean (b, t, s) for a static block of queries and keys."""
        q_bt, k_bs = self.query_segments_bt[:, queries], self.key_segments_bs[:, keys]
        same_bts = (q_bt[:, :, None] == k_bs[:, None, :]) & (k_bs[:, None, :] > 0)
        if self.pattern == "bidirectional" and self.window is None:
            return same_bts
        distance_ts = self.offset + distances(q_bt.shape[1], k_bs.shape[1]) + queries.start - keys.start
        near_ts = distance_ts >= 0
        if self.pattern == "bidirectional":
            near_ts = distance_ts > -self.window
        elif self.prefix_bs is not None:
            near_ts = near_ts | (self.prefix_bs[:, None, keys] > 0)
            if self.window is not None:
                near_ts &= distance_ts > -self.window
        if self.window is not None:
            near_ts &= distance_ts < self.window
        return same_bts & near_ts

    def spans(self, block: int) -> list[tuple[slice, slice]]:
        """The queries cut into blocks, and for each the keys that it may see: static, so for an offset of 0 only."""
        t, s = self.query_segments_bt.shape[1], self.key_segments_bs.shape[1]
        causal = self.pattern == "causal" and self.prefix_bs is None
        found = []
        for start in range(0, t, block):
            stop = min(start + block, t)
            first = 0 if self.window is None else max(0, start - self.window + 1)
            last = stop if causal else s if self.window is None else min(stop + self.window - 1, s)
            found.append((slice(start, stop), slice(first, last)))
        return found


def distances(queries: int, keys: int) -> jax.Array:
    """Query index minus key index, (t, s) int32."""
    return jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]


def _block(q_btgrk, k_bsgk, v_bsgk, keep_bts, bias_grts, softcap) -> jax.Array:
    logits_bgrts = jnp.einsum("btgrk,bsgk->bgrts", q_btgrk, k_bsgk, preferred_element_type=jnp.float32)
    weights_bgrts = _weights(logits_bgrts, keep_bts, bias_grts, softcap).astype(v_bsgk.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights_bgrts, v_bsgk)


def _weights(logits_bgrts, keep_bts, bias_grts, softcap) -> jax.Array:
    if softcap is not None:
        logits_bgrts = softcap * jnp.tanh(logits_bgrts / softcap)
    if bias_grts is not None:
        logits_bgrts += bias_grts
    logits_bgrts = jnp.where(keep_bts[:, None, None], logits_bgrts, MASKED)
    return jax.nn.softmax(logits_bgrts, axis=-1)


def dense(q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """Softmax over whole rows of keys, in float32; Vaswani et al. 2017, eq. 1. `q_bthk` is already scaled."""
    return attend_by_blocks(q_bthk, k_bsgk, v_bsgk, keep, bias_hts, softcap, block=q_bthk.shape[1])


def attend_by_blocks(q_bthk, k_bsgk, v_bsgk, keep, bias_hts, softcap, *, block: int) -> jax.Array:
    """`dense`, a static block of queries at a time."""
    b, t, h, k = q_bthk.shape
    s, g = k_bsgk.shape[1:3]
    q_btgrk = q_bthk.reshape(b, t, g, h // g, k)
    bias_grts = None if bias_hts is None else bias_hts.reshape(g, h // g, t, s)
    out = []
    # A single block may have an offset that is not static: it sees every key.
    spans = keep.spans(block) if block < t else [(slice(0, t), slice(0, s))]
    for queries, keys in spans:
        part_grts = None if bias_grts is None else bias_grts[:, :, queries, keys]
        mask_bts = keep.mask(queries, keys)
        out.append(_block(q_btgrk[:, queries], k_bsgk[:, keys], v_bsgk[:, keys], mask_bts, part_grts, softcap))
    return jnp.concatenate(out, axis=1).reshape(b, t, h, k) if len(out) > 1 else out[0].reshape(b, t, h, k)


def empty_cache(b: int, s: int, g: int, k: int, dtype: Any) -> jax.Array:
    """A cache of keys or values: (b, g, s, k), as the products of decoding read it, and (g, s, k) for a single row.

    Any other order, or a dimension of 1 that XLA drops, costs a copy of the cache in every layer of every step.
    """
    return jnp.zeros((g, s, k) if b == 1 else (b, g, s, k), dtype)


def write_cache(cache: jax.Array, x_bsgk: jax.Array, offset: jax.Array | int) -> jax.Array:
    """The cache with these keys or values at `offset`."""
    x_bgsk = x_bsgk.swapaxes(1, 2).astype(cache.dtype)
    at = (0,) * (cache.ndim - 2) + (offset, 0)
    return jax.lax.dynamic_update_slice(cache, x_bgsk if cache.ndim == 4 else x_bgsk[0], at)


def cached(q_bthk, k_cache, v_cache, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """`dense` over a cache of keys and a cache of values."""
    k_bgsk, v_bgsk = (cache if cache.ndim == 4 else cache[None] for cache in (k_cache, v_cache))
    b, t, h, k = q_bthk.shape
    g, s = k_bgsk.shape[1:3]
    bias_grts = None if bias_hts is None else bias_hts.reshape(g, h // g, t, s)
    q_btgrk = q_bthk.reshape(b, t, g, h // g, k)
    logits_bgrts = jnp.einsum("btgrk,bgsk->bgrts", q_btgrk, k_bgsk, preferred_element_type=jnp.float32)
    mask_bts = keep.mask(slice(0, t), slice(0, s))
    weights_bgrts = _weights(logits_bgrts, mask_bts, bias_grts, softcap).astype(v_bgsk.dtype)
    return jnp.einsum("bgrts,bgsk->bgrtk", weights_bgrts, v_bgsk).transpose(0, 3, 1, 2, 4).reshape(b, t, h, k)


def remember(params: Mapping[str, jax.Array], x_bsd: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a memory, as `Attention` over it has them with these parameters, as caches for `cached`."""
    found = []
    for name in ("key", "value"):
        y_bsgk = project("bsd,dgk->bsgk", x_bsd, params[name])
        if f"{name}_bias" in params:
            y_bsgk += params[f"{name}_bias"].astype(y_bsgk.dtype)
        y_bgsk = y_bsgk.swapaxes(1, 2)
        found.append(y_bgsk if len(x_bsd) > 1 else y_bgsk[0])
    return found[0], found[1]


class Context(NamedTuple):
    """What every block of a stack shares: who sees whom, rotary angles, an additive bias, and a memory to read."""

    keep: Keep
    angles: tuple[jax.Array, jax.Array] | None = None
    bias_hts: jax.Array | None = None
    memory_bsd: jax.Array | None = None  # what an encoder has made of a source
    memory_keep: Keep | None = None


def rows_of(context: Context) -> tuple:
    """What of a context has a leading dimension of rows."""
    keeps = [keep and (keep.query_segments_bt, keep.key_segments_bs, keep.prefix_bs) for keep in
             (context.keep, context.memory_keep)]  # fmt: skip
    return *keeps, context.angles, context.memory_bsd


def with_rows(context: Context, rows: tuple) -> Context:
    """The context with other rows, such as some of those that `rows_of` gave."""
    keeps = [keep and keep._replace(query_segments_bt=row[0], key_segments_bs=row[1], prefix_bs=row[2])
             for keep, row in zip((context.keep, context.memory_keep), rows[:2], strict=True)]  # fmt: skip
    return context._replace(keep=keeps[0], memory_keep=keeps[1], angles=rows[2], memory_bsd=rows[3])


class Attention(nn.Module):
    """Attention with `heads` query heads sharing `kv_heads` key/value heads (Ainslie et al. 2023).

    `attend(q_bthk, k_bsgk, v_bsgk, keep, bias_hts=, softcap=)` does the mixing. With a cache, a pair
    of `empty_cache`, new keys and values are written at `context.keep.offset` and the queries see all of them. Over a
    memory, keys and values are those of `context.memory_bsd`, without positions, and a cache is what `remember` makes.
    """

    heads: int
    kv_heads: int
    head: int
    in_init: Callable[[int], Callable]
    out_init: Callable[[int], Callable]
    attend: Callable[..., jax.Array] = dense
    softcap: float | None = None
    qk_norm: bool = False
    bias: bool = False
    qkv_bias: bool = False  # of queries, keys and values without one of the output
    norm_eps: float = 1e-6
    scaled: bool = True  # queries by 1 / sqrt(head); not in T5, whose initial weights have that
    over: Literal["self", "memory"] = "self"

    @nn.compact
    def __call__(self, x_btd: jax.Array, context: Context, cache: Any = None) -> tuple[jax.Array, Any]:
        if self.over == "memory":
            return self._over_memory(x_btd, context, cache), cache
        q_bthk = constrain(self._project("query", "h", self.heads, x_btd), "bthk")
        k_bsgk = self._project("key", "g", self.kv_heads, x_btd)
        keys = "btgk" if cache is None else "bsgk"  # without a cache they lie where the queries do
        v_bsgk = constrain(self._project("value", "g", self.kv_heads, x_btd), keys)
        if self.qk_norm:  # Henry et al. 2020, arXiv:2010.04245, with a learned scale per head dimension
            ones = nn.initializers.ones
            q_bthk = rms_norm(q_bthk, param(self, "query_scale", "k", (self.head,), ones), self.norm_eps)
            k_bsgk = rms_norm(k_bsgk, param(self, "key_scale", "k", (self.head,), ones), self.norm_eps)
        if context.angles is not None:
            q_bthk, k_bsgk = rotate(q_bthk, context.angles), rotate(k_bsgk, context.angles)
        k_bsgk = constrain(k_bsgk, keys)
        attend = self.attend
        if cache is not None:
            offset = context.keep.offset
            cache = (write_cache(cache[0], k_bsgk, offset), write_cache(cache[1], v_bsgk, offset))
            (k_bsgk, v_bsgk), attend = cache, cached
        else:
            attend = attend_over_mesh(attend)
        o_bthk = attend(
            self._scaled(q_bthk), k_bsgk, v_bsgk, context.keep, bias_hts=context.bias_hts, softcap=self.softcap
        )
        return self._out(o_bthk, x_btd), cache

    def _over_memory(self, x_btd: jax.Array, context: Context, cache: Any) -> jax.Array:
        """Vaswani et al. 2017, section 3.2.3: queries of the decoder, keys and values of the encoder."""
        q_bthk = constrain(self._project("query", "h", self.heads, x_btd), "bthk")
        if cache is None:
            k_bsgk = constrain(self._project("key", "g", self.kv_heads, context.memory_bsd), "btgk")
            v_bsgk = constrain(self._project("value", "g", self.kv_heads, context.memory_bsd), "btgk")
            attend = attend_over_mesh(self.attend)
        else:
            (k_bsgk, v_bsgk), attend = cache, cached
        o_bthk = attend(self._scaled(q_bthk), k_bsgk, v_bsgk, context.memory_keep, softcap=self.softcap)
        return self._out(o_bthk, x_btd)

    def _scaled(self, q_bthk: jax.Array) -> jax.Array:
        return q_bthk * jnp.asarray(self.head**-0.5, q_bthk.dtype) if self.scaled else q_bthk

    def _out(self, o_bthk: jax.Array, x_btd: jax.Array) -> jax.Array:
        out_hkd = param(
            self, "out", "hkd", (self.heads, self.head, x_btd.shape[-1]), self.out_init(self.heads * self.head)
        )
        out_btd = project("bthk,hkd->btd", constrain(o_bthk, "bthk"), out_hkd)
        if self.bias:
            out_btd += param(self, "out_bias", "d", x_btd.shape[-1:], nn.initializers.zeros).astype(x_btd.dtype)
        return constrain(out_btd, "btd")

    def _project(self, name: str, letter: str, heads: int, x_btd: jax.Array) -> jax.Array:
        d = x_btd.shape[-1]
        fan_in = d * self.head if name == "query" and not self.scaled else d  # T5: what is not scaled starts small
        weight = param(self, name, f"d{letter}k", (d, heads, self.head), self.in_init(fan_in))
        bias = None
        if self.bias or self.qkv_bias:
            bias = param(self, f"{name}_bias", f"{letter}k", (heads, self.head), nn.initializers.zeros)
        return project(f"btd,d{letter}k->bt{letter}k", x_btd, weight, bias=bias)
