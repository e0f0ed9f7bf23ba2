"""Rows of an encoder-decoder: what is read in a row of its own (data.source_length), and what is written beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmjax.data import kinds, packing
from lmjax.data.examples import SEP
from lmjax.data.packing import Row
from lmjax.data.shards import Documents


def joint_length(data: Any) -> int:
    """Tokens of `<doc> source <sep> target` whose source and target fit their rows."""
    return data.source_length + data.length


def two_rows(
    source: np.ndarray, target: np.ndarray, doc: int, lengths: tuple[int, int], token_bytes: np.ndarray
) -> Row:
    """source (n,) and target (m,) ids in rows of `lengths`: `source <doc>`; `<doc> target`, to be told `target <doc>`."""
    row = packing.whole([np.concatenate([[doc], target, [doc]])], lengths[1], token_bytes)
    read = {name: np.zeros(lengths[0], np.int32) for name in ("source", "source_segments", "source_positions")}
    n = len(source) + 1
    read["source"][: n - 1], read["source"][n - 1] = source, doc
    read["source_segments"][:n], read["source_positions"][:n] = 1, np.arange(n)
    return row | read


class Parted:
    """A stream of pairs, `<doc> source <sep> target` one a row, as rows of the source and of the target."""

    def __init__(self, stream: packing.Stream, data: Any, tokenizer: Any):
        self.stream, self._lengths, self._sep = stream, (data.source_length, data.length), tokenizer.special(SEP)
        self._doc, self._token_bytes = tokenizer.doc, tokenizer.token_bytes
        self._empty = kinds.empty(kinds.fields(data))
        self.length, self.documents, self.tokens = data.length, stream.documents, stream.tokens
        self.epoch_rows, self.efficiency, self.end = stream.epoch_rows, stream.efficiency, stream.end
        if hasattr(stream, "counts"):  # a mixture's rows by component
            self.counts = stream.counts

    def __len__(self) -> int:
        return len(self.stream)

    def row(self, k: int) -> Row:
        """Row k of the stream in two."""
        row = self.stream.row(k)
        ids = row["tokens"][row["segments"] > 0]
        if not len(ids):
            return self._empty
        at = int(np.argmax(ids == self._sep))
        return two_rows(ids[1:at], ids[at + 1 :], self._doc, self._lengths, self._token_bytes)


def fits(documents: Documents, sep: int, lengths: tuple[int, int]) -> np.ndarray:
    """(n,) bool, which pairs' source and target fit their rows; only those of which the lengths do not tell are read."""
    most_source, most_target = (length - 1 for length in lengths)
    sizes = documents.lengths - 2  # without <doc> and <sep>
    kept = sizes <= min(most_source, most_target)
    for i in np.flatnonzero(~kept & (sizes <= most_source + most_target)).tolist():
        source = int(np.argmax(documents.read(i, 0, int(documents.lengths[i])) == sep)) - 1
        kept[i] = source <= most_source and sizes[i] - source <= most_target
    return kept
