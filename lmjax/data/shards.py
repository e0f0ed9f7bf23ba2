"""Token shards: a corpus tokenized once, as ArrayRecord files of one document a record.

A record is the document's ids, little-endian uint16 (uint32 above 65,536 ids), <doc> first; where the kind has an image
or a label (examples.Form.head) these stand before them. Groups of 64 uncompressed records read fastest: 15 us for a
random one, where groups of one (ArrayRecord's advice) take 160 us. Groups of images are smaller: all of one is read.
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

from lmjax.data import cleaning, examples, sources, split, tokenizers

FORMAT = 1  # raise it when the same parts would give other shards: readers, split, records
SPLITS = ("train", "valid")
SHARD = 64 << 20  # bytes of records after which a new file begins
BATCH = 64  # documents read at a time: a group
IN_MEMORY = 128 << 20  # bytes of records up to which a split is kept in memory
GROUP = 64 << 10  # bytes of heads that a group of records has at most
NO_HEAD = np.dtype([])


def parts(source: sources.Source, data: Any) -> dict:
    """Everything that decides what a build writes. What is not asked for is not named, so that keys stay as they were."""
    cleaned, form = cleaning.key(cleaning.settings(data)), examples.form(data)
    sample = tokenizers.sample(data, source.size) if form.texts else None
    return {
        "format": FORMAT,
        "source": source.fingerprint,
        "tokenizer": tokenizers.settings(data) | ({"sample": sample} if sample else {}) if form.texts else None,
        **split.key(data),
        "limit": data.limit,
        **({"clean": cleaned} if cleaned else {}),
        **form.key,
    }


class Writer:
    """The ArrayRecord files of one split in one part of a build, its documents' lengths, and what is known of them."""

    def __init__(self, folder: Path, name: str, part: int, vocab_size: int, head: np.dtype = NO_HEAD):
        self.folder, self.name, self.dtype = folder, f"{name}-{part:05d}", _dtype(vocab_size)
        self.group = max(1, min(64, GROUP // max(1, head.itemsize)))
        self.lengths, self.files, self.file, self.room = [], [], None, -1
        self.text_bytes = self.token_bytes = 0

    def extend(
        self, documents: list[tuple[np.ndarray, bytes, bytes]], text_bytes: int, token_bytes: np.ndarray
    ) -> None:
        """The next documents: of each its ids with <doc>, head and tail; text_bytes of UTF-8 in all; token_bytes (vocab,) of
        each id."""
        if not documents:
            return
        ids, heads, tails = zip(*documents, strict=True)
        sizes, ids = list(map(len, ids)), np.concatenate(ids)
        raw, ends = ids.astype(self.dtype).tobytes(), (np.cumsum(sizes) * self.dtype.itemsize).tolist()
        for head, start, end, tail in zip(heads, [0, *ends[:-1]], ends, tails, strict=True):
            record = head + raw[start:end] + tail
            if self.room < len(record):
                self._begin()
            self.file.write(record)
            self.room -= len(record)
            self.files[-1]["documents"] += 1
        self.lengths += sizes
        self.text_bytes += text_bytes
        self.token_bytes += int(np.add.reduce(token_bytes[ids], dtype=np.int64))

    def _begin(self) -> None:
        """A new file."""
        from array_record.python.array_record_module import ArrayRecordWriter

        self._finish()
        more = f"-{len(self.files):03d}" if self.files else ""
        self.files.append({"name": f"{self.name}{more}.arrayrecord", "documents": 0})
        self.file = ArrayRecordWriter(
            str(self.folder / self.files[-1]["name"]), f"group_size:{self.group},uncompressed"
        )
        self.room = SHARD

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


def content_sha256(folder: Path, files: list[dict], vocab_size: int, head: np.dtype = NO_HEAD,
                   tail: np.dtype = NO_HEAD) -> str:  # fmt: skip
    """Hex digest of the heads, ids and tails of a split's documents, whatever the files around them."""
    digest, size = hashlib.sha256(), _dtype(vocab_size).itemsize + tail.itemsize
    for records in _records(folder, files):
        for record in records:
            digest.update(np.int64((len(record) - head.itemsize) // size - 1).tobytes() + record)
    return digest.hexdigest()


@dataclass(frozen=True)
class Documents:
    """The tokenized documents of a split: `lengths` (n,) int64, and `read(i, start, stop) -> ids` of one of them.

    `head(i)` has the fields of fixed size by name, such as head(i)["label"], where the kind has any; `tail(i)` (m,) what
    each id of a document has beside it.
    """

    lengths: np.ndarray
    read: Callable[[int, int, int], np.ndarray]
    head: Callable[[int], np.void] | None = None
    tail: Callable[[int], np.ndarray] | None = None

    def whole(self, numbers: np.ndarray | range) -> list[np.ndarray]:
        """The ids of these."""
        numbers = np.asarray(numbers)
        return [self.read(i, 0, size) for i, size in zip(numbers.tolist(), self.lengths[numbers].tolist(), strict=True)]


def in_memory(documents: Iterable[np.ndarray]) -> Documents:
    """Documents that are there, each with its <doc>."""
    documents = list(documents)
    lengths = np.array([len(document) for document in documents], np.int64)
    return _flat(np.concatenate(documents), lengths)


def subset(documents: Documents, kept: np.ndarray) -> Documents:
    """Those with these numbers."""
    return Documents(
        documents.lengths[kept],
        lambda i, start, stop: documents.read(int(kept[i]), start, stop),
        documents.head and (lambda i: documents.head(int(kept[i]))),
        documents.tail and (lambda i: documents.tail(int(kept[i]))),
    )


def load(folder: Path, split: dict, name: str, vocab_size: int, head: np.dtype = NO_HEAD,
         tail: np.dtype = NO_HEAD, *, most: int | None = None) -> Documents:  # fmt: skip
    """A split of a sealed folder: in memory up to `most` bytes (IN_MEMORY), else read from the shards, one by one."""
    from array_record.python.array_record_module import ArrayRecordReader

    lengths = np.load(folder / f"{name}.lengths.npy")
    dtype, size = _dtype(vocab_size), head.itemsize
    if lengths.sum() * (dtype.itemsize + tail.itemsize) + len(lengths) * size <= (IN_MEMORY if most is None else most):
        held = functools.cache(lambda: _held(folder, split["files"], lengths, dtype, head, tail))  # with the first row
        one = (lambda i: held().head(i)) if size else None
        beside = (lambda i: held().tail(i)) if tail.itemsize else None
        return Documents(lengths, lambda i, start, stop: held().read(i, start, stop), one, beside)
    readers = [ArrayRecordReader(str(folder / file["name"]), "readahead_buffer_size:0") for file in split["files"]]
    ends = np.cumsum([file["documents"] for file in split["files"]])

    @functools.lru_cache(maxsize=4)  # a long document serves many rows
    def record(i: int) -> bytes:
        shard = int(np.searchsorted(ends, i, "right"))
        first = int(ends[shard - 1]) if shard else 0
        return readers[shard].read([i - first])[0]

    return Documents(
        lengths,
        lambda i, start, stop: np.frombuffer(record(i), dtype, int(lengths[i]), size)[start:stop],
        (lambda i: np.frombuffer(record(i), head, 1)[0]) if size else None,
        (lambda i: np.frombuffer(record(i)[-int(lengths[i]) * tail.itemsize :], tail)) if tail.itemsize else None,
    )


def _held(folder: Path, files: list[dict], lengths: np.ndarray, dtype: np.dtype, head: np.dtype,
          tail: np.dtype = NO_HEAD) -> Documents:  # fmt: skip
    """All records of a split in memory."""
    tokens, start, heads, size, tails = np.empty(lengths.sum(), dtype), 0, [], head.itemsize, []
    for records in _records(folder, files):
        if tail.itemsize:
            ids = [(len(record) - size) // (dtype.itemsize + tail.itemsize) * dtype.itemsize for record in records]
            tails += [record[size + most :] for record, most in zip(records, ids, strict=True)]
            records = [record[: size + most] for record, most in zip(records, ids, strict=True)]
        heads += [record[:size] for record in records] if size else []
        some = np.frombuffer(b"".join([record[size:] for record in records] if size else records), dtype)
        tokens[start : start + len(some)] = some
        start += len(some)
    beside = np.frombuffer(b"".join(tails), tail) if tail.itemsize else None
    return _flat(tokens, lengths, np.frombuffer(b"".join(heads), head) if size else None, beside)


def _flat(
    tokens: np.ndarray, lengths: np.ndarray, heads: np.ndarray | None = None, tails: np.ndarray | None = None
) -> Documents:
    starts = (np.cumsum(lengths) - lengths).tolist()
    return Documents(
        lengths,
        lambda i, start, stop: tokens[starts[i] + start : starts[i] + stop],
        None if heads is None else heads.__getitem__,
        None if tails is None else lambda i: tails[starts[i] : starts[i] + int(lengths[i])],
    )


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
