"""What a build is to make, cut into parts that any process can read: the pieces of a source, cleaned, as documents.

Rules that decide about a document by all the others (duplicates, outliers) take a pass over the parts before: of each
its signatures, then one decision, kept beside the build as a mark for every document.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import atomic
from lmjax.data import cleaning, examples, sources, worker
from lmjax.data.records import BadRecord, Piece, Record
from lmjax.data.split import Given, Split, bounds
from lmjax.errors import UserError

PART = 16 << 20  # bytes of text
EXCERPT = 60  # characters by which a record is found
UNTOUCHED = ("tags", "spans", "choices")  # kinds whose texts no rule of data.clean may change
BYTEWISE = (".txt", ".jsonl", ".csv", ".tsv")  # whose pieces are counted in bytes; of others one is taken for a part


@dataclass(frozen=True)
class Plan:
    """All that a process needs to make any part: picklable. folder is filled; notes is for what is known on the way."""

    folder: Path
    notes: Path
    source: sources.Source
    parts: list[list[Piece]]
    bounds: tuple[float, float]  # of the fractions that are for validation (split.bounds)
    limit: int | None
    clean: cleaning.Settings
    form: examples.Form = examples.Form()
    given: int | None = None  # the first part of the source that is for validation, where there is one

    @property
    def numbers(self) -> range:
        """Of the parts."""
        return range(len(self.parts))

    def split(self, number: int) -> Split | Given:
        """Which split the records of a part are in."""
        return Split(*self.bounds) if self.given is None else Given("valid" if number >= self.given else "train")


def make(folder: Path, notes: Path, source: sources.Source, data: Any) -> Plan:
    """The plan for config.data. With a limit there is one part, for where it cuts is known by reading in order."""
    parts, room, form, clean, given = [], 0, examples.form(data), cleaning.settings(data), None
    if clean.contamination is not None and not form.texts:
        raise UserError(f"data.clean.contamination looks for n-grams of words, and data.kind={form.kind} has no text")
    if form.kind in UNTOUCHED and (rules := cleaning.key(clean).keys() - {"bad"}):
        raise UserError(
            f"data.clean.{min(rules)} would part texts from what is said of them: of data.kind={form.kind} only data.clean.bad "
            "may be set"
        )
    for piece in source.pieces():
        if given is None and piece.file.startswith(sources.VALID):
            given, room = len(parts), 0
        bytewise = piece.stop >= 0 and Path(piece.file).suffix.lower() in BYTEWISE and " + " not in piece.file
        size = piece.stop - piece.start if bytewise else PART
        if len(parts) == (given or 0) or (room < size and data.limit is None):
            parts.append([])
            room = PART
        parts[-1].append(piece)
        room -= size
    return Plan(folder, notes, source, parts or [[]], bounds(data), data.limit, clean, form, given)


def read(plan: Plan, number: int, tally: Counter, report: cleaning.Report | None = None) -> Iterator[Record]:
    """The records of a part, cleaned, without empty ones, until one would take the text over the limit.

    tally counts while one reads: documents, bytes (of UTF-8), empty, limited (whether the limit cut); report what the
    rules do. UserError at the first record that cannot be read, unless data.clean.bad is drop.
    """
    records = _records(plan, number)
    if cleaning.key(plan.clean):
        marks = np.load(_path(plan, number, "marks")) if plan.clean.needs_all else None
        records = cleaning.apply(records, plan.clean, marks, report)
    yield from sources.counted(records, plan.limit, tally, plan.form.size)


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
        return self.probe.look(map(self.plan.form.words, of_split(self.plan, number, "train"))).seen


def contamination(plan: Plan, workers: int, say: Callable[[str], None]) -> dict | None:
    """How much of validation the training text holds; None when it is not asked. UserError above the limit."""
    if plan.clean.contamination is None:
        return None
    say("looking for validation documents in the training text")
    begins = []  # of the validation documents

    def valid() -> Iterator[str]:
        for number in plan.numbers:
            for words in map(plan.form.words, of_split(plan, number, "valid")):
                begins.append(words[:EXCERPT])
                yield words

    probe = cleaning.Probe(valid(), plan.clean.contamination)
    for seen in worker.each(Look(plan, probe), list(plan.numbers), workers):
        probe.merge(seen)
    found = probe.result(plan.clean.contamination_share)
    return cleaning.check(found, plan.clean, {i: f"document {i}, {begins[i]!r}" for i, _ in found.found})


def of_split(plan: Plan, number: int, name: str) -> Iterator[Record]:
    """A part's records of one split."""
    split, identity = plan.split(number), plan.form.identity
    return (record for record in read(plan, number, Counter()) if split.of(identity(record)) == name)


@dataclass(frozen=True)
class CountLabels:
    """Notes how often a part has each label in each split, and one text or number by which the first is found."""

    plan: Plan

    def __call__(self, number: int) -> None:
        split, form, counts, firsts = self.plan.split(number), self.plan.form, {"train": {}, "valid": {}}, {}
        for place, record in enumerate(read(self.plan, number, Counter()), start=1):
            name = split.of(form.identity(record))
            for label in form.labels(record):
                counts[name][label] = counts[name].get(label, 0) + 1
                if name == "valid":
                    firsts.setdefault(label, repr(form.words(record)[:EXCERPT]) if form.texts else f"record {place}")
        path = _path(self.plan, number, "labels", "json")
        beside = path.with_name(f".{os.getpid()}.{path.name}")
        beside.write_text(json.dumps({**counts, "firsts": firsts}))
        os.replace(beside, path)


def count_labels(plan: Plan, workers: worker.Workers, say: Callable[[str], None]) -> None:
    """Makes what `labels` reads, where records have labels. UserError for one that only validation has."""
    if not plan.form.labelled:
        return
    say("counting the labels")
    todo = [number for number in plan.numbers if _labels(plan, number) is None]
    for _ in worker.each(CountLabels(plan), todo, workers):
        pass
    parts = [_labels(plan, number) for number in plan.numbers]
    total = {name: sum((Counter(part[name]) for part in parts), Counter()) for name in ("train", "valid")}
    unseen = sorted(set(total["valid"]) - set(total["train"]), key=lambda label: (-total["valid"][label], label))
    if unseen and plan.clean.bad == "error":
        raise _unseen(plan, parts, unseen, total["valid"][unseen[0]])
    names = in_order(total["train"])
    found = {"labels": names, "unseen_labels": {label: total["valid"][label] for label in unseen}}
    found["label_counts"] = {name: [total[name][label] for label in names] for name in total}
    atomic.write(plan.notes / "labels.json", json.dumps(found))


def _unseen(plan: Plan, parts: list[dict], labels: list[str], count: int) -> UserError:
    number = next(number for number in plan.numbers if labels[0] in parts[number]["firsts"])
    files = " or ".join(dict.fromkeys(piece.file for piece in plan.parts[number]))
    more = f" ({len(labels) - 1} more such labels)" if len(labels) > 1 else ""
    return UserError(
        f"data.source={plan.source.name}: label {labels[0]!r} is never seen in training, and validation has it {count} "
        f"time{'s' * (count != 1)}, first at {parts[number]['firsts'][labels[0]]} of {files}{more}. Add records of it or change "
        "data.valid_fraction; --config.data.clean.bad=drop counts such records and goes on without them"
    )


def labels(plan: Plan) -> dict:
    """What `count_labels` found: labels, in the order of their numbers; unseen_labels and how many; label_counts."""
    return json.loads((plan.notes / "labels.json").read_text())


def in_order(labels: Iterable[str]) -> list[str]:
    """Sorted: as numbers when all are whole numbers."""
    numbers = all(re.fullmatch(r"-?\d{1,18}", label, re.ASCII) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label) if numbers else label)


def _records(plan: Plan, number: int) -> Iterator[Record | BadRecord]:
    for piece in plan.parts[number]:
        for record in plan.source.read(piece):
            if not isinstance(record, BadRecord) and (wrong := plan.form.misfit(record)):
                record = BadRecord(f"{piece.file}, {plan.form.words(record)[:EXCERPT]!r}", *wrong)
            if isinstance(record, BadRecord) and plan.clean.bad == "error":
                raise sources.refusal(plan.source, record)
            yield record


def _signatures(plan: Plan, number: int) -> np.ndarray | None:
    try:
        return np.load(_path(plan, number, "signatures"))
    except (OSError, ValueError, EOFError):
        return None


def _labels(plan: Plan, number: int) -> dict | None:
    try:
        return json.loads(_path(plan, number, "labels", "json").read_text())
    except (OSError, ValueError):
        return None


def _path(plan: Plan, number: int, what: str, suffix: str = "npy") -> Path:
    return plan.notes / f"{number:05d}.{what}.{suffix}"


def _save(path: Path, array: np.ndarray) -> None:
    """At once, so that what is there is whole."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    np.save(beside, array)
    os.replace(beside, path)
