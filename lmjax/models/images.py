"""The image encoders by name, behind one interface, and the classifier of images over any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.linear import project
from lmjax.layers.vision import STD
from lmjax.models.convnet import convnext
from lmjax.models.vit import vit
from lmjax.sharding import constrain, param

# Makers of modules `encoder(image (b, s, s, 3), train=) -> Seen` that have a `width`.
ENCODERS = {"vit": vit, "convnext": convnext}


class ImageClassifier(nn.Module):
    """Images to logits over their classes: a linear map of what an encoder gives for the whole image.

    Parameters: the encoder's by their own names, `head` (n, d) and `head_bias` (n).
    """

    encoder: nn.Module
    classes: int

    def setup(self):
        nn.share_scope(self, self.encoder)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Logits (b, n) in float32."""
        x_bd = self.encoder(batch["image"], train=train).pooled_bd
        head_nd = param(self, "head", "nd", (self.classes, x_bd.shape[-1]), nn.initializers.truncated_normal(STD))
        bias_n = param(self, "head_bias", "n", (self.classes,), nn.initializers.zeros)
        return constrain(project("bd,nd->bn", x_bd, head_nd, jnp.float32) + bias_n, "bn")

    def padded_vocab(self) -> int:
        return 0


def image_classifier(
    section: ConfigDict, *, classes: int, image: int, platform: str, dtype: Any, **_: Any
) -> ImageClassifier:
    """An `ImageClassifier` over the encoder that model.kind names, made from the section of that name."""
    check_classes(section.kind, classes)
    return ImageClassifier(encoder(section, section.kind, image=image, platform=platform, dtype=dtype), classes)


def encoder(section: ConfigDict, kind: str, **given: Any) -> nn.Module:
    """The image encoder of this kind, from model.KIND."""
    if kind not in ENCODERS:
        raise unknown("image encoder", kind, ENCODERS)
    if kind not in section:
        raise UserError(f"there is no section model.{kind} for it; configs/vision.py has recipes that have one")
    return ENCODERS[kind](section[kind], where=f"model.{kind}", **given)


def check_classes(kind: str, classes: int) -> None:
    """UserError when there is nothing to tell apart."""
    if classes < 2:
        raise UserError(
            f"model.kind={kind}: the training data has {classes} class, and there must be two to tell apart"
        )
