"""Attention in static blocks of queries with its gradient written out: the fastest on CPUs for rows of a few hundred.

Each block of queries meets only the keys that it can see. XLA:CPU keeps the weights of many blocks at once, so memory
grows with the square of the length; `chunked` is for longer rows. The backward pass needs the outputs and two numbers for each
query, not the weights (Dao et al. 2022, arXiv:2205.14135, section 3.1 and appendix B.2), and makes each of the five
products once. Gradients of keys and values are made with the keys last: the other way round XLA:CPU transposes arrays of
the logits' size first.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lmjax.errors import UserError
from lmjax.layers.attention import MASKED, Keep, attend_by_blocks
from lmjax.layers.backends import refusal

QUERY_BLOCK = 64  # 1.1 to 1.2 times faster than whole rows at length 256 on 2 cores
SAVED = "attention"  # the name under which remat policies find what the backward pass needs


def blocked(q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """`dense` in static blocks of queries, each multiplied with only the keys that it can see."""
    if why := refusal("blocked", cache=keep.over_cache(q_bthk.shape[1], k_bsgk.shape[1])):
        raise UserError(why)
    if bias_hts is not None or softcap is not None:
        return attend_by_blocks(q_bthk, k_bsgk, v_bsgk, keep, bias_hts, softcap, block=QUERY_BLOCK)
    return _attend((keep.window, keep.pattern), q_bthk, k_bsgk, v_bsgk, _seen(keep))


def _seen(keep: Keep) -> tuple:
    return keep.query_segments_bt, keep.key_segments_bs, keep.prefix_bs


def _keep(static: tuple, seen: tuple) -> Keep:
    return Keep(seen[0], seen[1], 0, *static, seen[2])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, q_bthk, k_bsgk, v_bsgk, seen):
    return _forward(static, q_bthk, k_bsgk, v_bsgk, seen)[0]


def _grouped(q_bthk, g: int) -> jax.Array:
    b, t, h, k = q_bthk.shape
    return q_bthk.reshape(b, t, g, h // g, k).transpose(0, 2, 3, 1, 4)


def _logits(q_bgrtk, k_bgsk, keep: Keep, queries: slice, keys: slice) -> jax.Array:
    logits = jnp.einsum(
        "bgrtk,bgsk->bgrts", q_bgrtk[..., queries, :], k_bgsk[:, :, keys], preferred_element_type=jnp.float32
    )
    return jnp.where(keep.mask(queries, keys)[:, None, None], logits, MASKED)


def _forward(static, q_bthk, k_bsgk, v_bsgk, seen):
    keep = _keep(static, seen)
    q_bgrtk, k_bgsk, v_bgsk = _grouped(q_bthk, k_bsgk.shape[2]), k_bsgk.swapaxes(1, 2), v_bsgk.swapaxes(1, 2)
    outs, largest, log_sums = [], [], []
    for queries, keys in keep.spans(QUERY_BLOCK):
        logits_bgrts = _logits(q_bgrtk, k_bgsk, keep, queries, keys)
        largest.append(jnp.max(logits_bgrts, axis=-1))
        weights_bgrts = jnp.exp(logits_bgrts - largest[-1][..., None])
        sums_bgrt = jnp.sum(weights_bgrts, axis=-1)
        log_sums.append(jnp.log(sums_bgrt))
        weights, v = weights_bgrts.astype(v_bsgk.dtype), v_bgsk[:, :, keys]
        out_bgrtk = jnp.einsum("bgrts,bgsk->bgrtk", weights, v, preferred_element_type=jnp.float32)
        outs.append((out_bgrtk / sums_bgrt[..., None]).astype(v_bgsk.dtype))
    out_bthk = jnp.concatenate(outs, axis=3).transpose(0, 3, 1, 2, 4).reshape(q_bthk.shape)
    stats = tuple(jnp.concatenate(parts, axis=3) for parts in (largest, log_sums))
    out_bthk, stats = checkpoint_name((out_bthk, stats), SAVED)
    return out_bthk, (q_bthk, k_bsgk, v_bsgk, seen, out_bthk, stats)


def _backward(static, saved, dout_bthk):
    q_bthk, k_bsgk, v_bsgk, seen, out_bthk, (largest_bgrt, log_sums_bgrt) = saved
    keep, (s, g) = _keep(static, seen), k_bsgk.shape[1:3]
    q_bgrtk, dout_bgrtk = _grouped(q_bthk, g), _grouped(dout_bthk, g)
    k_bgsk, v_bgsk = k_bsgk.swapaxes(1, 2), v_bsgk.swapaxes(1, 2)
    along_bth = jnp.sum(dout_bthk.astype(jnp.float32) * out_bthk.astype(jnp.float32), axis=-1)
    along_bgrt = along_bth.swapaxes(1, 2).reshape(largest_bgrt.shape)
    dq, dk, dv = [], [], []
    for queries, keys in keep.spans(QUERY_BLOCK):
        q, dout = q_bgrtk[..., queries, :], dout_bgrtk[..., queries, :]
        logits_bgrts = _logits(q_bgrtk, k_bgsk, keep, queries, keys)
        weights_bgrts = jnp.exp(logits_bgrts - largest_bgrt[..., queries, None] - log_sums_bgrt[..., queries, None])
        dweights_bgrts = jnp.einsum("bgrtk,bgsk->bgrts", dout, v_bgsk[:, :, keys], preferred_element_type=jnp.float32)
        dlogits_bgrts = (weights_bgrts * (dweights_bgrts - along_bgrt[..., queries, None])).astype(q.dtype)
        dv.append(jnp.einsum("bgrtk,bgrts->bgks", dout, weights_bgrts.astype(dout.dtype)))
        dq.append(jnp.einsum("bgrts,bgsk->bgrtk", dlogits_bgrts, k_bgsk[:, :, keys]))
        dk.append(jnp.einsum("bgrtk,bgrts->bgks", q, dlogits_bgrts))
    dq_bthk = jnp.concatenate(dq, axis=3).transpose(0, 3, 1, 2, 4).reshape(q_bthk.shape)
    spans = [keys for _, keys in keep.spans(QUERY_BLOCK)]
    return dq_bthk, *(_gathered(parts, spans, s).transpose(0, 3, 1, 2) for parts in (dk, dv)), None


def _gathered(parts: list[jax.Array], spans: list[slice], s: int) -> jax.Array:
    """The sum of (b, g, k, s) gradients, each of its own span of keys: key block by key block, in the queries' order."""
    if all(keys == slice(0, s) for keys in spans):
        return sum(parts)
    sums = []
    for start in range(0, s, QUERY_BLOCK):
        stop, total = min(start + QUERY_BLOCK, s), 0.0
        for part, keys in zip(parts, spans, strict=True):
            first, last = max(keys.start, start), min(keys.stop, stop)
            if first >= last:
                continue
            piece = part[..., first - keys.start : last - keys.start]
            if (first, last) != (start, stop):
                piece = jnp.pad(piece, ((0, 0), (0, 0), (0, 0), (first - start, stop - last)))
            total = total + piece
        sums.append(total)
    return jnp.concatenate(sums, axis=3)


_attend.defvjp(_forward, _backward)
