"""Documents to rows of one length, so that no token is lost or doubled: end to end, best fit, or one a row.

Document d's tokens are `<doc> t0 .. tn-1`. Each of them is a row's token once an epoch, and its target is the next one,
or after the last a <doc>: the document's end.

`concat`: documents end to end, cut every L tokens; row k covers stream[k*L : k*L + L + 1], its tokens all but the last of
these and its targets all but the first. Nothing is padding, and most rows begin amid a document.
`best_fit`: whole documents share rows, put together by best-fit decreasing; only one longer than a row is cut. Ding et
al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, 2.2. A few positions are padding.
`none`: each document has rows of its own, and what is left of its last one is padding.

A row is a dict of (L,) arrays, int32 but for weights: tokens, targets, segments (1, 2, .. for the row's documents, 0
for padding), positions (from 0 in each segment), bytes (of UTF-8 in the target), weights (float32; padding 0).
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lmjax.data.best_fit import best_fit
from lmjax.data.shards import Documents
from lmjax.errors import unknown

if TYPE_CHECKING:
    from lmjax.data.curriculum import Curriculum

Row = dict[str, np.ndarray]
FEW = 12  # pieces of a row that are cheaper one by one than all at once


class Stream(Protocol):
    """A stream of rows of `length`; `tokens` are those of an epoch, which fill `epoch_rows` rows, `efficiency` of whose
    positions are tokens and not padding. Rows are there up to `end`; None: for ever."""

    documents: Documents
    length: int
    tokens: int
    epoch_rows: float
    efficiency: float
    end: int | None

    def row(self, k: int) -> Row: ...


def permutation(count: int, seed: int | str, epoch: int) -> np.ndarray:
    """(count,) int64: the order of an epoch's documents, a pure function of the arguments.

    Sorts Philox's raw 64-bit output, which NumPy keeps stable between versions, as it does not Generator.permutation.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    keys = np.random.Philox(key=np.frombuffer(digest[:16], "<u8")).random_raw(count)
    return np.argsort(keys, kind="stable")


class Rows:
    """The endless training stream: every epoch each document once, in that epoch's order. Nothing is held but an order
    of document indices an epoch (the last two epochs')."""

    end = None

    def __init__(
        self,
        documents: Documents,
        length: int,
        seed: int,
        token_bytes: np.ndarray,
        curriculum: Curriculum | None = None,
    ):
        self.documents, self.length, self.seed, self.token_bytes = documents, length, seed, token_bytes
        self.curriculum = curriculum
        self.tokens = int(documents.lengths.sum())  # an epoch
        self.epoch_rows, self.efficiency = self.tokens / length, 1.0
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def row(self, k: int) -> Row:
        """Row k of the stream, a pure function of (documents, length, seed, k)."""
        return _row(self._pieces(k, 1), self.length, self.token_bytes)

    def block(self, k: int, count: int) -> Row:
        """Rows k, k + 1, .. stacked: a dict of (count, L) arrays."""
        return _rows(self._pieces(k, count), count, self.length, self.token_bytes)

    def _pieces(self, k: int, count: int) -> list[np.ndarray]:
        """What of the documents, one after the other, is in these rows, and the token after it."""
        (epoch, start), left, pieces = divmod(k * self.length, self.tokens), count * self.length + 1, []
        while left:
            stop = min(start + left, self.tokens)
            pieces += _between(self.documents, *self._epoch(epoch), start, stop)
            epoch, start, left = epoch + 1, 0, left - (stop - start)
        return pieces

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self.curriculum and self.curriculum.rules(epoch):
            order = self.curriculum.order(self.curriculum.scores, self.seed, epoch)
        else:
            order = permutation(len(self.documents.lengths), self.seed, epoch)
        return order, np.cumsum(self.documents.lengths[order])


class PackedRows:
    """The endless training stream of rows that hold whole documents: every epoch each document once.

    A document longer than a row is cut into rows and a rest; documents and rests are the items that `plan` (one of
    PLANS) puts into rows. Which of the items of one size go together, and the order of the rows, is new every epoch;
    how many rows an epoch has is not. Memory: 28 bytes an item, and 16 for each of the last two epochs.
    """

    end = None

    def __init__(
        self,
        documents: Documents,
        length: int,
        seed: int,
        doc: int,
        token_bytes: np.ndarray,
        plan: str = "best_fit",
        curriculum: Curriculum | None = None,
    ):
        self.documents, self.length, self.seed, self.token_bytes = documents, length, seed, token_bytes
        self.curriculum, self._doc = curriculum, np.array([doc])
        counts = -(-documents.lengths // length)  # items of each document
        self._document = np.repeat(np.arange(len(counts)), counts)  # of each item
        self._first = np.cumsum(counts) - counts  # item of each document
        self._sizes = np.minimum(
            documents.lengths[self._document] - self._start(np.arange(len(self._document))), length
        ).astype(np.int32)
        row_of = PLANS[plan](np.sort(self._sizes)[::-1], length)
        self._ranks = np.argsort(row_of, kind="stable")  # of the items, largest first, row by row
        self._ends = np.cumsum(np.bincount(row_of))
        self.tokens, self.epoch_rows = int(documents.lengths.sum()), len(self._ends)
        self.efficiency = self.tokens / (self.epoch_rows * length)  # the share of positions that are no padding
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def row(self, k: int) -> Row:
        """Row k of the stream, a pure function of (documents, length, seed, plan, k)."""
        epoch, r = divmod(k, self.epoch_rows)
        items, order = self._epoch(epoch)
        r = int(order[r])
        held = items[self._ends[r - 1] if r else 0 : self._ends[r]]
        return whole([self._item(int(item)) for item in held], self.length, self.token_bytes)

    def _start(self, items: np.ndarray) -> np.ndarray:
        """Where in their documents items begin."""
        return (items - self._first[self._document[items]]) * self.length

    def _item(self, item: int) -> np.ndarray:
        """An item's tokens and the one after them."""
        i, start, size = int(self._document[item]), int(self._start(item)), int(self._sizes[item])
        tokens = _piece(self.documents, i, start, size + 1)
        return tokens if len(tokens) > size else np.append(tokens, self._doc)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's items row by row, and the order of these rows."""
        items = permutation(len(self._sizes), f"{self.seed}/items", epoch)
        items = items[np.argsort(-self._sizes[items], kind="stable")][self._ranks]
        if self.curriculum and self.curriculum.rules(epoch):
            sizes, starts = self._sizes[items].astype(float), np.append(0, self._ends[:-1])
            scores = np.add.reduceat(self.curriculum.scores[self._document[items]] * sizes, starts)
            return items, self.curriculum.order(scores / np.add.reduceat(sizes, starts), self.seed, epoch)
        return items, permutation(self.epoch_rows, self.seed, epoch)


PLANS = {"best_fit": best_fit, "none": lambda sizes, length: np.arange(len(sizes))}
MODES = ("concat", *PLANS)


def pack(
    mode: str,
    documents: Documents,
    length: int,
    seed: int,
    doc: int,
    token_bytes: np.ndarray,
    curriculum: Curriculum | None = None,
) -> Rows | PackedRows:
    """The training stream of documents in one of MODES."""
    if mode == "concat":
        return Rows(documents, length, seed, token_bytes, curriculum)
    if mode not in PLANS:
        raise unknown("value of data.packing", mode, MODES)
    return PackedRows(documents, length, seed, doc, token_bytes, mode, curriculum)


class OrderedRows:
    """Each token once, in the documents' own order, then rows of padding: for validation.

    The last document ends with one more <doc>, so that its end is predicted like the others'.
    """

    def __init__(self, documents: Documents, length: int, doc: int, token_bytes: np.ndarray):
        self.documents, self.length, self.token_bytes = documents, length, token_bytes
        self.tokens = int(documents.lengths.sum())
        self._doc, self._ends = np.array([doc]), np.cumsum(documents.lengths)

    def __len__(self) -> int:
        """Rows that hold at least one token."""
        return -(-self.tokens // self.length)

    def row(self, k: int) -> Row:
        """Row k; all padding from len(self) on."""
        return _row(self._pieces(k, 1), self.length, self.token_bytes)

    def block(self, k: int, count: int) -> Row:
        """Rows k, k + 1, .. stacked: a dict of (count, L) arrays."""
        return _rows(self._pieces(k, count), count, self.length, self.token_bytes)

    def _pieces(self, k: int, count: int) -> list[np.ndarray]:
        start, end = k * self.length, (k + count) * self.length + 1
        if start >= self.tokens:
            return []
        pieces = _between(self.documents, range(len(self._ends)), self._ends, start, min(end, self.tokens))
        return pieces if end <= self.tokens else [*pieces, self._doc]


def batch(rows: Stream | OrderedRows, indices: np.ndarray) -> Row:
    """The rows with these indices, stacked: a dict of (b, t) arrays."""
    count, together = len(indices), getattr(rows, "block", None)
    if together and count and int(indices[-1]) - int(indices[0]) == count - 1 and (np.diff(indices) == 1).all():
        return together(int(indices[0]), count)
    found = [rows.row(int(k)) for k in indices]
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def _between(
    documents: Documents, order: np.ndarray | range, ends: np.ndarray, start: int, stop: int
) -> list[np.ndarray]:
    """Tokens start to stop of the documents in that order, which end at `ends`."""
    first, last = np.searchsorted(ends, (start, stop - 1), "right").tolist()
    pieces = documents.whole(order[first : last + 1])
    pieces[-1] = pieces[-1][: stop - int(ends[last - 1] if last else 0)]
    pieces[0] = pieces[0][start - int(ends[first - 1] if first else 0) :]
    return pieces


def _piece(documents: Documents, i: int, start: int, most: int) -> np.ndarray:
    return documents.read(i, start, min(start + most, int(documents.lengths[i])))


def _row(pieces: list[np.ndarray], length: int, token_bytes: np.ndarray) -> Row:
    """One row from the pieces of documents that make it up: length + 1 tokens, or fewer and padding."""
    row, made = _empty(length)
    targets = sum(map(len, pieces)) - 1
    if targets < 1:
        return row
    stream = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    made[0, :targets], made[1, :targets] = stream[:-1], stream[1:]
    if len(pieces) <= FEW:
        at, counting = 0, _counting(length)
        for segment, piece in enumerate(pieces, 1):
            end = min(at + len(piece), targets)
            made[2, at:end], made[3, at:end] = segment, counting[: end - at]
            at = end
    else:
        counts = np.array([len(piece) for piece in pieces], np.int64)
        made[2, :targets] = np.repeat(np.arange(1, len(pieces) + 1), counts)[:targets]
        made[3, :targets] = (np.arange(targets + 1) - np.repeat(np.cumsum(counts) - counts, counts))[:targets]
    made[4, :targets] = token_bytes[made[1, :targets]]
    row["weights"][:targets] = 1
    return row


def _rows(pieces: list[np.ndarray], count: int, length: int, token_bytes: np.ndarray) -> Row:
    """As many `_row`s, one after the other in the pieces, stacked, at once."""
    row, made = _empty(count * length)
    targets = sum(map(len, pieces)) - 1
    if targets > 0:
        stream = np.concatenate(pieces)
        begins = np.cumsum([0, *map(len, pieces[:-1])])
        starts = np.union1d(begins[begins < targets], np.arange(0, targets, length))  # of segments
        sizes = np.diff(starts, append=targets)
        numbers = np.arange(1, len(starts) + 1)  # from 1 in each row
        numbers -= np.searchsorted(starts, starts // length * length)
        made[0, :targets], made[1, :targets] = stream[:-1], stream[1:]
        made[2, :targets] = np.repeat(numbers, sizes)
        made[3, :targets] = np.arange(targets) - np.repeat(starts, sizes)
        made[4, :targets] = token_bytes[stream[1:]]
        row["weights"][:targets] = 1
    return {name: values.reshape(count, length) for name, values in row.items()}


def _empty(length: int) -> tuple[Row, np.ndarray]:
    """A row of padding, and its integers as (5, length) in their order: tokens, targets, segments, positions, bytes."""
    made = np.zeros((5, length), np.int32)
    row = dict(zip(("tokens", "targets", "segments", "positions", "bytes"), made, strict=True))
    return row | {"weights": np.zeros(length, np.float32)}, made


@functools.lru_cache(maxsize=8)
def _counting(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int32)


def whole(pieces: list[np.ndarray], length: int, token_bytes: np.ndarray) -> Row:
    """One row from pieces that share it, each with its last target, and padding."""
    row = {name: np.zeros(length, np.int32) for name in ("tokens", "targets", "segments", "positions", "bytes")}
    row["weights"] = np.zeros(length, np.float32)
    at = 0
    for segment, piece in enumerate(pieces, 1):
        held = slice(at, at + len(piece) - 1)
        row["tokens"][held], row["targets"][held], row["segments"][held] = piece[:-1], piece[1:], segment
        row["positions"][held] = np.arange(len(piece) - 1)
        at = held.stop
    row["bytes"][:at] = token_bytes[row["targets"][:at]]
    row["weights"][:at] = 1
    return row
