"""One label of an image and a text together: the features of both, side by side, through an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.linear import project
from lmjax.layers.mlp import ACTIVATIONS
from lmjax.layers.vision import STD
from lmjax.models.dual_encoder import TextEncoder, text_encoder
from lmjax.models.images import check_classes, encoder
from lmjax.sharding import constrain, param


class JointClassifier(nn.Module):
    """head(drop(act(joint([image; text])))), logits over the classes of a row with an image and a text.

    The features are the encoders' own, one vector each, as late fusion has them (Kiela et al. 2018, arXiv:1802.02892,
    section 3). Parameters: `image` and `text`, the encoders'; `joint` (d, f), d the widths of both, and `joint_bias` (f);
    `head` (n, f) and `head_bias` (n).
    """

    image: nn.Module
    text: TextEncoder
    classes: int
    hidden: int
    activation: str = "gelu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Logits (b, n) in float32."""
        image_bd = self.image(batch["image"], train=train).pooled_bd
        _, text_bd = self.text(batch, train=train)
        x_bd = jnp.concatenate([image_bd, text_bd], axis=-1)
        init, zeros = nn.initializers.truncated_normal(STD), nn.initializers.zeros
        joint_df = param(self, "joint", "df", (x_bd.shape[-1], self.hidden), nn.initializers.lecun_normal())
        bias_f = param(self, "joint_bias", "f", (self.hidden,), zeros).astype(x_bd.dtype)
        h_bf = constrain(ACTIVATIONS[self.activation](project("bd,df->bf", x_bd, joint_df) + bias_f), "bf")
        h_bf = nn.Dropout(self.dropout, deterministic=not train)(h_bf)
        head_nf = param(self, "head", "nf", (self.classes, self.hidden), init)
        bias_n = param(self, "head_bias", "n", (self.classes,), zeros)
        return constrain(project("bf,nf->bn", h_bf, head_nf, jnp.float32) + bias_n, "bn")

    def padded_vocab(self) -> int:
        return self.text.padded_vocab()


def joint(
    section: ConfigDict, *, vocab: int, length: int, image: int, classes: int, platform: str, dtype: Any, **_: Any
) -> JointClassifier:
    """A `JointClassifier` with the image encoder that model.encoder names and the text encoder of model.text."""
    check_classes(section.kind, classes)
    if section.hidden < 1:
        raise UserError(f"model.hidden={section.hidden}: it must be positive")
    if section.activation not in ACTIVATIONS:
        raise unknown("value of model.activation", section.activation, ACTIVATIONS)
    if not 0 <= section.dropout < 1:
        raise UserError(f"model.dropout={section.dropout}: from 0 to below 1")
    given = {"platform": platform, "dtype": dtype}
    return JointClassifier(
        image=encoder(section, section.encoder, image=image, **given),
        text=text_encoder(section.text, vocab=vocab, length=length, **given),
        classes=classes, **{name: section[name] for name in ("hidden", "activation", "dropout")},
    )  # fmt: skip
