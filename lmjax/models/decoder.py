"""The decoder-only Transformer: GPT-2- and Llama-shaped models and what lies between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.layers import patches
from lmjax.layers import positions as pos
from lmjax.layers.attention import Attention, Context, Keep, dense, distances, empty_cache
from lmjax.layers.mlp import Mlp
from lmjax.layers.moe import Moe, Routing
from lmjax.layers.norms import NORMS
from lmjax.layers.readout import Readout
from lmjax.layers.stack import Block, apply_cached, apply_stack, init_stack, layer_slices
from lmjax.layers.transformer import EMBED_STD, normal
from lmjax.sharding import constrain, gathered, param


class Decoder(nn.Module):
    """Tokens to logits over the padded vocabulary; every token sees its own document's past only.

    With `patch`, the batch's `image` (b, s, s, 3) goes before the tokens as squares of `patch` pixels, and only the
    tokens have logits. All patches are seen by all tokens. patch_pattern: `causal`, patches see those before them, as
    tokens do (Fuyu, Bavishi et al. 2023, is such a decoder); `bidirectional`, all patches see each other, as a prefix
    (PaliGemma, Beyer et al. 2024, arXiv:2407.07726, section 3.1).

    Parameters: `embed` (v, d), `patches`, `position` (learned or T5), `blocks` (stacked), `norm`, `head` (untied).
    """

    vocab: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    head: int
    max_length: int
    mlp: str = "swiglu"
    mlp_width: int = 0
    norm: str = "rmsnorm"
    norm_place: str = "pre"
    position: str = "rope"
    rope_base: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_trained: int = 8192
    rope_low: float = 1.0
    rope_high: float = 4.0
    window: int | None = None
    window_layers: str = "all"
    prefix: bool = False  # batches have a prefix, which is seen in both directions
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    qk_norm: bool = False
    bias: bool = False
    qkv_bias: bool = False
    norm_eps: float | None = None  # none: 1e-6 for rmsnorm, 1e-5 for layernorm
    tied: bool = True
    vocab_multiple: int = 128
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    init_scale: float = 1.0
    dtype: Any = jnp.float32
    attend: Callable[..., jax.Array] = dense
    patch: int | None = None  # pixels a side of the squares that images are cut into; none: no images
    patch_pattern: str = "causal"
    image: int = 0  # pixels a side of an image
    moe: Routing | None = None  # experts in the place of every MLP

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, cache: Any = None) -> Any:
        """Logits (b, t, padded v), in training in the compute dtype and else in float32.

        With a cache from `init_cache`: (logits, the cache after this batch).
        """
        if cache is None:
            x_btd, readout = self.features(batch, train=train)
            return readout.logits(x_btd, rounded=train)
        x_btd, _, readout, cache = self._run(batch, train=False, cache=cache)
        if x_btd.shape[1] > batch["tokens"].shape[1]:
            x_btd = patches.text_behind_padding(x_btd, batch["segments"])
        return readout.logits(x_btd), cache

    def features(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, Readout]:
        """What the logits are made of: features (b, t, d) and the readout, for losses that work in chunks."""
        x_btd, _, readout, _ = self._run(batch, train=train, cache=None)
        return x_btd[:, x_btd.shape[1] - batch["tokens"].shape[1] :], readout

    def trunk(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features (b, t, d) and segments (b, t) of all positions, those of an image first, without a readout.

        The batch has tokens, an image, or both.
        """
        return self._run(batch, train=train, cache=None, read=False)[:2]

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    def image_positions(self) -> int:
        """How many patches an image is."""
        return (self.image // self.patch) ** 2 if self.patch else 0

    def init_cache(self, batch_size: int, length: int) -> dict:
        """An empty cache for an image and `length` tokens: keys and values by layer, `segments` (b, s), `index` ().

        Of a model with prefixes it has `prefix` (b, s), too: the tokens of the first call are all of the prefix, or its
        patches alone where the prefix is an image.
        """
        length += self.image_positions()
        shape = (batch_size, length, self.kv_heads, self.head)
        layers = [(empty_cache(*shape, self.dtype), empty_cache(*shape, self.dtype)) for _ in range(self.depth)]
        prefixed = self.prefix or self._sees_patches_both_ways()
        kept = dict.fromkeys(("segments", *(("prefix",) if prefixed else ())), (batch_size, length))
        kept = {name: jnp.zeros(shape, jnp.int32) for name, shape in kept.items()}
        return {"layers": layers, "index": jnp.int32(0), **kept}

    def for_decoding(self, params: dict) -> dict:
        """The parameters for calls with a cache only: layers apart, and weights in the compute dtype, once for all."""

        def cast(leaf: jax.Array) -> jax.Array:
            return leaf.astype(self.dtype) if leaf.ndim > 1 else leaf

        layers = layer_slices(params["blocks"], self.depth)
        tables = {name: cast(params[name]) for name in ("embed", "head") if name in params}
        return {**params, **tables, "blocks": jax.tree.map(cast, layers)}

    @nn.compact
    def _run(self, batch, *, train: bool, cache: Any, read: bool = True) -> tuple[jax.Array, jax.Array, Any, Any]:
        embed_vd = None
        if "tokens" in batch:
            embed_vd = param(self, "embed", "vd", (self.padded_vocab(), self.width), nn.initializers.normal(EMBED_STD))
            embed_vd = gathered(embed_vd, "vd", self.dtype)
        x_btd, segments_bt, positions_bt = self._inputs(batch, embed_vd, ragged=cache is not None)
        x_btd = constrain(self._drop(x_btd, train), "btd")
        keep, kept = self._keep(batch, segments_bt, positions_bt, cache)
        context = Context(keep, self._angles(positions_bt), self._bias(keep))
        if self.window_layers == "alternate":  # Brown et al. 2020, arXiv:2005.14165, section 2.1: GPT-3
            context = (context._replace(keep=keep._replace(window=None)), context)
        block = self._block()
        if cache is None:
            blocks = self.param("blocks", init_stack, block, self.depth, x_btd, context)
            rng = self.make_rng("dropout") if train and self.dropout else None
            x_btd = apply_stack(block, blocks, self.depth, x_btd, context, rng=rng, train=train, scan=self.scan,
                                remat=self.remat, sow=self.sow)  # fmt: skip
        else:
            slices = layer_slices(self.get_variable("params", "blocks"), self.depth)
            x_btd, layers = apply_cached(block, slices, x_btd, context, cache["layers"])
            cache = {"layers": layers, "index": cache["index"] + x_btd.shape[1], **kept}
        if self.norm_place == "pre":
            x_btd = self._norm()(name="norm")(x_btd)
        return x_btd, segments_bt, self._readout(embed_vd) if read else None, cache

    def _sees_patches_both_ways(self) -> bool:
        return self.patch is not None and self.patch_pattern == "bidirectional"

    def _keep(self, batch, segments_bt, positions_bt, cache: Any) -> tuple[Keep, dict[str, jax.Array]]:
        """Who sees whom, and what a cache keeps of that: of a model with prefixes, the first tokens of all are one."""
        prefix_bt = batch.get("prefix")
        if self._sees_patches_both_ways():
            prefix_bt = (positions_bt < 0).astype(jnp.int32)  # those of patches end at -1
        if cache is None:
            return Keep(segments_bt, segments_bt, 0, self.window, prefix_bs=prefix_bt), {}
        index, new = cache["index"], {"segments": segments_bt}
        if self.prefix:
            new["prefix"] = jnp.where(index == 0, segments_bt, 0)
        elif self._sees_patches_both_ways():
            new["prefix"] = prefix_bt
        kept = {name: jax.lax.dynamic_update_slice(cache[name], x_bt, (0, index)) for name, x_bt in new.items()}
        return Keep(segments_bt, kept["segments"], index, self.window, prefix_bs=kept.get("prefix")), kept

    def _inputs(self, batch, embed_vd: jax.Array | None, *, ragged: bool) -> patches.Inputs:
        """Tokens, patches, or both; ragged: the texts are padded on the left."""
        image = text = None
        if "image" in batch:
            self._check_image(batch["image"].shape[1:])
            squares = patches.Patches(self.patch, self.width, self.dtype, name="patches")
            image = patches.of_image(squares(batch["image"]))
        if embed_vd is not None:
            x_btd = jnp.take(embed_vd, batch["tokens"], axis=0).astype(self.dtype)
            if self.position == "sinusoidal":  # Vaswani et al. 2017, section 3.4: else the sinusoids drown the tokens
                x_btd = x_btd * jnp.asarray(self.width**0.5, self.dtype)
            x_btd = x_btd + self._absolute(batch["positions"])
            text = patches.Inputs(x_btd, batch["segments"], batch["positions"])
        if image is None or text is None:
            return text if image is None else image
        return (patches.behind_padding if ragged else patches.joined)(image, text)

    def _check_image(self, shape: tuple[int, ...]) -> None:
        if not self.patch:
            raise UserError("images for a model without them: model.patch is none")
        if shape != (self.image, self.image, 3):
            raise UserError(
                f"an image of shape {shape}: the model's are {self.image} pixels a side, with three colours each"
            )

    def _readout(self, embed_vd: jax.Array) -> Readout:
        head_vd = embed_vd
        if not self.tied:
            head_vd = param(self, "head", "vd", embed_vd.shape, normal(self.init_scale)(self.width))
            head_vd = gathered(head_vd, "vd", self.dtype)
        return Readout(head_vd, self.vocab, self.logit_softcap)

    def _norm(self) -> Callable[..., nn.Module]:
        eps = {} if self.norm_eps is None else {"eps": self.norm_eps}
        return partial(NORMS[self.norm], **eps, **({} if self.norm == "rmsnorm" else {"bias": self.bias}))

    def _drop(self, x_btd, train):
        return nn.Dropout(self.dropout, deterministic=not train)(x_btd)

    def _block(self) -> Block:
        in_init = normal(self.init_scale)
        out_init = normal(self.init_scale / (2 * self.depth) ** 0.5)  # Radford et al. 2019, section 2.3: residual paths
        attention = partial(
            Attention, heads=self.heads, kv_heads=self.kv_heads, head=self.head, in_init=in_init, out_init=out_init,
            attend=self.attend, softcap=self.attention_softcap, qk_norm=self.qk_norm, bias=self.bias,
            qkv_bias=self.qkv_bias, norm_eps=1e-6 if self.norm_eps is None else self.norm_eps,
        )  # fmt: skip
        mlp = partial(Mlp, kind=self.mlp, hidden=self.mlp_width, in_init=in_init, out_init=out_init, bias=self.bias)
        if self.moe is not None:
            mlp = partial(Moe, self.moe, self.mlp, self.mlp_width, in_init, out_init)
        return Block(attention, mlp, self._norm(), self.norm_place, self.dropout, parent=None)

    def _absolute(self, positions_bt: jax.Array) -> jax.Array | float:
        if self.position == "sinusoidal":
            return pos.sinusoids(positions_bt, self.width).astype(self.dtype)
        if self.position == "learned":
            table_td = param(self, "position", "td", (self.max_length, self.width), nn.initializers.normal(EMBED_STD))
            return jnp.take(table_td, positions_bt, axis=0).astype(self.dtype)
        return 0.0

    def _angles(self, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        if self.position != "rope":
            return None
        return pos.rotary_angles(positions_bt, self.head, self.rope_base, self.rope_scaling, self.rope_factor,
                                 self.rope_trained, self.rope_low, self.rope_high)  # fmt: skip

    def _bias(self, keep: Keep) -> jax.Array | None:
        if self.position not in ("alibi", "t5"):
            return None
        distance_ts = keep.offset + distances(keep.query_segments_bt.shape[1], keep.key_segments_bs.shape[1])
        if self.position == "alibi":
            return pos.alibi_bias(jnp.abs(distance_ts) if self.prefix else distance_ts, self.heads)
        table_ch = param(self, "position", "ch", (32, self.heads), nn.initializers.normal(EMBED_STD))
        pattern = "bidirectional" if self.prefix else "causal"
        return jnp.take(table_ch, pos.t5_buckets(distance_ts, pattern=pattern), axis=0).transpose(2, 0, 1)
