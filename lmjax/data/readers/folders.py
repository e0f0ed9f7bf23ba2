"""Folders whose files are records: a folder a label, a list of files with captions or transcripts, or NAME.txt beside
NAME.png or NAME.wav.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lmjax.data import shapes, text
from lmjax.data.readers import formats, media
from lmjax.data.readers.files import Found, runs
from lmjax.data.readers.lines import SIZE
from lmjax.data.records import BadRecord, Piece, Record


class Entry(NamedTuple):
    """A file that is a record's first field, and its second: a label or a text; more: a label beside a text."""

    where: str
    file: str
    value: str
    more: tuple[str, ...] = ()


def label_folders(found: Found) -> Iterator[Entry | BadRecord]:
    """Files below the root's folders, each of which is a label."""
    for name in found.chosen:
        label, slash, _ = name.partition("/")
        yield Entry(name, name, label) if slash else BadRecord(name, "no label", "this file is in no label's folder")


def listed(found: Found) -> Iterator[Entry | BadRecord]:
    """The rows of a table that names files."""
    table = found.chosen[0]
    path, names = found.unchanged(table), tuple(found.fields.values())
    for piece in formats.of(path).pieces(path, table):
        for row in formats.of(path).rows(path, piece, names):
            if isinstance(row, BadRecord):
                yield row
            else:
                where, (name, *values) = row
                fields = zip(found.fields, (name, *values), strict=True)
                name, *values = (shapes.kept(field, value) for field, value in fields)
                wrong = (text.not_text(*one) for one in zip((name, *values), map(repr, names), strict=True))
                if wrong := next(filter(None, wrong), None):
                    yield BadRecord(where, *wrong)
                elif name.removeprefix("./") not in found.files:
                    yield BadRecord(where, "missing file", f"{name!r} is no file below {found.root} that can be read")
                else:
                    yield Entry(where, name.removeprefix("./"), values[0], tuple(values[1:]))


def beside(found: Found) -> Iterator[Entry | BadRecord]:
    """NAME.txt beside NAME.png: all of it is the text."""
    for name in found.chosen:
        words = f"{name.rpartition('.')[0]}.txt"
        if words not in found.files:
            yield BadRecord(name, "no text beside it", f"there is no {words} that says what this file shows or says")
            continue
        value = text.decoded(found.unchanged(words).read_bytes(), words, 0)
        yield value if isinstance(value, BadRecord) else Entry(name, name, value.strip())


ENTRIES: dict[str, Callable[[Found], Iterator[Entry | BadRecord]]] = {
    "label folders": label_folders,
    "listed": listed,
    "beside": beside,
}


def pieces(found: Found) -> list[Piece]:
    """Consecutive entries; start and stop are their numbers."""
    sizes = (found.stamps[one.file][0] if isinstance(one, Entry) else 0 for one in ENTRIES[found.arrangement](found))
    return [Piece(found.arrangement, start, stop) for start, stop in runs(sizes, SIZE)]


def read(found: Found, piece: Piece) -> Iterator[Record | BadRecord]:
    """The records of a piece. UserError when a file is not what it was when it was found."""
    for entry in itertools.islice(ENTRIES[found.arrangement](found), piece.start, piece.stop):
        yield entry if isinstance(entry, BadRecord) else _record(found, entry)


def _record(found: Found, entry: Entry) -> Record | BadRecord:
    path = found.unchanged(entry.file)
    first, second, *more = found.fields
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise text.refusal(error) from None
    found.unchanged(entry.file)
    for field, value in zip((second, *more), (entry.value, *entry.more), strict=True):
        if not value.strip():
            return BadRecord(entry.where, "empty field", f"the {field} of {entry.file} is empty")
    read = {"text": lambda: text.decoded(raw, entry.file, 0), "image": lambda: media.image(raw, entry.file)}
    if first == "audio":
        sound = media.sound(raw, entry.file)
        return sound if isinstance(sound, BadRecord) else {"audio": sound[0], "rate": sound[1], second: entry.value}
    value = read[first]()
    if isinstance(value, BadRecord):
        return value
    if not value:
        return BadRecord(entry.where, "empty field", f"{entry.file} is empty")
    return {first: value, second: entry.value, **dict(zip(more, entry.more, strict=True))}
