"""One label a token, at the first token of each word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from lmjax.metrics import Sum
from lmjax.objectives.classification import label_sums


def tagging(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    label_smoothing: float = 0.0, focal: float = 0.0, class_weights: Sequence[float] | None = None,
) -> dict[str, Sum]:  # fmt: skip
    """`loss`, `nll` (nats a tag) and `accuracy` over the weighted tokens of a model with logits (b, t, n).

    Devlin et al. 2019, section 5.3: `tags` and `weights` (b, t), 0 but for the first token of a word. The options are
    those of `classification`, of tags in place of rows.
    """
    logits_btn = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    labels = [(batch["tags"].reshape(-1), batch["weights"].reshape(-1))]
    return label_sums(logits_btn.reshape(-1, logits_btn.shape[-1]), labels, label_smoothing, focal, class_weights)
