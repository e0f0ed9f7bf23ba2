"""What an encoder is fine-tuned for: a class, a number, a tag a token, a span, or the best of some texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.linear import project
from lmjax.layers.readout import PADDED, Readout
from lmjax.layers.transformer import EMBED_STD
from lmjax.models.classifier import mean
from lmjax.models.encoder import Encoder, encoder
from lmjax.sharding import constrain, param


class SequenceHead(nn.Module):
    """One answer for a row: logits (b, n), or a number (b,); for `choices` texts a row the logit of each, (b, n).

    Devlin et al. 2019, section 4.1: of the features of the first token, or `mean` of all but padding, through
    `pooler` (a linear map and tanh) if there is one. Parameters: the encoder's without a readout, so that those of a
    pretrained one fit in; `pooler` (f, d) and `pooler_bias`, `head` (n, d) and `head_bias` (n).
    """

    encoder: Encoder
    gives: Literal["classes", "number", "choices"]
    outputs: int
    pool: str = "first"
    pooler: bool = True

    def setup(self):
        nn.share_scope(self, self.encoder)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        texts = batch["tokens"].shape[1]
        if self.gives == "choices":
            batch = {
                name: _apart(batch[name]) for name in ("tokens", "segments", "positions", "types") if name in batch
            }
        x_btd, segments_bt = self.encoder.trunk(batch, train=train)
        x_bd = POOLS[self.pool](x_btd, segments_bt)
        if self.pooler:
            x_bd = pooled(self, x_bd)
        rate = self.encoder.transformer.shape.dropout
        x_bd = nn.Dropout(rate, deterministic=not train, name="head_dropout")(x_bd)
        logits_bn = linear(self, "bd,nd->bn", x_bd, self.outputs)
        if self.gives == "number":
            return logits_bn[:, 0]
        return logits_bn.reshape(-1, texts) if self.gives == "choices" else logits_bn

    def padded_vocab(self) -> int:
        return self.encoder.padded_vocab()


class TokenHead(nn.Module):
    """One answer for a token: logits (b, t, n) of tags, or of being the first and the last of a span, (b, t, 2).

    Devlin et al. 2019, sections 4.2 and 5.3. No span begins or ends in padding. Parameters: the encoder's without a
    readout, `head` (n, d) and `head_bias` (n).
    """

    encoder: Encoder
    gives: Literal["tags", "spans"]
    outputs: int

    def setup(self):
        nn.share_scope(self, self.encoder)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        x_btd, segments_bt = self.encoder.trunk(batch, train=train)
        rate = self.encoder.transformer.shape.dropout
        x_btd = nn.Dropout(rate, deterministic=not train, name="head_dropout")(x_btd)
        logits_btn = linear(self, "btd,nd->btn", x_btd, self.outputs)
        return logits_btn if self.gives == "tags" else jnp.where(segments_bt[..., None] > 0, logits_btn, PADDED)

    def padded_vocab(self) -> int:
        return self.encoder.padded_vocab()


class SentencesHead(nn.Module):
    """Masked words, and how the two texts of a row belong together; Devlin et al. 2019, section 3.1.

    Parameters: the encoder's, `pooler` (f, d), `pooler_bias`, and of the two classes `order` (n, d) and `order_bias` (n).
    """

    encoder: Encoder

    def setup(self):
        nn.share_scope(self, self.encoder)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[tuple[jax.Array, Readout], jax.Array]:
        """What `Encoder.features` gives, and logits (b, 2)."""
        x_btd, told_btd, readout = self.encoder.run(batch, train=train)
        x_bd = pooled(self, x_btd[:, 0])
        return (told_btd, readout), linear(self, "bd,nd->bn", x_bd, 2, name="order")

    def padded_vocab(self) -> int:
        return self.encoder.padded_vocab()


def pooled(module: nn.Module, x_bd: jax.Array) -> jax.Array:
    """tanh of a linear map, `pooler` and `pooler_bias`."""
    d = x_bd.shape[-1]
    kernel_fd = param(module, "pooler", "fd", (d, d), nn.initializers.normal(d**-0.5))
    bias_d = param(module, "pooler_bias", "d", (d,), nn.initializers.zeros)
    return jnp.tanh(project("bf,fd->bd", x_bd, kernel_fd) + bias_d.astype(x_bd.dtype))


def linear(module: nn.Module, spec: str, x: jax.Array, outputs: int, name: str = "head") -> jax.Array:
    """`head` and `head_bias`, in float32."""
    head_nd = param(module, name, "nd", (outputs, x.shape[-1]), nn.initializers.normal(EMBED_STD))
    bias_n = param(module, f"{name}_bias", "n", (outputs,), nn.initializers.zeros)
    return constrain(project(spec, x, head_nd, jnp.float32) + bias_n, spec.split("->")[1])


def _apart(x: jax.Array) -> jax.Array:
    """(b, n, t) as (b n, t)."""
    if x.ndim != 3:
        raise UserError("model.kind=encoder_chooser reads rows of several texts, such as those of data.kind=choices")
    return x.reshape(-1, x.shape[-1])


def classifier(section: ConfigDict, *, classes: int, **given: Any) -> SequenceHead:
    """Logits (b, n) over the classes of the data."""
    return _sequence(section, "classes", _several("encoder_classifier", classes), given)


def regressor(section: ConfigDict, **given: Any) -> SequenceHead:
    """A number (b,)."""
    return _sequence(section, "number", 1, given)


def chooser(section: ConfigDict, **given: Any) -> SequenceHead:
    """Logits (b, n) over the texts of a row."""
    return _sequence(section, "choices", 1, given)


def tagger(section: ConfigDict, *, classes: int, **given: Any) -> TokenHead:
    """Logits (b, t, n) over the tags of the data."""
    return TokenHead(encoder(section, **given), "tags", _several("encoder_tagger", classes))


def spans(section: ConfigDict, **given: Any) -> TokenHead:
    """Logits (b, t, 2) of the first and the last token of the answer."""
    return TokenHead(encoder(section, **given), "spans", 2)


def sentences(section: ConfigDict, **given: Any) -> SentencesHead:
    """Masked words, and logits (b, 2) of how two texts belong together."""
    return SentencesHead(encoder(section, **given))


def _sequence(section: ConfigDict, gives: str, outputs: int, given: Mapping[str, Any]) -> SequenceHead:
    if section.pool not in POOLS:
        raise unknown("value of model.pool", section.pool, POOLS)
    return SequenceHead(encoder(section, **given), gives, outputs, section.pool, section.pooler)


def _several(kind: str, classes: int) -> int:
    if classes < 2:
        raise UserError(
            f"model.kind={kind}: the training data has {classes} class, and there must be two to tell apart"
        )
    return classes


def _first(x_btd: jax.Array, segments_bt: jax.Array) -> jax.Array:
    del segments_bt
    return x_btd[:, 0]


POOLS = {"first": _first, "mean": mean}
