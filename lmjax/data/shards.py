"""Token shards: a corpus tokenized once, as ArrayRecord files of one document a record.

A record is the document's ids, little-endian uint16 (uint32 above 65,536 ids), <doc> first. Groups of 64 uncompressed
records read fastest: 15 us for a random one, where groups of one (ArrayRecord's advice) take 160 us.
"""

from __future__ import annotations

import errno
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data import cleaning, sources, tokenizers

FORMAT = 1  # raise it when the same parts would give other shards: readers, split, records
SPLITS = ("train", "valid")
SHARD = 64 << 20  # bytes of records after which a new file begins
BATCH = 256  # documents read at a time
IN_MEMORY = 128 << 20  # bytes of records up to which a split is kept in memory


def parts(source: sources.Source, data: Any) -> dict:
    """Everything that decides what a build writes. What is not asked for is not named, so that keys stay as they were."""
    cleaned = cleaning.key(cleaning.settings(data))
    return {
        "format": FORMAT,
        "source": source.fingerprint,
        "tokenizer": tokenizers.settings(data),
        "valid_fraction": data.valid_fraction,
        "limit": data.limit,
        **({"clean": cleaned} if cleaned else {}),
    }


class Writer:
    """The ArrayRecord files of one split in one part of a build, its documents' lengths, and what is known of them."""

    def __init__(self, folder: Path, name: str, part: int, vocab_size: int):
        self.folder, self.name, self.dtype = folder, f"{name}-{part:05d}", _dtype(vocab_size)
        self.lengths, self.files, self.file, self.room = [], [], None, 0
        self.text_bytes = self.token_bytes = 0

    def add(self, doc: int, ids: np.ndarray, text_bytes: int, token_bytes: np.ndarray) -> None:
        """The next document: <doc> and its ids; text_bytes of UTF-8; token_bytes (vocab,) of each id."""
        from array_record.python.array_record_module import ArrayRecordWriter

        record = np.concatenate([[doc], ids]).astype(self.dtype).tobytes()
        if self.file is None or self.room < len(record):
            self._finish()
            more = f"-{len(self.files):03d}" if self.files else ""
            self.files.append({"name": f"{self.name}{more}.arrayrecord", "documents": 0})
            self.file = ArrayRecordWriter(str(self.folder / self.files[-1]["name"]), "group_size:64,uncompressed")
            self.room = SHARD
        self.file.write(record)
        self.room -= len(record)
        self.files[-1]["documents"] += 1
        self.lengths.append(len(ids) + 1)
        self.text_bytes += text_bytes
        self.token_bytes += int(token_bytes[ids].sum())

    def close(self) -> dict:
        """Finishes the files; what a manifest says of them."""
        self._finish()
        return {
            "files": self.files,
            "documents": len(self.lengths),
            "tokens": sum(self.lengths),  # with a <doc> for each document
            "bytes": self.text_bytes,
            "token_bytes": self.token_bytes,
        }

    def _finish(self) -> None:
        if self.file is not None:
            try:
                self.file.close()
            except RuntimeError as error:  # all that ArrayRecord says of a failed write, and only here
                full = "No space left" in str(error)
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from None


def content_sha256(folder: Path, files: list[dict], vocab_size: int) -> str:
    """Hex digest of the ids of a split's documents, whatever the files around them."""
    digest, size = hashlib.sha256(), _dtype(vocab_size).itemsize
    for records in _records(folder, files):
        for record in records:
            digest.update(np.int64(len(record) // size - 1).tobytes() + record)
    return digest.hexdigest()


@dataclass(frozen=True)
class Documents:
    """The tokenized documents of a split: `lengths` (n,) int64, and `read(i, start, stop) -> ids` of one of them."""

    lengths: np.ndarray
    read: Callable[[int, int, int], np.ndarray]


def in_memory(documents: Iterable[np.ndarray]) -> Documents:
    """Documents that are there, each with its <doc>."""
    documents = list(documents)
    lengths = np.array([len(document) for document in documents], np.int64)
    return _flat(np.concatenate(documents), lengths)


def load(folder: Path, split: dict, name: str, vocab_size: int) -> Documents:
    """A split of a sealed folder: in memory when it is small, else read from the shards, document by document."""
    from array_record.python.array_record_module import ArrayRecordReader

    lengths = np.load(folder / f"{name}.lengths.npy")
    dtype = _dtype(vocab_size)
    if lengths.sum() * dtype.itemsize <= IN_MEMORY:
        tokens, start = np.empty(lengths.sum(), dtype), 0
        for records in _records(folder, split["files"]):
            some = np.frombuffer(b"".join(records), dtype)
            tokens[start : start + len(some)] = some
            start += len(some)
        return _flat(tokens, lengths)
    readers = [ArrayRecordReader(str(folder / file["name"]), "readahead_buffer_size:0") for file in split["files"]]
    ends = np.cumsum([file["documents"] for file in split["files"]])

    @functools.lru_cache(maxsize=4)  # a long document serves many rows
    def record(i: int) -> np.ndarray:
        shard = int(np.searchsorted(ends, i, "right"))
        first = int(ends[shard - 1]) if shard else 0
        return np.frombuffer(readers[shard].read([i - first])[0], dtype)

    return Documents(lengths, lambda i, start, stop: record(i)[start:stop])


def _flat(tokens: np.ndarray, lengths: np.ndarray) -> Documents:
    starts = (np.cumsum(lengths) - lengths).tolist()
    return Documents(lengths, lambda i, start, stop: tokens[starts[i] + start : starts[i] + stop])


def _records(folder: Path, files: list[dict]) -> Iterator[list[bytes]]:
    """The records of ArrayRecord files in their order, some at a time."""
    from array_record.python.array_record_module import ArrayRecordReader

    for file in files:
        reader = ArrayRecordReader(str(folder / file["name"]), "readahead_buffer_size:0")
        for start in range(0, file["documents"], BATCH):
            yield reader.read(start, min(start + BATCH, file["documents"]))
        reader.close()


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
