"""The first and the last token of an answer in its context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.metrics import Sum


def span(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool
) -> dict[str, Sum]:
    """`loss`, `start_accuracy`, `end_accuracy` and `exact` (both) over the weighted rows of a model with logits (b, t, 2).

    Devlin et al. 2019, section 4.2: a softmax over the row's tokens for each end, `start` and `end` (b,); the loss is the
    mean of the two (nats).
    """
    logits_bt2 = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    weights_b, right, total_b = batch["weights"], [], 0.0
    for i, name in enumerate(("start", "end")):
        log_p_bt = jax.nn.log_softmax(logits_bt2[..., i], axis=-1)
        total_b = total_b - jnp.take_along_axis(log_p_bt, batch[name][:, None], axis=1)[:, 0]
        right.append(jnp.argmax(log_p_bt, axis=-1) == batch[name])
    named = {"loss": total_b / 2, "start_accuracy": right[0], "end_accuracy": right[1], "exact": right[0] & right[1]}
    return {name: Sum.of(values_b, weights_b) for name, values_b in named.items()}
