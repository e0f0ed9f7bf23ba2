"""Texts with one label each: a classifier on the stack of the language models."""

from configs.base import language_model
from lmjax.config import update


def small():
    """Two layers on the words of news in eight classes; a folder of yours: --config.data.source=FOLDER.

    The standard split of R8 has 2,189 test articles; here the validation split is taken from its training part.
    """
    return update(
        language_model(),
        {
            "steps": 300,
            "batch": 32,
            "data.source": "reuters_r8",
            "data.kind": "labels",
            "data.tokenizer": "bpe",
            "data.vocab": 4096,
            "data.length": 128,  # longer texts are cut
            "data.packing": "none",
            "model.kind": "classifier",
            "model.depth": 2,
            "model.width": 128,
            "model.pool": "mean",
            "model.dropout": 0.1,
            "objective.kind": "classification",
            "optim.name": "adamw",
            "optim.learning_rate": 1e-3,
            "optim.schedule.warmup": 30,
            "every.eval": 100,
            "eval.metric": "valid/accuracy",
            "eval.mode": "max",
        },
    )
