"""One label a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.metrics import Sum

SURE = 1e-6  # the least 1 - p of the focal factor: at 0 its gradient is not finite for exponents below 1


def classification(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    label_smoothing: float = 0.0, focal: float = 0.0, class_weights: Sequence[float] | None = None,
) -> dict[str, Sum]:  # fmt: skip
    """`loss`, `nll` (nats a row) and `accuracy` over the weighted rows of a model with logits (b, n).

    A batch with `label_mix` (b,) and `mix` (b,) has two labels a row, `label` with the share `mix`: whatever is counted
    is counted for both, in these shares (Zhang et al. 2018, arXiv:1710.09412). The options are in `loss` only:
    label smoothing as `token_losses`; focal g multiplies by (1 - p)^g, p the label's probability (Lin et al. 2017,
    arXiv:1708.02002, eq. 4); class_weights, one for each class in the order of the labels, multiply the loss and its
    weight. UserError when there are not as many as classes.
    """
    logits_bn = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    return label_sums(logits_bn, _labels(batch), label_smoothing, focal, class_weights)


def label_sums(
    logits_bn: jax.Array, labels: list[tuple[jax.Array, jax.Array]], label_smoothing: float, focal: float,
    class_weights: Sequence[float] | None,
) -> dict[str, Sum]:  # fmt: skip
    """The sums of `classification` for logits and labels with what each weighs, (b,) both, one pair or several."""
    if class_weights is not None and len(class_weights) != logits_bn.shape[-1]:
        raise UserError(
            f"objective.class_weights has {len(class_weights)} numbers, and there are {logits_bn.shape[-1]} classes: "
            "one for each, in the order of the labels"
        )
    log_p_bn, guess_b = jax.nn.log_softmax(logits_bn, axis=-1), jnp.argmax(logits_bn, axis=-1)
    sums: dict[str, Sum] = {}
    for label_b, share_b in labels:
        nll_b = -jnp.take_along_axis(log_p_bn, label_b[:, None], axis=-1)[:, 0]
        loss_b = nll_b
        if label_smoothing:
            loss_b = (1 - label_smoothing) * nll_b - label_smoothing * jnp.mean(log_p_bn, axis=-1)
        if focal:
            loss_b = (1 - jnp.exp(-nll_b)).clip(SURE) ** focal * loss_b
        weighted_b = share_b
        if class_weights is not None:
            weighted_b = share_b * jnp.asarray(class_weights, jnp.float32)[label_b]
        part = {"loss": Sum.of(loss_b, weighted_b), "nll": Sum.of(nll_b, share_b)}
        part["accuracy"] = Sum.of(guess_b == label_b, share_b)
        sums = {name: sums[name] + value if name in sums else value for name, value in part.items()}
    return sums


def _labels(batch: Mapping[str, jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """Labels and what each weighs, (b,) both."""
    weights_b = batch["weights"]
    if "label_mix" not in batch:
        return [(batch["label"], weights_b)]
    mix_b = batch["mix"]
    return [(batch["label"], weights_b * mix_b), (batch["label_mix"], weights_b * (1 - mix_b))]
