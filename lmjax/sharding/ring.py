"""Attention over a length that a mesh axis cuts: keys and values go round a ring of devices, and none has them all.

Liu et al. 2023, arXiv:2310.01889, with the gradient written out as they do: a second trip round the ring, on which the
gradients of keys and values travel with them. Everything here runs inside `shard_map`, on one device's arrays.

Of a causal mask a device with late queries would have all the work and the first next to none. So each has two pieces
of the 2n that the length is cut into, the i-th from the front and the i-th from behind ("zigzag"; Brandon et al. 2023,
arXiv:2311.09431, balance stripes for the same end): then every device multiplies two pairs of pieces on every step.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30  # finite: what sees nothing (padding) gives something, not NaN
PIECE = 512  # queries multiplied with keys at a time, so that memory stays linear in the length


class Ring(NamedTuple):
    """axis: of the mesh; size: devices on it. window: as in `Keep`; zigzag: how `causal` is balanced."""

    axis: str
    size: int
    causal: bool
    window: int | None = None
    softcap: float | None = None
    zigzag: bool = False
    saved: str = "attention"  # the name under which remat policies find what the backward pass needs


class Seen(NamedTuple):
    """Of a device's queries, or of the keys that have come to it: segments (b, t), and the index of each in the row (t)."""

    segments_bt: jax.Array
    index_t: jax.Array


def ring_attention(
    ring: Ring,
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    q_segments_bt: jax.Array,
    k_segments_bs: jax.Array,
) -> jax.Array:
    """Softmax attention (b, t, h, k) of this device's queries, `q_bthk`, already scaled, over the keys of all.

    Every device has the same number of consecutive positions, in the order of the devices.
    """
    arrays = (q_bthk, k_bsgk, v_bsgk, q_segments_bt, k_segments_bs)
    if ring.zigzag:
        arrays = tuple(into_zigzag(x, ring) for x in arrays)
    b, t, h, k = q_bthk.shape
    g = k_bsgk.shape[2]
    q_bgrtk = arrays[0].reshape(b, t, g, h // g, k).transpose(0, 2, 3, 1, 4)
    k_bgsk, v_bgsk = arrays[1].swapaxes(1, 2), arrays[2].swapaxes(1, 2)
    out_bgrtk = _round(ring, q_bgrtk, k_bgsk, v_bgsk, arrays[3], arrays[4])
    out_bthk = out_bgrtk.transpose(0, 3, 1, 2, 4).reshape(b, t, h, k)
    return from_zigzag(out_bthk, ring) if ring.zigzag else out_bthk


def into_zigzag(x_bt: jax.Array, ring: Ring) -> jax.Array:
    """From two consecutive pieces of the length (pieces 2i and 2i+1 of 2n) to pieces i and 2n-1-i, on device i."""
    even, odd = jnp.split(x_bt, 2, axis=1)
    even = jax.lax.ppermute(even, ring.axis, [(i, _home(2 * i, ring.size)) for i in range(ring.size)])
    odd = jax.lax.ppermute(odd, ring.axis, [(i, _home(2 * i + 1, ring.size)) for i in range(ring.size)])
    first = jax.lax.axis_index(ring.axis) % 2 == 0  # then piece i is an even one
    return jnp.concatenate([jnp.where(first, even, odd), jnp.where(first, odd, even)], axis=1)


def from_zigzag(x_bt: jax.Array, ring: Ring) -> jax.Array:
    """The way back."""
    low, high = jnp.split(x_bt, 2, axis=1)
    first = jax.lax.axis_index(ring.axis) % 2 == 0
    even, odd = jnp.where(first, low, high), jnp.where(first, high, low)
    even = jax.lax.ppermute(even, ring.axis, [(_home(2 * i, ring.size), i) for i in range(ring.size)])
    odd = jax.lax.ppermute(odd, ring.axis, [(_home(2 * i + 1, ring.size), i) for i in range(ring.size)])
    return jnp.concatenate([even, odd], axis=1)


def _home(piece: int, size: int) -> int:
    return piece if piece < size else 2 * size - 1 - piece


def _index(ring: Ring, device: jax.Array, t: int) -> jax.Array:
    """Where in its row each of a device's positions stands, (t)."""
    if not ring.zigzag:
        return device * t + jnp.arange(t)
    half = jnp.arange(t // 2)
    return jnp.concatenate([device * (t // 2) + half, (2 * ring.size - 1 - device) * (t // 2) + half])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _round(ring, q_bgrtk, k_bgsk, v_bgsk, q_segments_bt, k_segments_bs):
    return _forward(ring, q_bgrtk, k_bgsk, v_bgsk, q_segments_bt, k_segments_bs)[0]


def _forward(ring, q_bgrtk, k_bgsk, v_bgsk, q_segments_bt, k_segments_bs):
    here, (t, s) = jax.lax.axis_index(ring.axis), (q_bgrtk.shape[3], k_bgsk.shape[2])
    queries = Seen(q_segments_bt, _index(ring, here, t))
    sums = (jnp.zeros(q_bgrtk.shape, jnp.float32), *(jnp.full(q_bgrtk.shape[:-1], x, jnp.float32) for x in (MASKED, 0)))

    def attend(sums, pairs, moving, device):
        k_bgsk, v_bgsk, segments_bs = moving
        keys = Seen(segments_bs, _index(ring, device, s))
        for q_part, k_part in pairs:
            q, qs = _piece(q_bgrtk, queries, q_part)
            k, ks = _piece(k_bgsk, keys, k_part)
            v, _ = _piece(v_bgsk, keys, k_part)
            part = _merged(tuple(_take(x, q_part, 3) for x in sums), _block(ring, q, k, v, qs, ks))
            sums = tuple(_put(x, new, q_part, 3) for x, new in zip(sums, part, strict=True))
        return sums

    moving = (k_bgsk, v_bgsk, k_segments_bs)
    onward = _passed(ring, moving)  # under way while the first products are made
    sums = attend(sums, _own(ring), moving, here)

    def step(carry, i):
        sums, moving = carry
        onward, device = _passed(ring, moving), (here - i) % ring.size
        return (attend(sums, _others(ring, device, here), moving, device), onward), None

    if ring.size > 1:
        (sums, _), _ = jax.lax.scan(step, (sums, onward), jnp.arange(1, ring.size))
    out, largest, total = sums
    out_bgrtk = (out / total[..., None]).astype(q_bgrtk.dtype)
    out_bgrtk, largest, total = checkpoint_name((out_bgrtk, largest, total), ring.saved)
    return out_bgrtk, (q_bgrtk, k_bgsk, v_bgsk, q_segments_bt, k_segments_bs, out_bgrtk, largest, total)


def _backward(ring, saved, dout_bgrtk):
    q_bgrtk, k_bgsk, v_bgsk, q_segments_bt, k_segments_bs, out_bgrtk, largest, total = saved
    here, (t, s) = jax.lax.axis_index(ring.axis), (q_bgrtk.shape[3], k_bgsk.shape[2])
    queries = Seen(q_segments_bt, _index(ring, here, t))
    along_bgrt = jnp.sum(dout_bgrtk.astype(jnp.float32) * out_bgrtk.astype(jnp.float32), axis=-1)

    def attend(dq, pairs, moving, device):
        k_bgsk, v_bgsk, segments_bs, dk, dv = moving
        keys = Seen(segments_bs, _index(ring, device, s))
        for q_part, k_part in pairs:
            q, qs = _piece(q_bgrtk, queries, q_part)
            k, ks = _piece(k_bgsk, keys, k_part)
            v, _ = _piece(v_bgsk, keys, k_part)
            of_rows = tuple(_take(x, q_part, 3) for x in (dout_bgrtk, largest, total, along_bgrt))
            more = _block_gradient(ring, q, k, v, qs, ks, *of_rows)
            dq = _put(dq, _take(dq, q_part, 3) + more[0], q_part, 3)
            dk = _put(dk, _take(dk, k_part, 2) + more[1], k_part, 2)
            dv = _put(dv, _take(dv, k_part, 2) + more[2], k_part, 2)
        return dq, (k_bgsk, v_bgsk, segments_bs, dk, dv)

    def zeros(x):
        return jnp.zeros(x.shape, jnp.float32)

    moving = (k_bgsk, v_bgsk, k_segments_bs, zeros(k_bgsk), zeros(v_bgsk))
    dq, moving = attend(zeros(q_bgrtk), _own(ring), moving, here)

    def step(carry, i):
        dq, moving = carry
        device = (here - i) % ring.size
        return attend(dq, _others(ring, device, here), _passed(ring, moving), device), None

    if ring.size > 1:
        (dq, moving), _ = jax.lax.scan(step, (dq, moving), jnp.arange(1, ring.size))
    dk, dv = _passed(ring, moving[3:])  # home
    return dq.astype(q_bgrtk.dtype), dk.astype(k_bgsk.dtype), dv.astype(v_bgsk.dtype), None, None


_round.defvjp(_forward, _backward)


def _passed(ring: Ring, arrays: tuple) -> tuple:
    """What the device before this one had."""
    steps = [(i, (i + 1) % ring.size) for i in range(ring.size)]
    return tuple(jax.lax.ppermute(x, ring.axis, steps) for x in arrays)


def _own(ring: Ring) -> list[tuple]:
    """Which part of the queries meets which part of a device's own keys; None: all, else a half, 0 or 1."""
    return [(0, 0), (1, None)] if ring.zigzag else [(None, None)]


def _others(ring: Ring, device: jax.Array, here: jax.Array) -> list[tuple]:
    """The same for the keys of another device: of zigzag pieces the late queries see its early keys, and, of an earlier
    device, the early queries do, too; of a later one, the late queries see its late keys."""
    if not ring.zigzag:
        return [(None, None)]
    half = (device > here).astype(jnp.int32)
    return [(1, 0), (half, half)]


def _take(x: jax.Array, half: jax.Array | int | None, axis: int) -> jax.Array:
    if half is None:
        return x
    size = x.shape[axis] // 2
    return jax.lax.dynamic_slice_in_dim(x, half * size, size, axis)


def _put(x: jax.Array, part: jax.Array, half: jax.Array | int | None, axis: int) -> jax.Array:
    return part if half is None else jax.lax.dynamic_update_slice_in_dim(x, part, half * part.shape[axis], axis)


def _piece(x: jax.Array, seen: Seen, half: jax.Array | int | None) -> tuple[jax.Array, Seen]:
    return _take(x, half, x.ndim - 2), Seen(_take(seen.segments_bt, half, 1), _take(seen.index_t, half, 0))


def _merged(sums: tuple, more: tuple) -> tuple:
    """Two parts of a softmax: weighted values, the largest logit, and the sum of exponentials below it, of each."""
    largest = jnp.maximum(sums[1], more[1])
    mine, other = jnp.exp(sums[1] - largest), jnp.exp(more[1] - largest)
    out = sums[0] * mine[..., None] + more[0] * other[..., None]
    return out, largest, sums[2] * mine + more[2] * other


def _by_pieces(function, axes: tuple[int, ...], arrays: tuple) -> tuple:
    """`function` of arrays that have the queries along `axes`, `PIECE` of them at a time; what it gives is stacked."""
    t = arrays[0].shape[axes[0]]
    pieces = t // PIECE if t % PIECE == 0 else 1

    def split(x, axis):
        return jnp.moveaxis(x.reshape(*x.shape[:axis], pieces, t // pieces, *x.shape[axis + 1 :]), axis, 0)

    return jax.lax.map(lambda parts: function(*parts), tuple(map(split, arrays, axes)))


def _joined(x: jax.Array, axis: int) -> jax.Array:
    """Stacked pieces of queries in one, along `axis`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _logits(ring: Ring, q_bgrtk, k_bgsk, queries: Seen, keys: Seen) -> tuple[jax.Array, jax.Array | float]:
    """Masked logits (b, g, r, t, s), and their slope by what they were before the soft cap."""
    logits, slope = jnp.einsum("bgrtk,bgsk->bgrts", q_bgrtk, k_bgsk, preferred_element_type=jnp.float32), 1.0
    if ring.softcap is not None:
        share = jnp.tanh(logits / ring.softcap)
        logits, slope = ring.softcap * share, 1 - share**2
    keep_bts = queries.segments_bt[:, :, None] == keys.segments_bt[:, None, :]
    keep_bts &= keys.segments_bt[:, None, :] > 0
    distance_ts = queries.index_t[:, None] - keys.index_t[None, :]
    if ring.causal:
        keep_bts &= distance_ts >= 0
    if ring.window is not None:
        keep_bts &= jnp.abs(distance_ts) < ring.window
    return jnp.where(keep_bts[:, None, None], logits, MASKED), slope


def _block(ring: Ring, q_bgrtk, k_bgsk, v_bgsk, queries: Seen, keys: Seen) -> tuple:
    """Of these queries and keys, what `_merged` puts together."""

    def piece(q, segments, index):
        logits, _ = _logits(ring, q, k_bgsk, Seen(segments, index), keys)
        largest = jnp.max(logits, axis=-1)
        weights = jnp.exp(logits - largest[..., None])
        out = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v_bgsk.dtype), v_bgsk, preferred_element_type=jnp.float32)
        return out, largest, jnp.sum(weights, axis=-1)

    parts = _by_pieces(piece, (3, 1, 0), (q_bgrtk, *queries))
    return tuple(_joined(x, 3) for x in parts)


def _block_gradient(ring: Ring, q_bgrtk, k_bgsk, v_bgsk, queries, keys, dout, largest, total, along) -> tuple:
    """Gradients of these queries, keys and values, float32; Dao et al. 2022, arXiv:2205.14135, appendix B.2."""

    def piece(q, segments, index, dout, largest, total, along):
        logits, slope = _logits(ring, q, k_bgsk, Seen(segments, index), keys)
        weights = jnp.exp(logits - largest[..., None]) / total[..., None]
        dweights = jnp.einsum("bgrtk,bgsk->bgrts", dout, v_bgsk, preferred_element_type=jnp.float32)
        dlogits = (weights * (dweights - along[..., None]) * slope).astype(q.dtype)
        exact = partial(jnp.einsum, preferred_element_type=jnp.float32)
        dq, dk = exact("bgrts,bgsk->bgrtk", dlogits, k_bgsk), exact("bgrts,bgrtk->bgsk", dlogits, q)
        return dq, dk, exact("bgrts,bgrtk->bgsk", weights.astype(dout.dtype), dout)

    arrays = (q_bgrtk, *queries, dout, largest, total, along)
    dq, dk, dv = _by_pieces(piece, (3, 1, 0, 3, 3, 3, 3), arrays)
    return _joined(dq, 3), jnp.sum(dk, axis=0), jnp.sum(dv, axis=0)
