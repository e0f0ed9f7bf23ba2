"""Splash attention, the TPU kernel that never writes the matrix of logits, on one device or under a mesh."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from lmjax.errors import UserError
from lmjax.layers.attention import Keep
from lmjax.layers.backends import SUPPORTS, refusal
from lmjax.layers.blocked import SAVED
from lmjax.sharding import Layout, current

TILE = SUPPORTS["splash"].multiple
LARGEST_BLOCK = 512  # of queries and of keys; MaxText's choice on every chip, and every head size compiles with it


def splash(q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """`dense` for whole sequences, with memory linear in their length; `q_bthk` is already scaled.

    Key/value heads are shared without being repeated. Under a mesh every device attends for its own rows and heads, by
    `layout.acts`, over the whole length. On a CPU the kernel is interpreted, slowly: for tests. What padding (segment
    0) gives is finite and otherwise unspecified. The kernel is jax.experimental.pallas.ops.tpu.splash_attention, after
    Dao 2023, arXiv:2307.08691.
    """
    t, s = q_bthk.shape[1], k_bsgk.shape[1]
    asked = {"bias": bias_hts is not None, "cache": keep.over_cache(t, s), "prefix": keep.prefix_bs is not None}
    for length in (t, s):
        if why := refusal("splash", length=length, **asked):
            raise UserError(why)
    arrays = (q_bthk, k_bsgk, v_bsgk, keep.query_segments_bt, keep.key_segments_bs)
    here = current()
    platform = here[1].devices.flat[0].platform if here else jax.default_backend()
    options = {"window": keep.window, "pattern": keep.pattern, "softcap": softcap}
    attend = partial(_attend, **options, interpret=platform != "tpu")
    if here is None or here[1].size == 1:
        return attend(*arrays)
    return _sharded(attend, arrays, *here)


def _attend(
    q_bthk, k_bsgk, v_bsgk, query_segments_bt, key_segments_bs, *, window, pattern, softcap, interpret
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels  # 0.3 s that only its users pay

    t, h, s = *q_bthk.shape[1:3], k_bsgk.shape[1]
    near, causal = t if window is None else window, pattern == "causal"
    if near < t:
        mask = kernels.LocalMask((t, t), (near - 1, 0 if causal else near - 1), offset=0)
    else:
        mask = kernels.CausalMask((t, t)) if causal else kernels.FullMask((t, s))
    q_block, k_block = _block(t), _block(s)
    sizes = kernels.BlockSizes(
        block_q=q_block, block_kv=k_block, block_q_dkv=q_block, block_kv_dkv=k_block, block_q_dq=q_block,
        block_kv_dq=k_block,
    )  # fmt: skip
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([mask] * h), block_sizes=sizes, head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=softcap, residual_checkpoint_name=SAVED, interpret=interpret,
    )  # fmt: skip
    q_bhtk, k_bgsk, v_bgsk = (jnp.swapaxes(x, 1, 2) for x in (q_bthk, k_bsgk, v_bsgk))
    segments = kernels.SegmentIds(query_segments_bt, key_segments_bs)
    return jnp.swapaxes(jax.vmap(kernel)(q_bhtk, k_bgsk, v_bgsk, segments), 1, 2)


def _block(length: int) -> int:
    return max(size for size in range(TILE, min(length, LARGEST_BLOCK) + 1, TILE) if length % size == 0)


def _sharded(attend, arrays, layout: Layout, mesh: Mesh) -> jax.Array:
    """Every device attends for its rows and heads: XLA does not partition a Pallas kernel by itself."""
    (b, _, h, _), g = arrays[0].shape, arrays[1].shape[2]
    batch, heads = layout.spec("acts", "bh")
    kv_heads = layout.spec("acts", "bg")[1]
    if b % _parts(mesh, batch):
        batch = None  # the one row that `init` traces; the rows of real batches are checked to divide
    parts = _parts(mesh, heads)
    own, group = h // parts, h // g  # query heads of a device, and of a key/value head
    if h % parts or (own % group and group % own):
        raise UserError(
            f"splash attention cannot give {parts} devices ({heads}) an equal share of {h} query heads and {g} "
            f"key/value heads; change layout.mesh, or keep heads whole with --config.layout.acts.heads='()'"
        )
    split = kv_heads == heads and g % parts == 0

    def local(q_bthk, k_bsgk, v_bsgk, *segments):
        if not split and own != h:  # every device has all key/value heads, and needs those of its query heads
            first, count = jax.lax.axis_index(heads) * own // group, max(1, own // group)
            k_bsgk, v_bsgk = (jax.lax.dynamic_slice_in_dim(x, first, count, axis=2) for x in (k_bsgk, v_bsgk))
        return attend(q_bthk, k_bsgk, v_bsgk, *segments)

    q_spec, segment_spec = PartitionSpec(batch, None, heads), PartitionSpec(batch)
    kv_spec = PartitionSpec(batch, None, heads if split else None)
    in_specs = (q_spec, kv_spec, kv_spec, segment_spec, segment_spec)
    # The kernel does not say along which mesh axes its outputs vary, so that cannot be checked.
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=q_spec, check_vma=False)(*arrays)


def _parts(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
    """Into how many parts an entry of a PartitionSpec cuts its dimension."""
    axes = (entry,) if isinstance(entry, str) else entry or ()
    return math.prod(mesh.shape[axis] for axis in axes)
