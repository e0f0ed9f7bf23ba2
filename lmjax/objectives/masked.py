"""Masked language modelling: what stood in the places that were chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.layers.readout import token_losses
from lmjax.metrics import Sum


def masked(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    label_smoothing: float = 0.0, z_loss: float = 0.0, predictions: int | None = None,
) -> dict[str, Sum]:  # fmt: skip
    """`loss`, `nll` (nats a chosen token) and `accuracy` over the weighted places of a model that gives logits for each.

    predictions: so many places of a row go through the vocabulary, those chosen first (Devlin et al.'s published code
    has 20 of 128); none: all do, which costs most of the time of a small model. Chosen places beyond it are left out,
    and `left_out` is their share. Label smoothing and z-loss as in `next_token`, in `loss` only.
    """
    features = apply({"params": params}, batch, method="features", train=train, rngs={"dropout": rng})
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    return _told(*features, batch, predictions, **options)


def sentences(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    label_smoothing: float = 0.0, z_loss: float = 0.0, predictions: int | None = None, label_tokens: float | None = None,
) -> dict[str, Sum]:  # fmt: skip
    """`masked`, and whether two texts belong together: `label_nll` and `label_accuracy`; Devlin et al. 2019, section 3.1.

    label_tokens: a label's loss counts as much as that of so many chosen tokens, so that sums of both add up whatever
    the batch is; none: 15 % of a row, for which it is the sum of the two means.
    """
    features, logits_bn = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    sums = _told(*features, batch, predictions, label_smoothing=label_smoothing, z_loss=z_loss)
    log_p_bn, weights_b = jax.nn.log_softmax(logits_bn, axis=-1), batch["label_weights"]
    nll_b = -jnp.take_along_axis(log_p_bn, batch["label"][:, None], axis=-1)[:, 0]
    label = Sum.of(nll_b, weights_b)
    share = 0.15 * batch["tokens"].shape[1] if label_tokens is None else label_tokens
    sums["loss"] = Sum(sums["loss"].total + share * label.total, sums["loss"].weight)
    accuracy = Sum.of(jnp.argmax(logits_bn, axis=-1) == batch["label"], weights_b)
    return sums | {"label_nll": label, "label_accuracy": accuracy}


def _told(x_btd, readout, batch, predictions: int | None, **options: float) -> dict[str, Sum]:
    if predictions is not None and predictions < 1:
        raise UserError(f"objective.predictions={predictions}: at least 1 place of a row; none: all")
    originals_bt, weights_bt = batch["originals"], batch["weights"]
    sums, t = {}, x_btd.shape[1]
    if predictions is not None and predictions < t:
        kept_bt, at_bt = jax.lax.top_k((weights_bt > 0).astype(jnp.float32), predictions)  # in order of their places
        total, weights_bt = jnp.sum(weights_bt), kept_bt * jnp.take_along_axis(weights_bt, at_bt, axis=1)
        sums["left_out"] = Sum(total - jnp.sum(weights_bt), total)
        originals_bt = jnp.take_along_axis(originals_bt, at_bt, axis=1)
        x_btd = jnp.take_along_axis(x_btd, at_bt[..., None], axis=1)
    logits_btv = readout.logits(x_btd)
    loss_bt, nll_bt = token_losses(logits_btv, originals_bt, **options)
    right_bt = jnp.argmax(logits_btv, axis=-1) == originals_bt
    named = {"loss": loss_bt, "nll": nll_bt, "accuracy": right_bt}
    return {name: Sum.of(values_bt, weights_bt) for name, values_bt in named.items()} | sums
