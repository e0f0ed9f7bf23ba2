"""Position encodings and a stack of blocks over embedded tokens: an encoder, or a decoder that also reads a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers import positions as pos
from lmjax.layers.attention import Attention, Context, Keep, dense, distances, empty_cache, remember
from lmjax.layers.mlp import Mlp
from lmjax.layers.norms import NORMS
from lmjax.layers.stack import Block, apply_cached, apply_stack, init_stack, layer_slices
from lmjax.sharding import constrain, param

EMBED_STD = 0.02  # Devlin et al. 2019's published code; Radford et al. 2019, section 2.3


def normal(scale: float) -> Callable[[int], Callable]:
    """An initialiser per fan-in: normal with standard deviation scale / sqrt(fan_in)."""

    def of(fan_in: int) -> Callable:
        return nn.initializers.normal(scale / fan_in**0.5)

    return of


@dataclass(frozen=True)
class Shape:
    """The sizes of a `Transformer`, its parts by name, and how it is run."""

    depth: int
    width: int
    heads: int
    kv_heads: int
    head: int
    mlp: str
    mlp_width: int
    max_length: int  # of the table of learned positions
    norm: str = "layernorm"
    norm_eps: float | None = None  # none: the norm's own
    norm_place: Literal["pre", "post"] = "post"
    embed_norm: bool = False  # of what goes into the first block
    position: str = "learned"
    rope_base: float = 10_000.0
    buckets: int = 32  # of T5 positions
    furthest: int = 128  # distance from which on they are all alike
    scaled: bool = True  # queries by 1 / sqrt(head); T5 has that in its initial weights
    bias: bool = True
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    init_scale: float = 1.0
    dtype: Any = jnp.float32
    attend: Callable[..., jax.Array] = dense

    def make_norm(self) -> Callable[..., nn.Module]:
        eps = {} if self.norm_eps is None else {"eps": self.norm_eps}
        return partial(NORMS[self.norm], **eps, **({} if self.norm == "rmsnorm" else {"bias": self.bias}))

    def make_block(self, *, cross: bool) -> Block:
        """Its initial weights go by fan-in; those that end a residual branch are smaller by the depth, as in GPT-2."""
        in_init, out_init = normal(self.init_scale), normal(self.init_scale / (2 * self.depth) ** 0.5)
        attention = partial(
            Attention, heads=self.heads, kv_heads=self.kv_heads, head=self.head, in_init=in_init, out_init=out_init,
            attend=self.attend, bias=self.bias, scaled=self.scaled,
        )  # fmt: skip
        mlp = partial(Mlp, kind=self.mlp, hidden=self.mlp_width, in_init=in_init, out_init=out_init, bias=self.bias)
        over = partial(attention, over="memory") if cross else None
        return Block(attention, mlp, self.make_norm(), self.norm_place, self.dropout, over, parent=None)


class Memory(NamedTuple):
    """What an encoder leaves to a decoder: features and segments of every position of a source."""

    x_bsd: jax.Array | None
    segments_bs: jax.Array


class Transformer(nn.Module):
    """Blocks over embedded tokens, in both directions or causally, and over a `Memory` when `cross`.

    Parameters: `position` (learned: (max_length, d); T5: (buckets, h), shared by all layers), `embed_norm`, `blocks`
    (stacked), and `norm` after pre-norm blocks.
    """

    shape: Shape
    pattern: Literal["causal", "bidirectional"] = "bidirectional"
    cross: bool = False

    @nn.compact
    def __call__(
        self, x_btd: jax.Array, segments_bt: jax.Array, positions_bt: jax.Array, *, train: bool,
        memory: Memory | None = None, cache: dict | None = None,
    ) -> tuple[jax.Array, dict | None]:  # fmt: skip
        """Features (b, t, d), and with a cache of `init_cache` what it is after these tokens.

        A cache is filled with the keys and values of a memory when one is given, and read without one afterwards.
        """
        shape = self.shape
        x_btd = self._placed(x_btd, positions_bt)
        if shape.embed_norm:
            x_btd = shape.make_norm()(name="embed_norm")(x_btd)
        x_btd = constrain(nn.Dropout(shape.dropout, deterministic=not train)(x_btd), "btd")
        block = shape.make_block(cross=self.cross)
        if cache is None:
            context = self._context(segments_bt, segments_bt, 0, positions_bt, memory)
            blocks = self.param("blocks", init_stack, block, shape.depth, x_btd, context)
            rng = self.make_rng("dropout") if train and shape.dropout else None
            x_btd = apply_stack(block, blocks, shape.depth, x_btd, context, rng=rng, train=train, scan=shape.scan,
                                remat=shape.remat)  # fmt: skip
        else:
            x_btd, cache = self._cached(block, x_btd, segments_bt, positions_bt, memory, cache)
        return (x_btd if shape.norm_place == "post" else shape.make_norm()(name="norm")(x_btd)), cache

    def init_cache(self, rows: int, length: int) -> dict:
        """An empty cache for `length` tokens; keys and values by layer, and those of a memory once there is one."""
        one = (rows, length, self.shape.kv_heads, self.shape.head)
        layers = [(empty_cache(*one, self.shape.dtype), empty_cache(*one, self.shape.dtype))
                  for _ in range(self.shape.depth)]  # fmt: skip
        return {"layers": layers, "segments": jnp.zeros((rows, length), jnp.int32), "index": jnp.int32(0)}

    def _cached(self, block, x_btd, segments_bt, positions_bt, memory, cache) -> tuple[jax.Array, dict]:
        slices = layer_slices(self.get_variable("params", "blocks"), self.shape.depth)
        index, source = cache["index"], cache.get("source")
        segments_bs = jax.lax.dynamic_update_slice(cache["segments"], segments_bt, (0, index))
        if memory is not None:
            kept = [remember(weights["cross"], memory.x_bsd) for weights in slices]
            source = {"layers": kept, "segments": memory.segments_bs}
        read = Memory(None, source["segments"]) if self.cross else None
        context = self._context(segments_bt, segments_bs, index, positions_bt, read)
        caches = list(zip(cache["layers"], source["layers"], strict=True)) if self.cross else cache["layers"]
        x_btd, caches = apply_cached(block, slices, x_btd, context, caches)
        layers = [own for own, _ in caches] if self.cross else caches
        new = {"layers": layers, "segments": segments_bs, "index": index + x_btd.shape[1]}
        return x_btd, new | ({"source": source} if self.cross else {})

    def _context(self, segments_bt, segments_bs, offset, positions_bt, memory: Memory | None) -> Context:
        keep = Keep(segments_bt, segments_bs, offset, pattern=self.pattern)
        read = {}
        if self.cross:
            keep_source = Keep(segments_bt, memory.segments_bs, pattern="bidirectional")
            read = {"memory_bsd": memory.x_bsd, "memory_keep": keep_source}
        return Context(keep, self._angles(positions_bt), self._bias(keep), **read)

    def _placed(self, x_btd: jax.Array, positions_bt: jax.Array) -> jax.Array:
        shape = self.shape
        if shape.position == "sinusoidal":  # Vaswani et al. 2017, section 3.4: else the sinusoids drown the tokens
            x_btd = x_btd * jnp.asarray(shape.width**0.5, x_btd.dtype)
            return x_btd + pos.sinusoids(positions_bt, shape.width).astype(x_btd.dtype)
        if shape.position == "learned":
            sizes = (shape.max_length, shape.width)
            table_td = param(self, "position", "td", sizes, nn.initializers.normal(EMBED_STD))
            return x_btd + jnp.take(table_td, positions_bt, axis=0).astype(x_btd.dtype)
        return x_btd

    def _angles(self, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        if self.shape.position != "rope":
            return None
        return pos.rotary_angles(positions_bt, self.shape.head, self.shape.rope_base)

    def _bias(self, keep: Keep) -> jax.Array | None:
        shape, both = self.shape, self.pattern == "bidirectional"
        if shape.position not in ("alibi", "t5"):
            return None
        distance_ts = keep.offset + distances(keep.query_segments_bt.shape[1], keep.key_segments_bs.shape[1])
        if shape.position == "alibi":
            return pos.alibi_bias(jnp.abs(distance_ts) if both else distance_ts, shape.heads)
        table_ch = param(self, "position", "ch", (shape.buckets, shape.heads), nn.initializers.normal(EMBED_STD))
        buckets_ts = pos.t5_buckets(distance_ts, shape.buckets, shape.furthest, pattern=self.pattern)
        return jnp.take(table_ch, buckets_ts, axis=0).transpose(2, 0, 1)
