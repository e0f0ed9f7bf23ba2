"""Asking a model that writes: what prompts are, by the kind of data that it was trained on, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lmjax.data import Dataset, kinds
from lmjax.decode import GREEDY, BeamSearch, Generator
from lmjax.errors import UserError
from lmjax.program import Program


class Question(NamedTuple):
    """What a model is asked, and what stands in the data as the answer."""

    prompt: str
    answer: str = ""
    image: np.ndarray | None = None


def questions(dataset: Dataset, kind: str, n: int | None = None) -> list[Question]:
    """The first `n` pairs or captioned images of the validation split, or all of them."""
    tokenizer, found, i = dataset.tokenizer, [], 0
    while (n is None or len(found) < n) and i < len(dataset.valid):
        row = dataset.valid.row(i)
        i += 1
        if "source" in row:  # in a row of its own, with its end, and the target behind <doc>
            source = row["source"][row["source_segments"] > 0][:-1]
            found.append(Question(tokenizer.decode(source), tokenizer.decode(row["tokens"][row["segments"] > 0][1:])))
            continue
        for segment in range(1, int(row["segments"].max(initial=0)) + 1):
            ids = row["tokens"][row["segments"] == segment]
            if kind == "images":
                found.append(Question("", tokenizer.decode(ids[1:]), row["image"]))
                continue
            middle = int(np.argmax(ids == tokenizer.special("sep")))
            found.append(Question(tokenizer.decode(ids[1:middle]), tokenizer.decode(ids[middle + 1 :])))
    return found[:n]


class Asking(NamedTuple):
    """A tokenizer for prompts that the model answers: `end` is what stands between question and answer."""

    tokenizer: Any
    end: tuple[int, ...]

    @property
    def doc(self) -> int:
        return self.tokenizer.doc

    def encode(self, text: str) -> np.ndarray:
        return np.concatenate([self.tokenizer.encode(text), np.array(self.end, np.int64)])

    def decode(self, ids: Any) -> str:
        return self.tokenizer.decode(ids)


def make_generator(program: Program, dataset: Dataset, params: Any) -> Generator:
    """A generator for the program's model; of one trained on pairs, a prompt is a source and its text the target."""
    model, tokenizer, source = program.model, dataset.tokenizer, None
    limit = positions(model)
    if "source" in kinds.fields(program.config.data):
        source = partial(source_row, tokenizer, limit)
    elif kinds.kind_of(program.config.data) == "pairs":
        tokenizer = Asking(tokenizer, (tokenizer.special("sep"),))
    return Generator(model.apply, model.init_cache, params, tokenizer, max_length=limit, prepare=model.for_decoding,
                     source=source)  # fmt: skip


def positions(model: Any) -> int | None:
    """How many positions a model has learned; None: it needs none, or takes any."""
    return model.max_length if getattr(model, "position", "none") == "learned" else None


def source_row(tokenizer: Any, limit: int | None, text: str) -> dict[str, np.ndarray]:
    """`text <doc>` as the row that an encoder reads, (s,) each; UserError where its learned positions end before it."""
    ids = np.append(tokenizer.encode(text), tokenizer.doc).astype(np.int32)
    if limit is not None and len(ids) > limit:
        raise UserError(
            f"a source of {len(ids)} tokens, its end being one, and the model has learned {limit} positions: shorten it"
        )
    return {"source": ids, "source_segments": np.ones(len(ids), np.int32),
            "source_positions": np.arange(len(ids), dtype=np.int32)}  # fmt: skip


class Writer:
    """`writer(questions, new, on_done) -> texts` of at most `new` tokens each, greedily or the best of several beams."""

    def __init__(self, generator: Generator, beams: int = 1, alpha: float = 0.6):
        self.generator, self.beams, self.alpha = generator, beams, alpha
        self.search = BeamSearch(generator) if beams > 1 else None

    def __call__(self, asked: Sequence[Question], new: int, on_done: Callable[[int], None] | None = None) -> list[str]:
        prompts = [question.prompt for question in asked]
        images = None if asked[0].image is None else [question.image for question in asked]
        given = {"images": images, "new": new, "on_done": on_done}
        if self.search is None:
            return [sample.text for sample in self.generator.generate(prompts, options=GREEDY, **given)]
        found = self.search.search(prompts, beams=self.beams, alpha=self.alpha, **given)
        return [best[0].text for best in found]

    def length(self, question: Question) -> int:
        """Tokens of a prompt, <doc> and what ends it among them."""
        return self.generator.length(question.prompt)

    def room(self, question: Question) -> int | None:
        """New tokens at most behind a prompt; None: any number."""
        limit, own = self.generator.max_length, self.length(question) if self.generator.source is None else 1
        return None if limit is None else limit + 1 - own
