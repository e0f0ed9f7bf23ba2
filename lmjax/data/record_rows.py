"""Rows of kinds other than text: pairs, of which several share a row, and records that have one each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lmjax.data import corruptions, kinds, packing, shaped_rows, shards, two_rows
from lmjax.data.examples import SEP, Form
from lmjax.data.packing import Row
from lmjax.data.shards import Documents
from lmjax.errors import UserError

if TYPE_CHECKING:
    from lmjax.data.curriculum import Curriculum

WHOLE = ("pairs", "images", "spans")  # kinds whose text is left out when it is longer than a row; that of labels is cut


class Targets:
    """The rows of a stream of pairs, whose loss counts what follows <sep> alone: the target and its end."""

    def __init__(self, stream: packing.Stream | WholeRows, sep: int):
        self.stream, self.sep = stream, sep
        self.documents, self.length, self.tokens = stream.documents, stream.length, stream.tokens
        self.epoch_rows, self.efficiency, self.end = stream.epoch_rows, stream.efficiency, stream.end

    def __len__(self) -> int:
        return len(self.stream)

    def row(self, k: int) -> Row:
        """Row k. Each of its segments has one <sep>, so those that have begun to be targets are counted."""
        row = self.stream.row(k)
        predicted = (np.cumsum(row["tokens"] == self.sep) == row["segments"]) & (row["segments"] > 0)
        return row | {"weights": predicted.astype(np.float32), "bytes": row["bytes"] * predicted}


class WholeRows:
    """Each document once, whole, in the documents' own order, then rows of padding: for the validation of pairs.

    A row takes the next documents as long as there is room, so none may be longer than a row.
    """

    end = None

    def __init__(self, documents: Documents, length: int, doc: int, token_bytes: np.ndarray):
        self.documents, self.length, self.token_bytes, self._doc = documents, length, token_bytes, np.array([doc])
        self._starts, room = [], 0
        for i, size in enumerate(documents.lengths.tolist()):
            if size > room:
                self._starts.append(i)
                room = length
            room -= size
        self.tokens, self.epoch_rows = int(documents.lengths.sum()), len(self._starts)
        self.efficiency = self.tokens / max(1, self.epoch_rows * length)

    def __len__(self) -> int:
        """Rows that hold at least one document."""
        return len(self._starts)

    def row(self, k: int) -> Row:
        """Row k; all padding from len(self) on."""
        ends = [*self._starts, len(self.documents.lengths)]
        held = range(ends[k], ends[k + 1]) if k < len(self) else ()
        pieces = [np.append(_ids(self.documents, i), self._doc) for i in held]
        return packing.whole(pieces, self.length, self.token_bytes)


class Records:
    """The endless training stream of one record a row: every epoch each once, in that epoch's order."""

    end = None

    def __init__(self, documents: Documents, length: int, seed: int, make: Callable[[int], Row],
                 curriculum: Curriculum | None = None):  # fmt: skip
        self.documents, self.length, self.seed, self.make, self.curriculum = documents, length, seed, make, curriculum
        self.tokens = int(np.minimum(documents.lengths, length).sum())
        self.epoch_rows = len(documents.lengths)
        self.efficiency = self.tokens / (self.epoch_rows * length)
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def row(self, k: int) -> Row:
        """Row k of the stream, a pure function of (documents, length, seed, k)."""
        return self.make(self.record(k))

    def record(self, k: int) -> int:
        """The number of the record of row k."""
        epoch, r = divmod(k, self.epoch_rows)
        return int(self._epoch(epoch)[r])

    def _order(self, epoch: int) -> np.ndarray:
        if self.curriculum and self.curriculum.rules(epoch):
            return self.curriculum.order(self.curriculum.scores, self.seed, epoch)
        return packing.permutation(self.epoch_rows, self.seed, epoch)


class OrderedRecords:
    """Each record once, in their own order, then rows of no weight: for validation."""

    end = None

    def __init__(self, documents: Documents, length: int, make: Callable[[int], Row], empty: Row):
        self.documents, self.length, self.make, self.empty = documents, length, make, empty
        self.tokens = int(np.minimum(documents.lengths, length).sum())
        self.epoch_rows = len(documents.lengths)
        self.efficiency = self.tokens / max(1, self.epoch_rows * length)

    def __len__(self) -> int:
        """Rows that hold a record."""
        return self.epoch_rows

    def row(self, k: int) -> Row:
        """Row k; empty from len(self) on."""
        return self.make(k) if k < len(self) else self.empty


def single(documents: Documents, length: int, doc: int, token_bytes: np.ndarray) -> OrderedRecords:
    """Pairs as they lie, one a row."""

    def make(i: int) -> Row:
        return packing.whole([np.append(_ids(documents, i), doc)], length, token_bytes)

    return OrderedRecords(documents, length, make, packing.whole([], length, token_bytes))


def in_parts(documents: Documents, length: int, doc: int, token_bytes: np.ndarray) -> OrderedRecords:
    """Documents as they lie, one a row, and of a longer one part after part."""
    counts = -(-documents.lengths // length)
    document = np.repeat(np.arange(len(counts)), counts)
    starts = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * length
    sizes = np.minimum(documents.lengths[document] - starts, length)

    def read(i: int, start: int, stop: int) -> np.ndarray:
        return documents.read(int(document[i]), int(starts[i]) + start, int(starts[i]) + stop)

    return single(Documents(sizes, read), length, doc, token_bytes)


def labelled(documents: Documents, length: int, i: int) -> Row:
    """Record i with its text, cut at the end of the row, its label and a weight of 1."""
    ids = documents.read(i, 0, min(length, int(documents.lengths[i])))
    row = {name: np.zeros(length, np.int32) for name in ("tokens", "segments", "positions")}
    row["tokens"][: len(ids)], row["segments"][: len(ids)], row["positions"][: len(ids)] = ids, 1, np.arange(len(ids))
    return row | _label(documents.head(i))


def captioned(documents: Documents, length: int, doc: int, token_bytes: np.ndarray, i: int) -> Row:
    """Record i: its image, and its caption as a row of text."""
    text = packing.whole([np.append(_ids(documents, i), doc)], length, token_bytes)
    return {"image": documents.head(i)["image"], **text}


def pictured(documents: Documents, i: int) -> Row:
    """Record i: its image, its label and a weight of 1."""
    head = documents.head(i)
    return {"image": head["image"], **_label(head)}


def _label(head: np.void) -> Row:
    return {"label": np.int32(head["label"]), "weights": np.float32(1)}


def _ids(documents: Documents, i: int) -> np.ndarray:
    return documents.read(i, 0, int(documents.lengths[i]))


def fits(form: Form, data: Any, documents: Documents, tokenizer: Any) -> np.ndarray:
    """(n,) bool: which of the documents a row can hold, or the rows of a source and of a target.

    data.length of such pairs is that of both together (two_rows.joint_length).
    """
    source_length = getattr(data, "source_length", None)
    if form.kind != "pairs" or source_length is None:
        return documents.lengths <= data.length
    return two_rows.fits(documents, tokenizer.special(SEP), (source_length, data.length - source_length))


def fitting(documents: Documents, kept: np.ndarray) -> Documents:
    """Those that fit."""
    return documents if kept.all() else shards.subset(documents, np.flatnonzero(kept))


def training(form: Form, data: Any, documents: Documents, seed: int, tokenizer: Any,
             curriculum: Curriculum | None = None) -> packing.Stream:  # fmt: skip
    """The endless training rows of config.data."""
    if form.kind not in ("text", "pairs"):
        make = maker(form, data.length, documents, tokenizer)
        return Records(documents, data.length, seed, make, curriculum)
    mode, token_bytes = getattr(data, "packing", "concat"), tokenizer.token_bytes
    rows = packing.pack(mode, documents, data.length, seed, tokenizer.doc, token_bytes, curriculum)
    return Targets(rows, tokenizer.special(SEP)) if form.kind == "pairs" else rows


def validation(form: Form, data: Any, documents: Documents, tokenizer: Any) -> packing.Stream:
    """The validation rows: of text end to end (for data.corruption.kind=sentences a part of a document each), of pairs
    whole ones that share rows, else one record each."""
    if (section := corruptions.section(data)) and section.kind == "sentences":
        return in_parts(documents, data.length, tokenizer.doc, tokenizer.token_bytes)
    if form.kind == "text":
        return packing.OrderedRows(documents, data.length, tokenizer.doc, tokenizer.token_bytes)
    if form.kind == "pairs" and getattr(data, "source_length", None) is not None:
        return single(documents, data.length, tokenizer.doc, tokenizer.token_bytes)
    if form.kind == "pairs":
        rows = WholeRows(documents, data.length, tokenizer.doc, tokenizer.token_bytes)
        return Targets(rows, tokenizer.special(SEP))
    empty = kinds.empty(kinds.fields(data))
    return OrderedRecords(documents, data.length, maker(form, data.length, documents, tokenizer), empty)


def maker(form: Form, length: int, documents: Documents, tokenizer: Any) -> Callable[[int], Row]:
    if form.kind == "labels":
        return functools.partial(labelled, documents, length)
    if form.kind == "images":
        return functools.partial(captioned, documents, length, tokenizer.doc, tokenizer.token_bytes)
    if form.kind == "image_labels":
        return functools.partial(pictured, documents)
    return shaped_rows.maker(form, length, documents, tokenizer)


def check_packing(form: Form, data: Any) -> None:
    """UserError for a data.packing that would cut records or put several into a row that is one's."""
    mode, parted = getattr(data, "packing", "concat"), getattr(data, "source_length", None) is not None
    legal = ("none", "best_fit") if form.kind == "pairs" and not parted else ("none",)
    if form.kind != "text" and mode not in legal:
        why = "would cut them" if mode == "concat" else "would put several into a row"
        raise UserError(
            f"data.packing={mode}: of data.kind={form.kind} it {why}; say --config.data.packing={' or '.join(legal)}"
        )
    if parted and (count := getattr(data, "buckets", None)) is not None:
        raise UserError(f"data.buckets={count} cuts rows of one text: data.source_length={data.source_length} has two")
