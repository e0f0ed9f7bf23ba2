"""What a build is to make, cut into parts that any process can read: the pieces of a source, cleaned, as documents.

Rules that decide about a document by all the others (duplicates, outliers) take a pass over the parts before: of each
its signatures, then one decision, kept beside the build as a mark for every document.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data import cleaning, sources, worker
from lmjax.data.records import BadRecord, Piece, Record
from lmjax.data.split import Split

PART = 16 << 20  # bytes of text
BYTEWISE = (".txt", ".jsonl", ".csv", ".tsv")  # whose pieces are counted in bytes; of others one is taken for a part


@dataclass(frozen=True)
class Plan:
    """All that a process needs to make any part: picklable. folder is filled; notes is for what is known on the way."""

    folder: Path
    notes: Path
    source: sources.Source
    parts: list[list[Piece]]
    valid_fraction: float
    limit: int | None
    clean: cleaning.Settings

    @property
    def numbers(self) -> range:
        """Of the parts."""
        return range(len(self.parts))


def make(folder: Path, notes: Path, source: sources.Source, data: Any) -> Plan:
    """The plan for config.data. With a limit there is one part, for where it cuts is known by reading in order."""
    parts, room = [], 0
    for piece in source.pieces():
        bytewise = piece.stop >= 0 and Path(piece.file).suffix.lower() in BYTEWISE
        size = piece.stop - piece.start if bytewise else PART
        if not parts or (room < size and data.limit is None):
            parts.append([])
            room = PART
        parts[-1].append(piece)
        room -= size
    return Plan(folder, notes, source, parts or [[]], data.valid_fraction, data.limit, cleaning.settings(data))


def read(plan: Plan, number: int, tally: Counter, report: cleaning.Report | None = None) -> Iterator[str]:
    """The documents of a part, cleaned, without empty ones, until one would take the text over the limit.

    tally counts while one reads: documents, bytes (of UTF-8), empty, limited (whether the limit cut); report what the
    rules do. UserError at the first record that cannot be read, unless data.clean.bad is drop.
    """
    records = _records(plan, number)
    if cleaning.key(plan.clean):
        marks = np.load(_path(plan, number, "marks")) if plan.clean.needs_all else None
        records = cleaning.apply(records, plan.clean, marks, report)
    yield from sources.counted((record["text"] for record in records), plan.limit, tally)


def decide(plan: Plan, workers: int, say: Callable[[str], None]) -> None:
    """Makes the marks that `read` needs, when a rule is on that looks at all documents."""
    if not plan.clean.needs_all:
        return
    say("looking for " + ", ".join(name for name in cleaning.TOGETHER if cleaning.key(plan.clean).get(name)))
    for _ in worker.each(Scan(plan), [number for number in plan.numbers if _signatures(plan, number) is None], workers):
        pass
    marks = cleaning.decide([_signatures(plan, number) for number in plan.numbers], plan.clean)
    for number, some in zip(plan.numbers, marks, strict=True):
        _save(_path(plan, number, "marks"), some)


@dataclass(frozen=True)
class Scan:
    """Notes the signatures of a part."""

    plan: Plan

    def __call__(self, number: int) -> None:
        found = cleaning.scan(_records(self.plan, number), self.plan.clean)
        _save(_path(self.plan, number, "signatures"), found)


@dataclass(frozen=True)
class Look:
    """Which n-grams of a probe the training documents of a part hold."""

    plan: Plan
    probe: cleaning.Probe

    def __call__(self, number: int) -> np.ndarray:
        return self.probe.look(of_split(self.plan, number, "train")).seen


def contamination(plan: Plan, workers: int, say: Callable[[str], None]) -> dict | None:
    """How much of validation the training text holds; None when it is not asked. UserError above the limit."""
    if plan.clean.contamination is None:
        return None
    say("looking for validation documents in the training text")
    valid = (document for number in plan.numbers for document in of_split(plan, number, "valid"))
    probe = cleaning.Probe(valid, plan.clean.contamination)
    for seen in worker.each(Look(plan, probe), list(plan.numbers), workers):
        probe.merge(seen)
    return cleaning.check(probe.result(plan.clean.contamination_share), plan.clean)


def of_split(plan: Plan, number: int, name: str) -> Iterator[str]:
    """A part's documents of one split."""
    split = Split(plan.valid_fraction)
    return (document for document in read(plan, number, Counter()) if split.of(document) == name)


def _records(plan: Plan, number: int) -> Iterator[Record | BadRecord]:
    for piece in plan.parts[number]:
        for record in plan.source.read(piece):
            if isinstance(record, BadRecord) and plan.clean.bad == "error":
                raise sources.refusal(plan.source, record)
            yield record


def _signatures(plan: Plan, number: int) -> np.ndarray | None:
    try:
        return np.load(_path(plan, number, "signatures"))
    except (OSError, ValueError, EOFError):
        return None


def _path(plan: Plan, number: int, what: str) -> Path:
    return plan.notes / f"{number:05d}.{what}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    """At once, so that what is there is whole."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    np.save(beside, array)
    os.replace(beside, path)
