"""From a source to sealed token shards, in parts that can be made side by side, in any order, and after a kill.

A part is about 16 MiB of the source: the next of its pieces. It has shards of its own and a note, written after them,
with what is in them; a part with a whole note and whole shards is not made again. Which process made a part, and when,
is nowhere in its bytes, so a build gives the same folder for any number of workers and interruptions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import atomic
from lmjax.data import shards, sources, text, tokenizers, worker
from lmjax.data.records import BadRecord, Piece
from lmjax.errors import UserError

PART = 16 << 20  # bytes of text
BYTEWISE = (".txt", ".jsonl", ".csv", ".tsv")  # whose pieces are counted in bytes; of others one is taken for a part
DOCUMENTS, BYTES = 1024, 2 << 20  # tokenized at a time, whichever is reached first
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What of config.data decides what a part holds, in a form that goes to another process."""

    valid_fraction: float
    limit: int | None = None
    drop_bad: bool = False


@dataclass(frozen=True)
class Part:
    """Makes the part of that number: called in any process."""

    folder: Path
    notes: Path
    source: Any
    parts: list[list[Piece]]
    settings: Settings

    def __call__(self, number: int) -> int:
        make_part(self, number)
        return number


def build(folder: Path, notes: Path, source: sources.Source, data: Any, say: Callable[[str], None],
          workers: int | None = None) -> dict:  # fmt: skip
    """Tokenizes source into folder and returns the manifest, going on with what notes says is there already.

    workers: processes, as many as there are cores unless given. UserError when a split is empty.
    """
    drop = getattr(getattr(data, "clean", None), "bad", "error") == "drop"
    settings = Settings(data.valid_fraction, data.limit, drop)
    part = Part(folder, notes, source, plan(source, data.limit), settings)
    tokenizer, done = _what_is_there(part)
    say(f"preparing {source.name} in {folder.parents[1]}: once, then it is reused")
    if tokenizer is None:
        tokenizer = _tokenizer(part, data, say)
    elif done:
        say(f"{len(done)} of {len(part.parts)} parts were prepared before")
    say("tokenizing")
    left = [number for number in range(len(part.parts)) if number not in done]
    workers = _cores() if workers is None else workers
    with _progress(len(part.parts), len(done)) as advance:
        for _ in worker.each(part, left, workers):
            advance()
    return _finish(part, tokenizer, data, say)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(source: sources.Source, limit: int | None) -> list[list[Piece]]:
    """The pieces of each part. With a limit there is one part, for where it cuts is known by reading in order."""
    parts, room = [], 0
    for piece in _pieces(source):
        bytewise = piece.stop >= 0 and Path(piece.file).suffix.lower() in BYTEWISE
        size = piece.stop - piece.start if bytewise else PART
        if not parts or (room < size and limit is None):
            parts.append([])
            room = PART
        parts[-1].append(piece)
        room -= size
    return parts or [[]]


def make_part(part: Part, number: int) -> None:
    """Writes the shards of a part, their documents' lengths, and last the note that they are whole."""
    tokenizer = _loaded(part.folder / "tokenizer")
    writers = {name: shards.Writer(part.folder, name, number, tokenizer.vocab_size) for name in shards.SPLITS}
    tally, split = Counter(), Split(part.settings.valid_fraction)
    for batch in _batches(read(part, number, tally)):
        for document, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            writers[split.of(document)].add(tokenizer.doc, ids, len(document.encode()), tokenizer.token_bytes)
    splits = {name: writer.close() for name, writer in writers.items()}
    lengths = {name: np.array(writer.lengths, np.int64).tobytes() for name, writer in writers.items()}
    for name in shards.SPLITS:
        (part.notes / f"{number:05d}.{name}.lengths").write_bytes(lengths[name])
        splits[name]["lengths"] = hashlib.sha256(lengths[name]).hexdigest()
        for file in splits[name]["files"]:
            file["sha256"] = text.sha256(part.folder / file["name"])
    note = {
        "tokenizer": tokenizer.fingerprint,
        "read": dict(tally),
        "fractions": [split.lowest, split.highest],
        **splits,
    }
    atomic.write(part.notes / f"{number:05d}.json", json.dumps(note))


def read(part: Part, number: int, tally: Counter) -> Iterator[str]:
    """The documents of a part, without empty ones, until one would take the text over the limit.

    tally counts while one reads: documents, bytes (of UTF-8), empty, limited (whether the limit cut), and "bad REASON".
    UserError at the first record that cannot be read, unless they are to be dropped.
    """
    limit = part.settings.limit
    for document in _texts(part, part.parts[number], tally):
        size = len(document) if document.isascii() else len(document.encode())
        if limit is not None and tally["bytes"] + size > limit:
            tally["limited"] = 1
            return
        if not document:
            tally["empty"] += 1
            continue
        tally["documents"] += 1
        tally["bytes"] += size
        yield document


def _texts(part: Part, pieces: list[Piece], tally: Counter) -> Iterator[str]:
    for piece in pieces:
        for record in _read_piece(part.source, piece):
            if isinstance(record, BadRecord):
                if not part.settings.drop_bad:
                    raise UserError(f"{record.where}: {record.detail or record.reason}")
                tally[f"bad {record.reason}"] += 1
            else:
                yield record if isinstance(record, str) else record["text"]


def _pieces(source: Any) -> list[Piece]:
    return list(source.pieces()) if hasattr(source, "pieces") else [Piece(source.name)]


def _read_piece(source: Any, piece: Piece) -> Iterable[Any]:
    return source.read(piece) if hasattr(source, "pieces") else source.read()


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    """Lists of documents of bounded number and size."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if len(batch) == DOCUMENTS or size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path) -> Any:
    return tokenizers.load(folder)


def _tokenizer(part: Part, data: Any, say: Callable[[str], None]) -> Any:
    """The tokenizer of config.data, trained when it must be, saved in the folder."""
    if tokenizers.settings(data)["kind"] not in ("bytes", "file"):
        say("training the tokenizer on the training split")
    split = Split(data.valid_fraction)
    numbers = range(len(part.parts))
    documents = (document for number in numbers for document in read(part, number, Counter()))
    tokenizer = tokenizers.make(data, (document for document in documents if split.of(document) == "train"))
    tokenizer.save(part.folder / "tokenizer")
    _loaded.cache_clear()
    atomic.write(part.notes / "tokenizer.json", json.dumps({"fingerprint": tokenizer.fingerprint}))
    return tokenizer


def _what_is_there(part: Part) -> tuple[Any, set[int]]:
    """The tokenizer and the numbers of the parts that an earlier process left whole; whatever else it left is removed."""
    tokenizer, done, keep = None, set(), set()
    with contextlib.suppress(OSError, ValueError, KeyError):
        fingerprint = json.loads((part.notes / "tokenizer.json").read_text())["fingerprint"]
        with contextlib.suppress(UserError):
            tokenizer = tokenizers.load(part.folder / "tokenizer")
        if tokenizer and tokenizer.fingerprint != fingerprint:
            tokenizer = None
    for number in range(len(part.parts)) if tokenizer else ():
        if (files := _whole(part, number, tokenizer.fingerprint)) is not None:
            done.add(number)
            keep |= files
    for path in part.folder.iterdir():
        if path.is_dir() and not (tokenizer and path.name == "tokenizer"):
            shutil.rmtree(path)
        elif path.is_file() and path.name not in keep:
            path.unlink()
    return tokenizer, done


def _whole(part: Part, number: int, tokenizer: str) -> set[str] | None:
    """The names of a part's shards when all that its note says of them is so."""
    try:
        note = _note(part, number)
        for name in shards.SPLITS:
            lengths = (part.notes / f"{number:05d}.{name}.lengths").read_bytes()
            if hashlib.sha256(lengths).hexdigest() != note[name]["lengths"]:
                return None
            if any(text.sha256(part.folder / file["name"]) != file["sha256"] for file in note[name]["files"]):
                return None
        same = note["tokenizer"] == tokenizer
        return {file["name"] for name in shards.SPLITS for file in note[name]["files"]} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(part: Part, number: int) -> dict:
    return json.loads((part.notes / f"{number:05d}.json").read_text())


def _finish(part: Part, tokenizer: Any, data: Any, say: Callable[[str], None]) -> dict:
    """The manifest of all parts; their lengths as one array a split."""
    tally = Counter(documents=0, bytes=0, empty=0, limited=0)
    split, splits = Split(data.valid_fraction), {}
    notes = [_note(part, number) for number in range(len(part.parts))]
    for note in notes:
        tally.update(note["read"])
        split.saw(*note["fractions"])
    for name in shards.SPLITS:
        lengths = [(part.notes / f"{number:05d}.{name}.lengths").read_bytes() for number in range(len(notes))]
        np.save(part.folder / f"{name}.lengths.npy", np.frombuffer(b"".join(lengths), np.int64))
        files = [{key: file[key] for key in ("name", "documents")} for note in notes for file in note[name]["files"]]
        sums = {key: sum(note[name][key] for note in notes) for key in ("documents", "tokens", "bytes", "token_bytes")}
        digest = shards.content_sha256(part.folder, files, tokenizer.vocab_size)
        splits[name] = {"files": files, **sums, "sha256": digest}
    read = {**tally, "limited": bool(tally["limited"])}
    split.check(read, data)
    about = part.source.about
    left_out = about.get("other_files", {}) | ({"empty documents": read["empty"]} if read["empty"] else {})
    left_out |= {name: count for name, count in sorted(read.items()) if name.startswith("bad ")}
    if left_out:
        say(f"left out: {text.listing(left_out)}")
    _warn_of_loss(splits, data.tokenizer)
    content = {"tokenizer": tokenizer.fingerprint, **{name: splits[name]["sha256"] for name in shards.SPLITS}}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"fingerprint": fingerprint, "source": {"name": part.source.name, **about}, "read": read, **splits}


class Split:
    """Which split a text is in: its SHA-256, read as a fraction, below valid_fraction is validation.

    So a document stays where it is whatever is added, and copies of one are never on both sides.
    """

    def __init__(self, valid_fraction: float):
        self.valid_fraction, self.lowest, self.highest = valid_fraction, 1.0, 0.0

    def of(self, document: str) -> str:
        """The split of a document."""
        fraction = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
        self.saw(fraction, fraction)
        return "valid" if fraction < self.valid_fraction else "train"

    def saw(self, lowest: float, highest: float) -> None:
        """Fractions of documents that another split of them met."""
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)

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


def _warn_of_loss(splits: dict, tokenizer: str) -> None:
    size, tokens = (sum(splits[name][key] for name in shards.SPLITS) for key in ("bytes", "token_bytes"))
    if size != tokens:
        LOG.warning(
            "data.tokenizer=%s does not keep this text exactly: its ids stand for %d bytes where the text has %d, so "
            "bits per byte is an estimate",
            *(tokenizer, tokens, size),
        )


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal when there are several parts; gives the function that moves it by one."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("part"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda: bar.advance(task)
