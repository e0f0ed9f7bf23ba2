"""Images and texts in one space: an encoder each, a projection each, and a learned temperature (CLIP, SigLIP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.linear import project
from lmjax.layers.transformer import Transformer
from lmjax.layers.vision import STD
from lmjax.models.classifier import POOLING
from lmjax.models.images import encoder
from lmjax.models.vit import tower
from lmjax.sharding import constrain, param

LIMIT = math.log(100.0)  # of the scale's logarithm; Radford et al. 2021, section 2.5
PATTERNS = ("causal", "bidirectional")


class Embeddings(NamedTuple):
    """Unit vectors (b, o) in float32 of images and of texts, None where a batch has none, and what makes them logits.

    logits = scale * image . text + bias. bias is None in a model without one.
    """

    image_bo: jax.Array | None
    text_bo: jax.Array | None
    scale: jax.Array
    bias: jax.Array | None


class TextEncoder(nn.Module):
    """Tokens to features (b, t, d) and one vector a row (b, d): that of its last token, or the mean.

    Parameters: `embed` (v, d), `position` (t, d), `blocks` (stacked), `norm`.
    """

    tower: Transformer
    vocab: int
    pool: str = "last"
    vocab_multiple: int = 128

    def setup(self):
        nn.share_scope(self, self.tower)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, jax.Array]:
        shape, segments_bt = self.tower.shape, batch["segments"]
        embed_vd = param(self, "embed", "vd", (self.padded_vocab(), shape.width), nn.initializers.normal(STD))
        x_btd = jnp.take(embed_vd, batch["tokens"], axis=0).astype(shape.dtype)
        x_btd, _ = self.tower(constrain(x_btd, "btd"), segments_bt, batch["positions"], train=train)
        return x_btd, POOLING[self.pool](x_btd, segments_bt)

    @property
    def width(self) -> int:
        return self.tower.shape.width

    def padded_vocab(self) -> int:
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple


class DualEncoder(nn.Module):
    """Radford et al. 2021, arXiv:2103.00020, section 2.3; with a bias, Zhai et al. 2023, arXiv:2303.15343, section 3.2.

    Parameters: `image` and `text`, the encoders'; `image_projection` and `text_projection` (d, o); `log_scale` () and,
    with `bias`, its first value, `logit_bias` (). The scale stays below 100.
    """

    image: nn.Module
    text: TextEncoder
    width: int
    temperature: float = 0.07  # at first: 1 / scale
    bias: float | None = None

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> Embeddings:
        image_bo = text_bo = None
        if "image" in batch:
            image_bo = self._projected("image_projection", self.image(batch["image"], train=train).pooled_bd)
        if "tokens" in batch:
            text_bo = self._projected("text_projection", self.text(batch, train=train)[1])
        first = nn.initializers.constant(-math.log(self.temperature))
        scale = jnp.exp(limited(param(self, "log_scale", "", (), first)))
        bias = None
        if self.bias is not None:
            bias = param(self, "logit_bias", "", (), nn.initializers.constant(self.bias))
        return Embeddings(image_bo, text_bo, scale, bias)

    def embeddings(self, batch: Mapping[str, jax.Array]) -> Embeddings:
        """As a call gives them when it does not train."""
        return self(batch, train=False)

    def padded_vocab(self) -> int:
        return self.text.padded_vocab()

    def _projected(self, name: str, x_bd: jax.Array) -> jax.Array:
        d = x_bd.shape[-1]
        weight_do = param(self, name, "do", (d, self.width), nn.initializers.normal(d**-0.5))
        y_bo = project("bd,do->bo", x_bd, weight_do, jnp.float32)
        return constrain(y_bo * jax.lax.rsqrt(jnp.sum(y_bo * y_bo, axis=-1, keepdims=True) + 1e-12), "bo")


@jax.custom_vjp
def limited(log_scale: jax.Array) -> jax.Array:
    """At most LIMIT. There its gradient is 0 only if a step against it would go up, so that it can come down again."""
    return jnp.minimum(log_scale, LIMIT)


def _limited_forward(log_scale):
    return limited(log_scale), log_scale


def _limited_backward(log_scale, gradient):
    return (jnp.where((log_scale >= LIMIT) & (gradient < 0), 0.0, gradient),)


limited.defvjp(_limited_forward, _limited_backward)


def dual_encoder(
    section: ConfigDict, *, vocab: int, length: int, image: int, platform: str, dtype: Any, **_: Any
) -> DualEncoder:
    """A `DualEncoder` with the image encoder that model.encoder names and the text encoder of model.text."""
    if section.width < 1 or section.temperature <= 0:
        raise UserError(f"model.width={section.width}, model.temperature={section.temperature}: both are positive")
    given = {"platform": platform, "dtype": dtype}
    return DualEncoder(
        image=encoder(section, section.encoder, image=image, **given),
        text=text_encoder(section.text, vocab=vocab, length=length, **given),
        **{name: section[name] for name in ("width", "temperature", "bias")},
    )


def text_encoder(section: ConfigDict, *, vocab: int, length: int, platform: str, dtype: Any) -> TextEncoder:
    """A `TextEncoder` from model.text, for rows of `length` tokens."""
    for name, legal in (("pool", POOLING), ("pattern", PATTERNS)):
        if section[name] not in legal:
            raise unknown(f"value of model.text.{name}", section[name], legal)
    max_length = section.max_length or length
    if max_length < length:
        raise UserError(
            f"model.text.max_length={max_length} is shorter than data.length={length}: positions would run out"
        )
    shape = tower(section, length=max_length, position="learned", platform=platform, dtype=dtype, where="model.text")
    return TextEncoder(Transformer(shape, section.pattern), vocab, section.pool, section.vocab_multiple)
