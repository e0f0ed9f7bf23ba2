"""Causal language modelling: every token predicts the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.layers.readout import chunked_losses, token_losses
from lmjax.metrics import Sum


def next_token(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    label_smoothing: float = 0.0, z_loss: float = 0.0, chunk: int = 0,
) -> dict[str, Sum]:  # fmt: skip
    """`loss`, `nll` (nats a token) and `bits_per_byte` over the weighted targets.

    `chunk` tokens at a time go through the vocabulary, 0: all at once. Label smoothing and z-loss are in `loss` only.
    """
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    inputs = {"variables": {"params": params}, "train": train, "rngs": {"dropout": rng}}
    targets_bt, weights_bt = batch["targets"], batch["weights"]
    if chunk:
        x_btd, readout = apply(inputs.pop("variables"), batch, method="features", **inputs)
        positions = max(1, chunk // targets_bt.shape[0])
        loss, nll = chunked_losses(x_btd, readout, targets_bt, weights_bt, chunk=positions, **options)
    else:
        logits_btv = apply(inputs.pop("variables"), batch, **inputs)
        loss_bt, nll_bt = token_losses(logits_btv, targets_bt, **options)
        loss, nll = jnp.sum(loss_bt * weights_bt), jnp.sum(nll_bt * weights_bt)
    tokens, length = jnp.sum(weights_bt), jnp.sum(weights_bt * batch["bytes"])
    return {"loss": Sum(loss, tokens), "nll": Sum(nll, tokens), "bits_per_byte": Sum(nll / jnp.log(2.0), length)}
