"""What cleaning did: counts by rule, a few samples of each, and a profile of what was kept. Reports merge by addition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmjax.data.cleaning import pii, scripts
from lmjax.data.cleaning.local import TEXTS
from lmjax.data.cleaning.together import content
from lmjax.data.records import BadRecord, Record

NAMED = 1000  # places of records that cannot be read: enough to find and mend them
SAMPLES = 20  # of each rule, and of what was kept: those with the smallest hash of their content
EXCERPT = 400  # characters
KEPT = "kept"
COUNTS = ("removed", "changed", "bad", "lengths", "scripts", "labels")
LABELS = 10_000  # different labels that are counted by name


class Report:
    """Counts and samples. `read` = `kept` + all of `removed` + all of `bad`.

    removed, changed: by rule; bad: unreadable records by reason; lengths: kept records by the power of two that their
    characters reach; scripts: letters of kept records; labels: kept records by label; samples: rule -> {hash: excerpt}.
    """

    def __init__(self, masked: bool = False):
        self.masked = masked  # whether excerpts are masked, as the text is
        self.read = self.kept = self.chars = 0
        self.removed, self.changed, self.bad = {}, {}, {}
        self.lengths, self.scripts, self.labels = {}, {}, {}
        self.samples: dict[str, dict[str, str]] = {}

    def keep(self, record: Record, changed: dict[str, int] | None = None) -> None:
        """Counts a record that stays."""
        self.read += 1
        self.kept += 1
        _add(self.changed, changed or {})
        texts = [record[name] for name in TEXTS if name in record]
        length = sum(map(len, texts))
        self.chars += length
        _add(self.lengths, {str(max(0, length.bit_length() - 1)): 1})
        for text in texts:
            _add(self.scripts, scripts.counts(text))
        if "label" in record and (str(record["label"]) in self.labels or len(self.labels) < LABELS):
            _add(self.labels, {str(record["label"]): 1})
        self._sample(KEPT, record)

    def remove(self, rule: str, record: Record) -> None:
        """Counts a record that a rule removed."""
        self.read += 1
        _add(self.removed, {rule: 1})
        self._sample(rule, record)

    def refuse(self, record: BadRecord) -> None:
        """Counts what could not be read, and names where."""
        self.read += 1
        _add(self.bad, {record.reason: 1})
        where = f"{record.where}: {record.reason}{f' ({record.detail})' if record.detail else ''}"
        self._put("bad", content({"text": where}).hex(), where)

    def add(self, other: Report | dict) -> Report:
        """This report with another's counts, or with those of its `as_json`; returns itself."""
        given = other if isinstance(other, dict) else other.as_json()
        for name in ("read", "kept", "chars"):
            setattr(self, name, getattr(self, name) + given[name])
        for name in COUNTS:
            _add(getattr(self, name), given[name])
        for rule, found in given["samples"].items():
            for digest, excerpt in found.items():
                self._put(rule, digest, excerpt)
        return self

    def as_json(self) -> dict[str, Any]:
        """Plain JSON in a fixed order: equal reports are equal bytes."""
        counts = {name: dict(sorted(getattr(self, name).items())) for name in COUNTS}
        samples = {rule: dict(sorted(found.items())) for rule, found in sorted(self.samples.items())}
        return {"read": self.read, "kept": self.kept, "chars": self.chars, **counts, "samples": samples}

    def _sample(self, rule: str, record: Record) -> None:
        digest = content(record).hex()
        found = self.samples.get(rule, {})
        if len(found) < SAMPLES or digest < max(found):
            self._put(rule, digest, _excerpt(record, self.masked))

    def _put(self, rule: str, digest: str, excerpt: str) -> None:
        found = self.samples.setdefault(rule, {})
        found[digest] = excerpt
        if len(found) > (NAMED if rule == "bad" else SAMPLES):
            del found[max(found)]


def merged(reports: Iterable[Report | dict]) -> Report:
    """The sum of reports."""
    total = Report()
    for report in reports:
        total.add(report)
    return total


def _excerpt(record: Record, masked: bool) -> str:
    shown = []
    for name, value in record.items():
        if name in TEXTS or name == "label":
            value = str(value or "")
            value = value if len(value) <= EXCERPT else f"{value[:EXCERPT]} ... ({len(value)} characters)"
            shown.append(pii.mask(value)[0] if masked else value)
    return " | ".join(shown)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
