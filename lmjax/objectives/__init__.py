"""Objectives: `objective(apply, params, batch, rng, *, train) -> {"loss": Sum, other metric: Sum, ...}`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from lmjax.errors import UserError
from lmjax.objectives.classification import classification
from lmjax.objectives.contrastive import sigmoid_contrastive, softmax_contrastive
from lmjax.objectives.masked import masked, sentences
from lmjax.objectives.multi_task import multi_task
from lmjax.objectives.next_token import next_token
from lmjax.objectives.regression import regression
from lmjax.objectives.span import span
from lmjax.objectives.tagging import tagging
from lmjax.parts import pick, takes

OBJECTIVES = {
    "next_token": next_token,
    "classification": classification,
    "multi_task": multi_task,
    "tagging": tagging,
    "span": span,
    "regression": regression,
    "masked": masked,
    "sentences": sentences,
    "softmax_contrastive": softmax_contrastive,
    "sigmoid_contrastive": sigmoid_contrastive,
}

CHUNKED_FROM = 4096  # padded vocabulary from which the fused cross-entropy saves time as well as memory on a CPU
CHUNK = 512  # tokens


def build(section: ConfigDict, *, vocab: int, platform: str) -> Callable:
    """The objective that a config's `objective` section names, with the section's other leaves as its options."""
    objective = pick("objective in objective.kind", section.kind, OBJECTIVES)
    if not 0 <= section.label_smoothing < 1:
        raise UserError(f"objective.label_smoothing={section.label_smoothing}: from 0 to below 1")
    for name in ("z_loss", "chunk", "focal"):
        value = getattr(section, name, None)  # configs from before it was there have no such leaf
        if value is not None and value < 0:
            raise UserError(f"objective.{name}={value}: 0 or more")
    if any(isinstance(w, str) or w < 0 for w in getattr(section, "class_weights", None) or ()):
        raise UserError(f"objective.class_weights={section.class_weights}: numbers of 0 or more")
    options = {name: value for name, value in section.items() if name != "kind"}
    options = takes(objective, options, f"the objective {section.kind!r}", "objective")
    if "chunk" in options and options["chunk"] is None:
        options["chunk"] = CHUNK if platform == "cpu" and vocab >= CHUNKED_FROM else 0
    return partial(objective, **options)
