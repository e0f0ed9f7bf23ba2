"""What an evaluation is asked and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lmjax.evaluate import classes
from lmjax.evaluate.intervals import Estimate

WORST = 20  # examples kept for reading
LONGEST = 2000  # characters of a text that is kept


class Decoding(NamedTuple):
    """How texts are written: greedily, or the best of several beams; `length` tokens at most, none: a row's."""

    beams: int = 1
    alpha: float = 0.6
    length: int | None = None
    limit: int | None = None  # texts, none: all

    def about(self) -> dict[str, Any]:
        """What a report says of it."""
        said = {"decoding": "greedy"} if self.beams == 1 else {"decoding": "beam search", "beams": self.beams,
                                                                "length_penalty": self.alpha}  # fmt: skip
        return said | {name: value for name, value in (("length", self.length), ("limit", self.limit)) if value}


class Asked(NamedTuple):
    """How to evaluate: `metrics` are names, none for those of the kind; `bar(what, done, of)` shows how far it is."""

    batch: int | None = None
    metrics: tuple[str, ...] = ()
    decoding: Decoding = Decoding()
    bar: Callable[[str, int, int], None] = lambda what, done, of: None

    def bar_of(self, what: str) -> Callable[[int, int], None]:
        """`bar` for one thing."""
        return lambda done, of: self.bar(what, done, of)


class Example(NamedTuple):
    """One row of the validation split for reading: what is to be said of it, its texts by name, its image."""

    about: str
    texts: dict[str, str]
    image: np.ndarray | None = None


@dataclass
class Evaluation:
    """What was measured. `means` are the objective's, `metrics` the field's; `worst` the worst examples, worst first."""

    means: dict[str, float]
    metrics: dict[str, Estimate]
    examples: int
    unit: str  # what is counted: rows, texts, ...
    signatures: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of decoding
    classification: classes.Classification | None = None
    names: tuple[str, ...] = ()  # of classes
    per_kind: dict[str, dict[str, float]] = field(default_factory=dict)  # of tags or entities
    worst: list[Example] = field(default_factory=list)


def text_of(loaded: Any, rows: dict[str, np.ndarray], i: int) -> dict[str, str]:
    """The text of a row, {} where it has none."""
    tokenizer = loaded.dataset.tokenizer
    if tokenizer is None or "tokens" not in rows or rows["tokens"].ndim != 2:
        return {}
    ids = rows["tokens"][i][rows["segments"][i] > 0]
    return {"text": tokenizer.decode([token for token in ids.tolist() if token != tokenizer.doc])[:LONGEST]}
