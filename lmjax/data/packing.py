"""Documents to rows of one length: concatenate and cut, so that no token is lost, doubled or padded away.

Document d's tokens are `<doc> t0 .. tn-1`; a stream is documents end to end; row k covers stream[k*L : k*L + L + 1],
its tokens all but the last of these and its targets all but the first. So each token is predicted exactly once, and
each document's last token predicts the next document's <doc>: its end.

A row is a dict of (L,) arrays, int32 but for weights: tokens, targets, segments (1, 2, .. for the row's documents, 0
for padding), positions (from 0 in each segment), bytes (of UTF-8 in the target), weights (float32; padding 0).
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from lmjax.data.shards import Documents

Row = dict[str, np.ndarray]


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """(count,) int64: the order of an epoch's documents, a pure function of the arguments.

    Sorts Philox's raw 64-bit output, which NumPy keeps stable between versions, as it does not Generator.permutation.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    keys = np.random.Philox(key=np.frombuffer(digest[:16], "<u8")).random_raw(count)
    return np.argsort(keys, kind="stable")


class Rows:
    """The endless training stream: every epoch each document once, in that epoch's order. Nothing is held but an order
    of document indices an epoch (the last two epochs')."""

    def __init__(self, documents: Documents, length: int, seed: int, token_bytes: np.ndarray):
        self.documents, self.length, self.seed, self.token_bytes = documents, length, seed, token_bytes
        self.tokens = int(documents.lengths.sum())  # an epoch
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def row(self, k: int) -> Row:
        """Row k of the stream, a pure function of (documents, length, seed, k)."""
        epoch, offset = divmod(k * self.length, self.tokens)
        order, ends = self._epoch(epoch)
        j = int(np.searchsorted(ends, offset, "right"))
        start = offset - (int(ends[j - 1]) if j else 0)
        pieces, left = [], self.length + 1
        while left:
            if j == len(order):
                epoch, j = epoch + 1, 0
                order, ends = self._epoch(epoch)
            pieces.append(_piece(self.documents, int(order[j]), start, left))
            left -= len(pieces[-1])
            j, start = j + 1, 0
        return _row(pieces, self.length, self.token_bytes)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = permutation(len(self.documents.lengths), self.seed, epoch)
        return order, np.cumsum(self.documents.lengths[order])


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
        offset = k * self.length
        j = int(np.searchsorted(self._ends, offset, "right"))
        start = offset - (int(self._ends[j - 1]) if j else 0)
        pieces, left = [], self.length + 1
        while left and j < len(self._ends):
            pieces.append(_piece(self.documents, j, start, left))
            left -= len(pieces[-1])
            j, start = j + 1, 0
        if left and pieces:
            pieces.append(self._doc)
        return _row(pieces, self.length, self.token_bytes)


def batch(rows: Rows | OrderedRows, indices: np.ndarray) -> Row:
    """The rows with these indices, stacked: a dict of (b, t) arrays."""
    found = [rows.row(int(k)) for k in indices]
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def _piece(documents: Documents, i: int, start: int, most: int) -> np.ndarray:
    return documents.read(i, start, min(start + most, int(documents.lengths[i])))


def _row(pieces: list[np.ndarray], length: int, token_bytes: np.ndarray) -> Row:
    """One row from the pieces of documents that make it up: length + 1 tokens, or fewer and padding."""
    counts = np.array([len(piece) for piece in pieces], np.int64)
    targets = max(int(counts.sum()) - 1, 0)
    row = {name: np.zeros(length, np.int32) for name in ("tokens", "targets", "segments", "positions", "bytes")}
    row["weights"] = np.zeros(length, np.float32)
    if targets:
        stream = np.concatenate(pieces)
        row["tokens"][:targets], row["targets"][:targets] = stream[:-1], stream[1:]
        row["segments"][:targets] = np.repeat(np.arange(1, len(pieces) + 1), counts)[:targets]
        row["positions"][:targets] = (np.arange(targets + 1) - np.repeat(np.cumsum(counts) - counts, counts))[:targets]
        row["bytes"][:targets] = token_bytes[stream[1:]]
        row["weights"][:targets] = 1
    return row
