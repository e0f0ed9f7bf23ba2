"""Records of every other kind for encoders: tags of words, numbers, answers in a text, and choices."""

from configs.encoders import masked
from lmjax.config import update


def _records(kind: str, source: str, model: str, objective: str, **leaves):
    """A small encoder from scratch, for records that have a row of their own."""
    return update(
        masked(),
        {
            "steps": 400,
            "data.source": source,
            "data.kind": kind,
            "data.packing": "none",
            "data.marks": "cls",
            "data.corruption.kind": "none",
            "model.kind": model,
            "model.depth": 2,
            "model.width": 128,
            "objective.kind": objective,
            "objective.predictions": None,
            "optim.learning_rate": 1e-3,
            **leaves,
        },
    )


def names():
    """Persons, places and organisations in Chinese news; records of yours: words and tags, two lists each."""
    leaves = {"data.tokenizer": "chars", "data.vocab": None, "eval.metric": "valid/accuracy", "eval.mode": "max"}
    return _records("tags", "people_daily_names", "encoder_tagger", "tagging", **leaves)


def syllables():
    """How many syllables an English word has, by its letters; records of yours: text and value."""
    leaves = {"data.tokenizer": "words", "data.vocab": None, "data.length": 32, "eval.metric": "valid/loss"}
    return _records("numbers", "syllables", "encoder_regressor", "regression", **leaves)


def usages():
    """The word of a sentence that has a meaning; records of yours: question, context, answer, and where it starts."""
    leaves = {"data.length": 96, "eval.metric": "valid/exact", "eval.mode": "max"}
    return _records("spans", "wordnet_usages", "encoder_spans", "span", **leaves)


def words():
    """Which of four words has a meaning; records of yours: question, choices, and the number of the right one."""
    leaves = {"data.length": 64, "eval.metric": "valid/accuracy", "eval.mode": "max"}
    return _records("choices", "wordnet_choices", "encoder_chooser", "classification", **leaves)
