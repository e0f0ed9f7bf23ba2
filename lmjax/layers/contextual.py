"""Attention where `layout.acts.length` cuts rows over a mesh axis: by a ring, by an all-to-all, or by gathered keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from lmjax.errors import UserError
from lmjax.layers.backends import RING, lack
from lmjax.sharding import Layout, current
from lmjax.sharding.local import Entry, axes_of, entries, on_each, parts
from lmjax.sharding.ring import Ring, ring_attention
from lmjax.sharding.ulysses import enough_heads, whole_heads, whole_rows

if TYPE_CHECKING:
    from lmjax.layers.attention import Keep


class Cut(NamedTuple):
    """How q (b, t, h, k) is cut, by entries of a PartitionSpec; whether key/value heads are cut like the query heads."""

    layout: Layout
    mesh: Mesh
    batch: Entry
    length: str
    heads: Entry
    split: bool

    @property
    def size(self) -> int:
        return self.mesh.shape[self.length]


def attend_over_mesh(attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`attend` for rows that the enclosing layout cuts, by `layout.context`; `attend` itself where it cuts none.

    `ring`: keys and values go round, each device attends for its own queries (`sharding.ring`); no bias, no prefix.
    `ulysses`: every device has all of the length for a part of the heads, and `attend` does the rest. `gather`: XLA
    gives every device all keys. `auto`: ulysses where `attend` is splash, which is faster than the ring's own
    products, or needs what a ring cannot do, and there are heads enough; else the ring, else gather.
    """
    here = current()
    axes = (
        () if here is None else [axis for axis in axes_of(entries(here[0], "acts", "t")[0]) if here[1].shape[axis] > 1]
    )
    if not axes:
        return attend
    if len(axes) > 1:
        raise UserError(f"layout.acts.length={tuple(axes)}: attention over a length that is cut takes one mesh axis")
    return partial(_attend, attend, axes[0])


def _attend(attend, length, q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    from lmjax.layers.splash import splash  # which needs this module's users

    layout, mesh = current()
    cut = _cut(layout, mesh, length, q_bthk.shape, k_bsgk.shape[2])
    whys = {"ring": _no_ring(cut, q_bthk.shape[1], k_bsgk.shape[1], keep, bias_hts is not None),
            "ulysses": _no_ulysses(cut, q_bthk.shape, k_bsgk.shape[1]), "gather": None}  # fmt: skip
    kind = layout.context
    if kind == "auto":
        order = ("ulysses", "ring", "gather") if attend is splash else ("ring", "ulysses", "gather")
        kind = next(name for name in order if whys[name] is None)
    if whys[kind]:
        able = [name for name, why in whys.items() if why is None]
        raise UserError(f"layout.context={kind}: {whys[kind]}; use {' or '.join(able)}")
    if kind == "gather":
        return attend(q_bthk, k_bsgk, v_bsgk, keep, bias_hts=bias_hts, softcap=softcap)
    run = _by_ring if kind == "ring" else partial(_by_ulysses, attend)
    return run(cut, q_bthk, k_bsgk, v_bsgk, keep, bias_hts, softcap)


def _no_ring(cut: Cut, t: int, s: int, keep: Keep, bias: bool) -> str | None:
    return lack(RING, bias=bias, prefix=keep.prefix_bs is not None) or _uneven(cut, t, s)


def _no_ulysses(cut: Cut, shape: tuple[int, ...], s: int) -> str | None:
    own = shape[2] // parts(cut.mesh, cut.heads)
    if own % cut.size:
        count = parts(cut.mesh, cut.heads)
        over = f", {own} on each of {count} devices ({', '.join(axes_of(cut.heads))})" if count > 1 else ""
        return f"{cut.length}={cut.size} does not divide the {shape[2]} heads{over}"
    return _uneven(cut, shape[1], s)


def _uneven(cut: Cut, t: int, s: int) -> str | None:
    uneven = [size for size in (t, s) if size % cut.size]
    return f"{cut.length}={cut.size} does not divide rows of {uneven[0]} positions" if uneven else None


def _cut(layout: Layout, mesh: Mesh, length: str, shape: tuple[int, ...], g: int) -> Cut:
    b, _, h, _ = shape
    batch, heads = entries(layout, "acts", "bh")
    if b % parts(mesh, batch):
        batch = None  # the one row that `init` traces; the rows of real batches are checked to divide
    count, group = parts(mesh, heads), h // g
    own = h // count if h % count == 0 else 0
    if not own or (own % group and group % own):
        over = ", ".join(axes_of(heads))
        raise UserError(
            f"{count} devices ({over}) cannot have an equal share of {h} query heads and {g} key/value heads; change "
            "layout.mesh, or keep heads whole with --config.layout.acts.heads='()'"
        )
    split = entries(layout, "acts", "g")[0] == heads and g % count == 0
    return Cut(layout, mesh, batch, length, heads, split)


def _own_heads(cut: Cut, h: int, k_bsgk: jax.Array, v_bsgk: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where every device has all key/value heads: those of its query heads. Inside `on_each`."""
    count, g = parts(cut.mesh, cut.heads), k_bsgk.shape[2]
    if cut.split or count == 1:
        return k_bsgk, v_bsgk
    own, group = h // count, h // g
    first, some = jax.lax.axis_index(axes_of(cut.heads)) * own // group, max(1, own // group)
    return tuple(jax.lax.dynamic_slice_in_dim(x, first, some, axis=2) for x in (k_bsgk, v_bsgk))


def _by_ring(cut: Cut, q_bthk, k_bsgk, v_bsgk, keep: Keep, bias_hts, softcap) -> jax.Array:
    causal = keep.pattern == "causal"
    balanced = causal and q_bthk.shape[1] % (2 * cut.size) == 0
    ring = Ring(cut.length, cut.size, causal, keep.window, softcap, zigzag=balanced)

    def local(q_bthk, k_bsgk, v_bsgk, query_segments_bt, key_segments_bs):
        k_bsgk, v_bsgk = _own_heads(cut, h, k_bsgk, v_bsgk)
        return ring_attention(ring, q_bthk, k_bsgk, v_bsgk, query_segments_bt, key_segments_bs)

    h = q_bthk.shape[2]
    q_spec = PartitionSpec(cut.batch, cut.length, cut.heads)
    kv_spec = PartitionSpec(cut.batch, cut.length, cut.heads if cut.split else None)
    rows = PartitionSpec(cut.batch, cut.length)
    run = on_each(local, cut.layout, cut.mesh, (q_spec, kv_spec, kv_spec, rows, rows), q_spec)
    return run(q_bthk, k_bsgk, v_bsgk, keep.query_segments_bt, keep.key_segments_bs)


def _by_ulysses(attend, cut: Cut, q_bthk, k_bsgk, v_bsgk, keep: Keep, bias_hts, softcap) -> jax.Array:
    h, seen = q_bthk.shape[2], (keep.query_segments_bt, keep.key_segments_bs, keep.prefix_bs)

    def local(q_bthk, k_bsgk, v_bsgk, seen, bias_hts):
        k_bsgk, v_bsgk = (enough_heads(x, cut.size) for x in _own_heads(cut, h, k_bsgk, v_bsgk))
        arrays = (whole_rows(x, cut.length, cut.size) for x in (q_bthk, k_bsgk, v_bsgk))
        own = keep._replace(query_segments_bt=seen[0], key_segments_bs=seen[1], prefix_bs=seen[2])
        out_bthk = attend(*arrays, own, bias_hts=bias_hts, softcap=softcap)
        return whole_heads(out_bthk, cut.length, cut.size)

    q_spec = PartitionSpec(cut.batch, cut.length, cut.heads)
    kv_spec = PartitionSpec(cut.batch, cut.length, cut.heads if cut.split else None)
    bias_spec = PartitionSpec((*axes_of(cut.heads), cut.length))
    run = on_each(local, cut.layout, cut.mesh, (q_spec, kv_spec, kv_spec, PartitionSpec(cut.batch), bias_spec), q_spec)
    return run(q_bthk, k_bsgk, v_bsgk, seen, bias_hts)
