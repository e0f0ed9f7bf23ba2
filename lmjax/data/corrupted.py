"""Rows of text that are corrupted as they are read (data.corruption), each by the number of its row.

Training rows are corrupted anew in every epoch, row k as (seed, k) says; a row for validation always in the same way,
whatever the seed is. So row k stays a pure function of (data, seed, k), for any number of hosts and after any resume.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lmjax.augment.chance import Chance
from lmjax.data import corruptions, kinds, packing
from lmjax.data.corruptions import Settings, masked, spans
from lmjax.data.packing import Row
from lmjax.data.tokenizers.words import letters, word_numbers
from lmjax.data.two_rows import two_rows


class Corrupted:
    """A stream whose rows `make(row, chance)` changes; seed None: for validation."""

    def __init__(self, stream: packing.Stream, make: Callable[[Row, Chance], Row], data: Any, seed: int | None):
        self.stream, self._make, self._empty = stream, make, kinds.empty(kinds.fields(data))
        self._names = ("corruption", data.corruption.kind, "valid" if seed is None else seed)
        self.length, self.documents, self.tokens = data.length, stream.documents, stream.tokens
        for name in ("epoch_rows", "efficiency", "end", "counts"):
            if hasattr(stream, name):
                setattr(self, name, getattr(stream, name))

    def __len__(self) -> int:
        return len(self.stream)

    def row(self, k: int) -> Row:
        """Row k of the stream, corrupted."""
        row = self.stream.row(k)
        return self._make(row, Chance(*self._names, k)) if row["segments"].any() else self._empty


def corrupt(stream: packing.Stream, data: Any, seed: int | None, tokenizer: Any) -> packing.Stream:
    """The rows of config.data with its corruption; the stream itself without one. seed None: for validation.

    stream: rows of `corruptions.text_length(data)` tokens. UserError for a token that the tokenizer lacks.
    """
    section = corruptions.section(data)
    if section is None:
        return stream
    marks = {name: tokenizer.special(name) for name in corruptions.special(data)}
    return Corrupted(stream, MAKERS[section.kind](section, data, tokenizer, marks), data, seed)


def _masked(section: Settings, data: Any, tokenizer: Any, marks: dict[str, int]) -> Callable[[Row, Chance], Row]:
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.specials.values()))
    words = Words(tokenizer, section.whole_word)
    hide = functools.partial(masked.masked, rate=section.rate, hidden=section.hidden, random=section.random,
                             mask=marks["mask"], ordinary=ordinary)  # fmt: skip

    def make(row: Row, chance: Chance) -> Row:
        original = row["tokens"]
        tokens, chosen = hide(original, words.of(original, row["segments"] > 0), chance)
        kept = {name: row[name] for name in ("segments", "positions")}
        return {"tokens": tokens, "originals": original, **kept, "bytes": tokenizer.token_bytes[original] * chosen,
                "weights": chosen.astype(np.float32)}  # fmt: skip

    return make


def _spans(section: Settings, data: Any, tokenizer: Any, marks: dict[str, int]) -> Callable[[Row, Chance], Row]:
    sentinels = np.array(list(marks.values()))
    lengths = (data.source_length, data.length)

    def make(row: Row, chance: Chance) -> Row:
        ids = text_of(row, tokenizer.doc)
        span_of = spans.mask(len(ids), chance, rate=section.rate, span=section.span)
        source, target = spans.corrupt(ids, span_of, sentinels)
        made = two_rows(source, target, tokenizer.doc, lengths, tokenizer.token_bytes)
        return made if len(target) else kinds.empty(kinds.fields(data))

    return make


MAKERS = {"masked": _masked, "spans": _spans}


class Words:
    """Which tokens of a row may be hidden, as numbers of words; `whole`: those of one word have the same."""

    def __init__(self, tokenizer: Any, whole: bool):
        self._table = letters(tokenizer) if whole else None
        self._special = np.array(list(tokenizer.specials.values()))

    def of(self, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        """(n,) numbers; -1 for special tokens and padding."""
        may = real & ~np.isin(ids, self._special)
        if self._table is not None:
            return word_numbers(ids, self._table, may)
        return np.where(may, np.arange(len(ids)), -1)


def text_of(row: Row, doc: int) -> np.ndarray:
    """The tokens of a row, one document after the other without what parts them, as T5 has it: in what is written <doc>
    is the end. Rows of one document each are those of data.packing=none."""
    ids = row["tokens"][row["segments"] > 0]
    return ids[ids != doc]
