"""Which fields of a batch models and objectives read, so that a misfit is said before anything is compiled."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from lmjax.errors import UserError

TEXT = ("tokens", "targets", "segments", "positions", "bytes", "weights")  # the fields of a row of text
INPUTS = ("tokens", "image", "source", "prefix", "types")  # what a model must not leave unread


class Model(NamedTuple):
    """`reads`: inputs that a batch must have; `may`: those that it can also read; `gives`: what an objective gets."""

    reads: tuple[str, ...]
    may: tuple[str, ...]
    gives: str


class Objective(NamedTuple):
    """`reads`: what a batch must have to be compared with; `of`: what the model must give.

    together: whether it compares the rows of a batch with each other, so that microbatches would be another loss.
    """

    reads: tuple[str, ...]
    of: str
    together: bool = False


MODELS = {
    "decoder": Model(("tokens",), ("image", "prefix"), "next tokens"),
    "classifier": Model((), ("tokens", "image"), "classes"),
    "encoder": Model(("tokens",), ("types",), "tokens in place"),
    "encoder_classifier": Model(("tokens",), ("types",), "classes"),
    "encoder_regressor": Model(("tokens",), ("types",), "a number"),
    "encoder_tagger": Model(("tokens",), ("types",), "tags"),
    "encoder_spans": Model(("tokens",), ("types",), "spans"),
    "encoder_chooser": Model(("tokens",), ("types",), "classes"),
    "multi_task_sentences": Model(("tokens", "types"), (), "several outputs"),
    "encoder_sentences": Model(("tokens", "types"), (), "tokens in place and classes"),
    "seq2seq": Model(("tokens", "source"), (), "next tokens"),
    "vit": Model(("image",), (), "classes"),
    "convnext": Model(("image",), (), "classes"),
    "dual_encoder": Model(("tokens", "image"), (), "embeddings"),
    "joint": Model(("tokens", "image"), (), "classes"),
    "rnn": Model(("tokens",), (), "next tokens"),
    "rnn_seq2seq": Model(("tokens", "source"), (), "next tokens"),
}
OBJECTIVES = {
    "next_token": Objective(("targets",), "next tokens"),
    "classification": Objective(("label",), "classes"),
    "multi_task": Objective((), "several outputs", together=True),
    "tagging": Objective(("tags",), "tags"),
    "span": Objective(("start", "end"), "spans"),
    "regression": Objective(("value",), "a number"),
    "masked": Objective(("originals",), "tokens in place"),
    "sentences": Objective(("originals", "label", "label_weights"), "tokens in place and classes"),
    "softmax_contrastive": Objective(("tokens", "image"), "embeddings", together=True),
    "sigmoid_contrastive": Objective(("tokens", "image"), "embeddings", together=True),
}
RECIPES = {  # a recipe for each data.kind
    "text": "configs/lm.py:tiny",
    "pairs": "configs/pairs.py:small",
    "labels": "configs/labels.py:small",
    "images": "configs/images.py:small",
    "image_labels": "configs/images.py:labels",
    "image_text_labels": "configs/vision.py:matches",
    "tags": "configs/kinds.py:names",
    "numbers": "configs/kinds.py:syllables",
    "spans": "configs/kinds.py:usages",
    "choices": "configs/kinds.py:words",
}


def check_fit(config: Any, fields: Collection[str]) -> None:
    """UserError unless model and objective fit each other and the fields of a row, with all that does not.

    Models and objectives of the user's own ("package.module:attribute") fit whatever they say they do, and so do names
    that nothing has: `models.build` and `objectives.build` say which there are.
    """
    model, objective = MODELS.get(config.model.kind), OBJECTIVES.get(config.objective.kind)
    there = [name for name in INPUTS if name in fields]
    wrong = []
    if model and (not set(model.reads) <= set(there) <= {*model.reads, *model.may} or not there):
        fitting = [name for name in MODELS if _readable(name, there) and (not objective or _pairs(name, objective))]
        wrong.append(f"model.kind={config.model.kind} is not for it" + _are(fitting, "model.kind"))
    if objective and not set(objective.reads) <= set(fields):
        fitting = [name for name, other in OBJECTIVES.items() if set(other.reads) <= set(fields)]
        wrong.append(f"objective.kind={config.objective.kind} is not for it" + _are(fitting, "objective.kind"))
    if model and objective and not wrong and model.gives != objective.of:
        fitting = [name for name, other in OBJECTIVES.items() if other.of == model.gives]
        wrong.append(
            f"model.kind={config.model.kind} gives {model.gives} and objective.kind={config.objective.kind} is of "
            f"{objective.of}" + _are(fitting, "objective.kind")
        )
    if objective and objective.together and config.optim.microbatches > 1:
        wrong.append(
            f"optim.microbatches={config.optim.microbatches} must be 1: objective.kind={config.objective.kind} compares "
            "the rows of a batch with each other"
        )
    wrong += _patches(config, "image" in fields)
    if wrong:
        kind = getattr(config.data, "kind", "text")
        raise UserError(f"data.kind={kind}, rows of {', '.join(there)}: {'; '.join(wrong)}" + _such(kind))


def _readable(name: str, there: list[str]) -> bool:
    model = MODELS[name]
    return set(model.reads) <= set(there) <= {*model.reads, *model.may}


def _pairs(name: str, objective: Objective) -> bool:
    return MODELS[name].gives == objective.of


def _are(fitting: list[str], leaf: str) -> str:
    if not fitting:
        return ""
    return f", {' or '.join(f'{leaf}={name}' for name in fitting)} {'is' if len(fitting) == 1 else 'are'}"


def _such(kind: str) -> str:
    return f" ({RECIPES[kind]} is such a config)" if kind in RECIPES else ""


def _patches(config: Any, image: bool) -> list[str]:
    """model.patch, of models that have it, is set when and only when there are images."""
    if "patch" not in config.model:
        return []
    patch = config.model.patch
    if image and patch is None:
        return ["model.patch must say into squares of how many pixels a side images are cut, such as model.patch=8"]
    if patch is not None and not image:
        return [f"it has no images, so model.patch={patch} must be none"]
    return []
