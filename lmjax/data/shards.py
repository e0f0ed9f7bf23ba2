"""Token shards: a corpus tokenized once, as ArrayRecord files of one document a record, split and fingerprinted.

A record is the document's ids, little-endian uint16 (uint32 above 65,536 ids), <doc> first. Groups of 64 uncompressed
records read fastest: 15 us for a random one, where groups of one (ArrayRecord's advice) take 160 us.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data import sources, text, tokenizers
from lmjax.errors import UserError

FORMAT = 1  # raise it when the same parts would give other shards: readers, split, records
SPLITS = ("train", "valid")
SHARD = 64 << 20  # bytes of records after which a new file begins
BATCH = 1024  # documents tokenized at a time
IN_MEMORY = 128 << 20  # bytes of records up to which a split is kept in memory
LOG = logging.getLogger(__name__)


def parts(source: sources.Source, data: Any) -> dict:
    """Everything that decides what `build` writes."""
    return {
        "format": FORMAT,
        "source": source.fingerprint,
        "tokenizer": tokenizers.settings(data),
        "valid_fraction": data.valid_fraction,
        "limit": data.limit,
    }


def build(folder: Path, source: sources.Source, data: Any, say: Callable[[str], None]) -> dict:
    """Tokenizes source into folder; returns the manifest. UserError when a split is empty."""
    split = _Split(data.valid_fraction)
    say(f"preparing {source.name} in {folder.parent}: once, then it is reused")
    if tokenizers.settings(data)["kind"] == "bpe":
        say("training the tokenizer on the training split")
    training = (document for document in sources.documents(source, limit=data.limit) if split.of(document) == "train")
    tokenizer = tokenizers.make(data, training)
    tokenizer.save(folder / "tokenizer")

    say("tokenizing")
    writers = {name: _Writer(folder, name, tokenizer.vocab_size) for name in SPLITS}
    tally, split = {}, _Split(data.valid_fraction)
    documents = sources.documents(source, limit=data.limit, tally=tally)
    while batch := list(itertools.islice(documents, BATCH)):
        for document, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            writers[split.of(document)].add(tokenizer.doc, ids, len(document.encode()), tokenizer.token_bytes)
    splits = {name: writer.close() for name, writer in writers.items()}
    split.check(tally, data)
    left_out = source.about.get("other_files", {}) | ({"empty documents": tally["empty"]} if tally["empty"] else {})
    if left_out:
        say(f"left out: {text.listing(left_out)}")
    _warn_of_loss(splits, data.tokenizer)
    content = {"tokenizer": tokenizer.fingerprint, **{name: splits[name]["sha256"] for name in SPLITS}}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"fingerprint": fingerprint, "source": {"name": source.name, **source.about}, "read": tally, **splits}


class _Split:
    """Which split a text is in: its SHA-256, read as a fraction, below valid_fraction is validation.

    So a document stays where it is whatever is added, and copies of one are never on both sides.
    """

    def __init__(self, valid_fraction: float):
        self.valid_fraction, self.lowest, self.highest = valid_fraction, 1.0, 0.0

    def of(self, document: str) -> str:
        fraction = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
        self.lowest, self.highest = min(self.lowest, fraction), max(self.highest, fraction)
        return "valid" if fraction < self.valid_fraction else "train"

    def check(self, tally: dict, data: Any) -> None:
        """UserError when a split is empty, with what to do."""
        count = tally["documents"]
        said = f"data.source={data.source} has {count} document{'s' if count != 1 else ''}"
        if data.limit is not None:
            said += f" within data.limit={data.limit} bytes"
        if count < 2:
            more = "raise data.limit" if tally["limited"] else "add text"
            raise UserError(f"{said}: too few to train on some and validate on others; {more}")
        if self.lowest >= self.valid_fraction:
            fraction = min(0.999, int(self.lowest * 1000 + 1) / 1000)
            raise UserError(
                f"{said}, none of which is among the data.valid_fraction={self.valid_fraction} kept for validation; "
                f"add text, or set data.valid_fraction={fraction}"
            )
        if self.highest < self.valid_fraction:
            fraction = int(self.highest * 1000) / 1000
            raise UserError(
                f"{said}, all of which are among the data.valid_fraction={self.valid_fraction} kept for validation; "
                f"add text, or set data.valid_fraction={fraction}"
            )


class _Writer:
    """The ArrayRecord files of one split, their documents' lengths, and what is known of them."""

    def __init__(self, folder: Path, name: str, vocab_size: int):
        self.folder, self.name, self.dtype = folder, name, _dtype(vocab_size)
        self.lengths, self.files, self.file, self.room = [], [], None, 0
        self.text_bytes = self.token_bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, doc: int, ids: np.ndarray, text_bytes: int, token_bytes: np.ndarray) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        record = np.concatenate([[doc], ids]).astype(self.dtype).tobytes()
        if self.file is None or self.room < len(record):
            self._finish()
            self.files.append({"name": f"{self.name}-{len(self.files):05d}.arrayrecord", "documents": 0})
            self.file = ArrayRecordWriter(str(self.folder / self.files[-1]["name"]), "group_size:64,uncompressed")
            self.room = SHARD
        self.file.write(record)
        self.room -= len(record)
        self.files[-1]["documents"] += 1
        self.lengths.append(len(ids) + 1)
        self.sha256.update(np.int64(len(ids)).tobytes() + record)
        self.text_bytes += text_bytes
        self.token_bytes += int(token_bytes[ids].sum())

    def close(self) -> dict:
        self._finish()
        np.save(self.folder / f"{self.name}.lengths.npy", np.array(self.lengths, np.int64))
        return {
            "files": self.files,
            "documents": len(self.lengths),
            "tokens": sum(self.lengths),  # with a <doc> for each document
            "bytes": self.text_bytes,
            "token_bytes": self.token_bytes,
            "sha256": self.sha256.hexdigest(),  # of the ids, whatever the files around them
        }

    def _finish(self) -> None:
        if self.file is not None:
            try:
                self.file.close()
            except RuntimeError as error:  # all that ArrayRecord says of a failed write, and only here
                full = "No space left" in str(error)
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from None


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
    readers = [ArrayRecordReader(str(folder / file["name"]), "readahead_buffer_size:0") for file in split["files"]]
    if lengths.sum() * dtype.itemsize <= IN_MEMORY:
        return _flat(np.frombuffer(b"".join(_records(readers)), dtype), lengths)
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


def _records(readers: list) -> Iterator[bytes]:
    for reader in readers:
        yield from reader.read_all()
        reader.close()


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _warn_of_loss(splits: dict, tokenizer: str) -> None:
    size, tokens = (sum(splits[name][key] for name in SPLITS) for key in ("bytes", "token_bytes"))
    if size != tokens:
        LOG.warning(
            "data.tokenizer=%s does not keep this text exactly: its ids stand for %d bytes where the text has %d, so "
            "bits per byte is an estimate",
            *(tokenizer, tokens, size),
        )
