"""Attention in chunks of queries and keys, with memory linear in the length on every platform.

A softmax that is corrected while it goes over the keys (Milakov & Gimelshein 2018, arXiv:1805.02867; Rabe & Staats 2021,
arXiv:2112.05682), with the gradient written out: the backward pass needs the outputs and two numbers for each query (Dao
et al. 2022, arXiv:2205.14135, appendix B.2). Both are loops, so the program does not grow with the length, and chunks
of keys that no query of a chunk can see are not visited.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lmjax.layers.attention import MASKED, Keep
from lmjax.layers.blocked import SAVED

QUERIES, KEYS = 256, 256  # of a chunk, at most: the fastest of those tried at length 1024 on 2 cores, 2 times `blocked`


class Static(NamedTuple):
    """queries, keys: of a chunk. The others are as in `Keep` and `dense`."""

    queries: int
    keys: int
    window: int | None
    pattern: str
    softcap: float | None


def chunked(q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """`dense`, but that of rows which see nothing (padding) it gives something else that is finite."""
    b, t, h, k = q_bthk.shape
    s, g = k_bsgk.shape[1:3]
    static = Static(_size(t, QUERIES), _size(s, KEYS), keep.window, keep.pattern, softcap)
    more_t, more_s = -t % static.queries, -s % static.keys  # filled up with padding
    q_bgrtk = _longer(q_bthk, more_t, 1).reshape(b, -1, g, h // g, k).transpose(0, 2, 3, 1, 4)
    k_bgsk, v_bgsk = (_longer(x, more_s, 1).swapaxes(1, 2) for x in (k_bsgk, v_bsgk))
    bias_grts = None
    if bias_hts is not None:
        bias_grts = _longer(_longer(bias_hts, more_t, 1), more_s, 2).reshape(g, h // g, t + more_t, s + more_s)
    prefix_bs = None if keep.prefix_bs is None else _longer(keep.prefix_bs, more_s, 1)
    rows = _longer(keep.query_segments_bt, more_t, 1), _longer(keep.key_segments_bs, more_s, 1)
    seen = keep._replace(query_segments_bt=rows[0], key_segments_bs=rows[1], prefix_bs=prefix_bs)
    arrays = (*seen[:2], jnp.asarray(keep.offset, jnp.int32), prefix_bs)
    out_bgrtk = _attend(static, q_bgrtk, k_bgsk, v_bgsk, bias_grts, arrays)
    return out_bgrtk.transpose(0, 3, 1, 2, 4).reshape(b, -1, h, k)[:, :t]


def _size(length: int, most: int) -> int:
    """Of equal chunks, as few as there can be."""
    return -(-length // -(-length // most))


def _longer(x: jax.Array, more: int, axis: int) -> jax.Array:
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)]) if more else x


def _part(x: jax.Array, i: Any, size: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)


def _added(x: jax.Array, more: jax.Array, i: Any, axis: int) -> jax.Array:
    """x with more added to its i-th part."""
    size = more.shape[axis]
    return jax.lax.dynamic_update_slice_in_dim(x, _part(x, i, size, axis) + more, i * size, axis)


def _visited(static: Static, seen: tuple, i: Any, chunks: int) -> tuple:
    """The chunks of keys, from the first to before the last, that queries of chunk i may see; one at least."""
    start = seen[2] + i * static.queries
    stop = start + static.queries
    first, last = 0, chunks * static.keys
    if static.window is not None:
        first, last = start - static.window + 1, stop + static.window - 1
    if static.pattern == "causal" and seen[3] is None:
        last = stop
    first = jnp.clip(first // static.keys, 0, chunks - 1)
    return first, jnp.clip(-(-last // static.keys), first + 1, chunks)


def _logits(static: Static, q_bgrtk, k_bgsk, bias_grts, seen: tuple, i: Any, j: Any) -> tuple[jax.Array, Any]:
    """Masked logits of chunk i of the queries, `q_bgrtk`, and j of the keys; and their slope before the soft cap."""
    k_bgsk = _part(k_bgsk, j, static.keys, 2)
    logits, slope = jnp.einsum("bgrtk,bgsk->bgrts", q_bgrtk, k_bgsk, preferred_element_type=jnp.float32), 1.0
    if static.softcap is not None:
        share = jnp.tanh(logits / static.softcap)
        logits, slope = static.softcap * share, 1 - share**2
    if bias_grts is not None:
        logits += _part(_part(bias_grts, i, static.queries, 2), j, static.keys, 3)
    prefix_bs = None if seen[3] is None else _part(seen[3], j, static.keys, 1)
    keep = Keep(
        _part(seen[0], i, static.queries, 1), _part(seen[1], j, static.keys, 1),
        seen[2] + i * static.queries - j * static.keys, static.window, static.pattern, prefix_bs,
    )  # fmt: skip
    mask_bts = keep.mask(slice(0, static.queries), slice(0, static.keys))
    return jnp.where(mask_bts[:, None, None], logits, MASKED), slope


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, q_bgrtk, k_bgsk, v_bgsk, bias_grts, seen):
    return _forward(static, q_bgrtk, k_bgsk, v_bgsk, bias_grts, seen)[0]


def _forward(static, q_bgrtk, k_bgsk, v_bgsk, bias_grts, seen):
    chunks = k_bgsk.shape[2] // static.keys

    def queries(i):
        q = _part(q_bgrtk, i, static.queries, 3)

        def keys(j, sums):
            out, before, total = sums
            logits, _ = _logits(static, q, k_bgsk, bias_grts, seen, i, j)
            largest = jnp.maximum(before, jnp.max(logits, axis=-1))
            weights, shrink = jnp.exp(logits - largest[..., None]), jnp.exp(before - largest)
            v = _part(v_bgsk, j, static.keys, 2)
            more = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return out * shrink[..., None] + more, largest, total * shrink + jnp.sum(weights, axis=-1)

        start = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:-1], MASKED), jnp.zeros(q.shape[:-1], jnp.float32)
        out, largest, total = jax.lax.fori_loop(*_visited(static, seen, i, chunks), keys, start)
        return (out / total[..., None]).astype(q.dtype), largest, total

    parts = jax.lax.map(queries, jnp.arange(q_bgrtk.shape[3] // static.queries))
    out, stats = checkpoint_name((_joined(parts[0]), tuple(map(_joined, parts[1:]))), SAVED)
    return out, (q_bgrtk, k_bgsk, v_bgsk, bias_grts, seen, out, stats)


def _joined(x: jax.Array) -> jax.Array:
    """Stacked chunks of queries in one, along the fourth axis."""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1, *x.shape[5:])


def _backward(static, saved, dout_bgrtk):
    q_bgrtk, k_bgsk, v_bgsk, bias_grts, seen, out_bgrtk, stats = saved
    chunks, exact = k_bgsk.shape[2] // static.keys, partial(jnp.einsum, preferred_element_type=jnp.float32)
    along_bgrt = jnp.sum(dout_bgrtk.astype(jnp.float32) * out_bgrtk.astype(jnp.float32), axis=-1)

    def queries(sums, i):
        rows = (q_bgrtk, dout_bgrtk, *stats, along_bgrt)
        q, dout, largest, total, along = (_part(x, i, static.queries, 3) for x in rows)

        def keys(j, sums):
            dq, dk, dv, dbias = sums
            logits, slope = _logits(static, q, k_bgsk, bias_grts, seen, i, j)
            k, v = (_part(x, j, static.keys, 2) for x in (k_bgsk, v_bgsk))
            weights = jnp.exp(logits - largest[..., None]) / total[..., None]
            dlogits = weights * (exact("bgrtk,bgsk->bgrts", dout, v) - along[..., None])
            if dbias is not None:
                dbias = _added(dbias, jnp.sum(dlogits, axis=0), j, 3)
            dlogits = (dlogits * slope).astype(q.dtype)
            dk = _added(dk, exact("bgrts,bgrtk->bgsk", dlogits, q), j, 2)
            dv = _added(dv, exact("bgrts,bgrtk->bgsk", weights.astype(dout.dtype), dout), j, 2)
            return dq + exact("bgrts,bgsk->bgrtk", dlogits, k), dk, dv, dbias

        dbias = None if bias_grts is None else jnp.zeros_like(_part(bias_grts, i, static.queries, 2), jnp.float32)
        start = (jnp.zeros(q.shape, jnp.float32), *sums, dbias)
        dq, dk, dv, dbias = jax.lax.fori_loop(*_visited(static, seen, i, chunks), keys, start)
        return (dk, dv), (dq.astype(q.dtype), dbias)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k_bgsk, v_bgsk))
    (dk, dv), (dq, dbias) = jax.lax.scan(queries, zeros, jnp.arange(q_bgrtk.shape[3] // static.queries))
    if dbias is not None:
        dbias = jnp.moveaxis(dbias, 0, 2).reshape(bias_grts.shape).astype(bias_grts.dtype)
    return _joined(dq), dk.astype(k_bgsk.dtype), dv.astype(v_bgsk.dtype), dbias, None


_attend.defvjp(_forward, _backward)
