"""Training rows whose texts are changed at random as they are read: each by the number of its row, so no epoch is alike.

A row's text is decoded, changed word by word (lmjax/augment/text.py) and encoded again. Row k stays a pure function of
(data, seed, k), for any number of hosts and after any resume. Validation rows are never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lmjax.augment import settings
from lmjax.augment.text import MARK, TEXT, pieces
from lmjax.data import corpora, packing
from lmjax.data.examples import SEP

Change = Callable[[list[str], int], list[str]]  # (words, index of the row) -> words


def augment(stream: packing.Stream, data: Any, seed: int, tokenizer: Any) -> packing.Stream:
    """The training rows of config.data with its data.augment.text; the stream itself when that is empty.

    UserError for a section that does not fit the data, and for what a change needs: WordNet, or the token <mask>.
    """
    section = settings.section(data)
    if section is None or not section.text:
        return stream
    if "mask" in section.text:
        tokenizer.special("mask")
    kind = getattr(data, "kind", "text")
    changes = change(tuple(section.text), seed, section.rate)
    return AugmentedRows(stream, kind, tokenizer, changes, getattr(data, "source_length", None))


def change(names: tuple[str, ...], seed: int, rate: float) -> Change:
    """The functions of TEXT with these names, one after the other."""
    functions = [functools.partial(TEXT[name], thesaurus=wordnet()) if name in ("synonyms", "insertion") else TEXT[name]
                 for name in names]  # fmt: skip

    def changed(words: list[str], index: int) -> list[str]:
        for function in functions:
            words = function(words, seed, index, rate)
        return words

    return changed


@functools.cache
def wordnet() -> dict[str, tuple[str, ...]]:
    """WordNet's synonyms (corpora/wordnet.py), read once. UserError says how to get WordNet when it is not here."""
    return corpora.wordnet.thesaurus(corpora.files("wordnet"))


class AugmentedRows:
    """A stream of one text a row, of kind text, pairs (of which only the source is changed) or labels."""

    def __init__(self, stream: packing.Stream, kind: str, tokenizer: Any, change: Change, source: int | None = None):
        """source: tokens that a changed source and its end may have, beside the row's own length."""
        self._source = source or stream.length
        self.stream, self.kind, self.tokenizer, self.change = stream, kind, tokenizer, change
        self.length, self.tokens, self.epoch_rows = stream.length, stream.tokens, stream.epoch_rows
        self.documents, self.efficiency, self.end = stream.documents, stream.efficiency, stream.end
        if hasattr(stream, "counts"):  # a mixture's rows by component, for the manifest
            self.counts = stream.counts
        self._make = {"text": self._text, "pairs": self._pair, "labels": self._labelled}[kind]

    def row(self, k: int) -> packing.Row:
        """Row k of the stream with its text changed; what is then too long for the row is cut, but not of pairs."""
        row = self.stream.row(k)
        return self._make(row, int((row["segments"] > 0).sum()), k)

    def _text(self, row: packing.Row, n: int, k: int) -> packing.Row:
        """A document, or a part of one that is longer than a row. That a word is hidden is not to be predicted."""
        ids, doc = np.append(row["tokens"][:n], row["targets"][n - 1 : n]), self.tokenizer.doc
        begin, end = ids[: int(ids[0] == doc)], ids[len(ids) - int(ids[-1] == doc) :]
        body = self._changed(ids[len(begin) : len(ids) - len(end)], k)
        made = packing.whole([np.concatenate([begin, body, end])[: self.length + 1]], self.length, self._bytes())
        made["weights"][made["targets"] == self.tokenizer.specials.get("mask", -1)] = 0
        return made

    def _pair(self, row: packing.Row, n: int, k: int) -> packing.Row:
        """<doc> source <sep> target <doc>; as it was, when the changed source leaves no room for the target."""
        ids = np.append(row["tokens"][:n], row["targets"][n - 1 : n])
        at = int(np.argmax(ids == self.tokenizer.special(SEP)))
        source = self._changed(ids[1:at], k)
        if len(source) + 1 + len(ids) - at > self.length + 1 or len(source) + 1 > self._source:
            return row
        made = packing.whole([np.concatenate([ids[:1], source, ids[at:]])], self.length, self._bytes())
        predicted = (np.arange(self.length) > len(source)) & (made["segments"] > 0)
        return made | {"weights": predicted.astype(np.float32), "bytes": made["bytes"] * predicted}

    def _labelled(self, row: packing.Row, n: int, k: int) -> packing.Row:
        """<doc> text; the label and the weight stay."""
        ids = np.append(row["tokens"][:1], self._changed(row["tokens"][1:n], k))[: self.length]
        made = {name: np.zeros(self.length, np.int32) for name in ("tokens", "segments", "positions")}
        made["tokens"][: len(ids)], made["segments"][: len(ids)] = ids, 1
        made["positions"][: len(ids)] = np.arange(len(ids))
        return row | made

    def _changed(self, ids: np.ndarray, k: int) -> np.ndarray:
        """The ids of a changed text. What a cut left of a character is dropped; what did not change keeps its ids."""
        before = pieces(self.tokenizer.decode_bytes(ids).decode("utf-8", "ignore"))
        after = self.change(before, k)
        if after == before:
            return ids
        found, text = [], []
        for piece in [*after, None]:
            if piece is None or piece.endswith(MARK):
                found.append(self.tokenizer.encode("".join(text)) if text else np.zeros(0, np.int32))
                text = []
                if piece is not None:
                    found.append(np.array([self.tokenizer.special("mask")]))
            else:
                text.append(piece)
        return np.concatenate(found)

    def _bytes(self) -> np.ndarray:
        return self.tokenizer.token_bytes
