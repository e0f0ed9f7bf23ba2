"""Records through the rules: one pass where every rule is local, else a pass of signatures, a decision and a pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lmjax.data.cleaning.local import clean_record
from lmjax.data.cleaning.report import Report
from lmjax.data.cleaning.settings import Settings
from lmjax.data.cleaning.together import TOGETHER, decide, dtype, signature
from lmjax.data.records import BadRecord, Record
from lmjax.errors import UserError

LOG = logging.getLogger(__name__)


def clean(
    read: Callable[[], Iterable[Record | BadRecord]], chosen: Settings, report: Report | None = None
) -> Iterator[Record]:
    """The records that stay, cleaned, in their order; `read()` gives all of them as often as asked (at most twice).

    Counts go into report. UserError at the first record that cannot be read, unless data.clean.bad is drop.
    """
    marks = decide([scan(read(), chosen)], chosen)[0] if chosen.needs_all else None
    yield from apply(read(), chosen, marks, report)


def scan(records: Iterable[Record | BadRecord], chosen: Settings) -> np.ndarray:
    """A piece's signatures, of the records that the local rules keep: what `decide` asks of each piece."""
    found = []
    for record in records:
        if isinstance(record, BadRecord):
            _refuse(record, chosen)
        elif (kept := clean_record(record, chosen).record) is not None:
            found.append(signature(kept, chosen))
    return np.array(found, dtype(chosen))


def apply(
    records: Iterable[Record | BadRecord], chosen: Settings, marks: np.ndarray | None, report: Report | None = None
) -> Iterator[Record]:
    """A piece's records that stay. marks: the piece's array from `decide`, or None when no rule needs all records."""
    report = Report() if report is None else report
    report.masked = chosen.pii
    place = 0
    for record in records:
        if isinstance(record, BadRecord):
            _refuse(record, chosen)
            report.refuse(record)
            continue
        cleaned = clean_record(record, chosen)
        if cleaned.record is None:
            report.remove(cleaned.removed_by, record)
            continue
        if marks is not None:
            if place == len(marks):
                raise _changed()
            mark, place = int(marks[place]), place + 1
            if mark:
                report.remove(TOGETHER[mark - 1], cleaned.record)
                continue
        report.keep(cleaned.record, cleaned.changed)
        yield cleaned.record
    if marks is not None and place != len(marks):
        raise _changed()


def _refuse(record: BadRecord, chosen: Settings) -> None:
    said = f"{record.where}: {record.reason}{f' ({record.detail})' if record.detail else ''}"
    if chosen.bad == "error":
        raise UserError(f"{said}. Mend it, or leave such records out, counted, with data.clean.bad=drop")
    LOG.debug("left out: %s", said)


def _changed() -> UserError:
    return UserError("the source gave other records the second time it was read; start again when nothing writes to it")
