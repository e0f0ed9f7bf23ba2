"""Rows of text that are corrupted as they are read (data.corruption), each by the number of its row.

Training rows are corrupted anew in every epoch, row k as (seed, k) says; a row for validation always in the same way,
whatever the seed is. So row k stays a pure function of (data, seed, k), for any number of hosts and after any resume.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lmjax.augment.chance import Chance
from lmjax.data import corruptions, kinds, packing
from lmjax.data.corruptions import Settings, denoise, infill, masked, prefix, sentences, spans
from lmjax.data.packing import Row
from lmjax.data.tokenizers.words import letters, sentence_starts, word_numbers
from lmjax.data.two_rows import two_rows

Make = Callable[[Row, Chance], Row]


class Corrupted:
    """A stream whose rows `make` changes; seed None: for validation."""

    def __init__(self, stream: packing.Stream, make: Make, data: Any, seed: int | None):
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
    make = MAKERS[section.kind](Given(section, data, tokenizer, marks, stream, seed, kinds.fields(data)))
    return Corrupted(stream, make, data, seed)


def report(data: Any) -> str | None:
    """How long the rows of config.data's spans become, for there is no use in rows that none fills."""
    section = corruptions.section(data)
    if section is None or section.kind != "spans":
        return None
    n = corruptions.text_length(data)
    source, target = spans.lengths(n, section.rate, section.span)
    return (
        f"spans: {n} tokens of text a row give a source of {source} (data.source_length={data.source_length}) and a target "
        f"of {target} (data.length={data.length})"
    )


def classes(data: Any) -> tuple[str, ...]:
    """Names of the labels that config.data's corruption makes; none where it makes none."""
    section = corruptions.section(data)
    return sentences.CLASSES[section.pair] if section and section.kind == "sentences" else ()


class Given(NamedTuple):
    """What a maker of rows is given: marks are the special tokens that it puts in, fields those of the row it makes."""

    section: Settings
    data: Any
    tokenizer: Any
    marks: dict[str, int]
    stream: packing.Stream
    seed: int | None
    fields: dict[str, kinds.Field]


def _masked(given: Given) -> Make:
    hide = _hiding(given)

    def make(row: Row, chance: Chance) -> Row:
        return {
            **{name: row[name] for name in ("segments", "positions")},
            **hide(row["tokens"], row["segments"], chance),
        }

    return make


def _sentences(given: Given) -> Make:
    section, stream, tokenizer = given.section, given.stream, given.tokenizer
    hide, table, room = _hiding(given), letters(tokenizer), corruptions.text_length(given.data)
    begin, end = np.array([given.marks["cls"]]), np.array([given.marks["sep"]])
    count = len(stream) if given.seed is None else int(stream.epoch_rows)

    def texts(row: Row, chance: Chance) -> tuple[np.ndarray, np.ndarray]:
        ids = text_of(row, tokenizer.doc)
        return sentences.parted(ids, sentence_starts(ids, table), chance)

    def make(row: Row, chance: Chance) -> Row:
        own = texts(row, chance)
        first, second, label = sentences.paired(
            *own, section.pair, chance, lambda: texts(stream.row(chance.below(count)), chance)[1], room
        )
        made = np.concatenate([begin, first, end, second, end])
        row, n = kinds.empty(given.fields), len(made)
        tokens, row["segments"][:n], row["positions"][:n] = row["tokens"].copy(), 1, np.arange(n)
        tokens[:n], row["types"][len(first) + 2 : n] = made, 1
        whole = bool(len(own[0]) and len(own[1]))  # of a text of one token there is no second part
        return {
            **row,
            **hide(tokens, row["segments"], chance),
            "label": np.int32(label),
            "label_weights": np.float32(whole),
        }

    return make


def _hiding(given: Given) -> Callable[[np.ndarray, np.ndarray, Chance], Row]:
    """Tokens, originals, bytes and weights of masked language modelling, from tokens and segments (0: padding)."""
    section, tokenizer = given.section, given.tokenizer
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.specials.values()))
    words = Words(tokenizer, section.whole_word)
    hide = functools.partial(masked.masked, rate=section.rate, hidden=section.hidden, random=section.random,
                             mask=given.marks["mask"], ordinary=ordinary)  # fmt: skip

    def hidden(original: np.ndarray, segments: np.ndarray, chance: Chance) -> Row:
        tokens, chosen = hide(original, words.of(original, segments > 0), chance)
        return {"tokens": tokens, "originals": original, "bytes": tokenizer.token_bytes[original] * chosen,
                "weights": chosen.astype(np.float32)}  # fmt: skip

    return hidden


def _spans(given: Given) -> Make:
    section, data, tokenizer = given.section, given.data, given.tokenizer
    sentinels, lengths = np.array(list(given.marks.values())), (data.source_length, data.length)

    def make(row: Row, chance: Chance) -> Row:
        ids = text_of(row, tokenizer.doc)
        if len(ids) < 2:
            return kinds.empty(given.fields)
        span_of = spans.mask(len(ids), chance, rate=section.rate, span=section.span)
        return two_rows(*spans.corrupt(ids, span_of, sentinels), tokenizer.doc, lengths, tokenizer.token_bytes)

    return make


def _denoise(given: Given) -> Make:
    section, data, tokenizer, mask = given.section, given.data, given.tokenizer, given.marks["mask"]
    table, lengths = letters(tokenizer) if section.permute else None, (data.source_length, data.length)
    change = functools.partial(
        denoise.denoise, rate=section.rate, span=section.span, delete=section.delete, permute=section.permute
    )

    def make(row: Row, chance: Chance) -> Row:
        ids = text_of(row, tokenizer.doc)
        starts = sentence_starts(ids, table) if table else np.zeros(0, np.int64)
        places = change(len(ids), starts, chance)
        source = np.where(places == denoise.HIDDEN, mask, ids[places])
        return two_rows(source, ids, tokenizer.doc, lengths, tokenizer.token_bytes)

    return make


def _prefix(given: Given) -> Make:
    def make(row: Row, chance: Chance) -> Row:
        seen = prefix.prefixed(row["segments"], chance)
        kept = prefix.predicted(row["segments"], seen)
        return {**row, "prefix": seen, "weights": row["weights"] * kept, "bytes": row["bytes"] * kept}

    return make


def _infill(given: Given) -> Make:
    section, tokenizer, length = given.section, given.tokenizer, given.data.length
    marks = np.array([given.marks[name] for name in infill.MARKS])
    change = functools.partial(infill.rearranged, suffix_first=section.suffix_first, marks=marks)

    def moved(ids: np.ndarray, chance: Chance) -> np.ndarray:
        """ids: a part of a document and the token after it, in whose place the end of the middle is."""
        begun = int(ids[0] == tokenizer.doc)
        return np.concatenate([ids[:begun], change(ids[begun:-1], chance), [tokenizer.doc]])

    def make(row: Row, chance: Chance) -> Row:
        count = int(row["segments"].max())
        chosen = np.flatnonzero(chance.units(count) < section.rate)
        chosen = {int(chosen[i]) + 1 for i in chance.some(len(chosen), section.pieces)}
        pieces = []
        for number in range(1, count + 1):
            here = np.flatnonzero(row["segments"] == number)
            ids = np.append(row["tokens"][here], row["targets"][here[-1]])
            pieces.append(moved(ids, chance) if number in chosen else ids)
        return packing.whole(pieces, length, tokenizer.token_bytes)

    return make


MAKERS = {"masked": _masked, "sentences": _sentences, "spans": _spans, "denoise": _denoise, "prefix": _prefix,
          "infill": _infill}  # fmt: skip


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
