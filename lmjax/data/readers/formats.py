"""Files that hold many records: what reads each suffix, and records out of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lmjax.data import shapes
from lmjax.data.readers import lines, tables
from lmjax.data.readers.files import Found
from lmjax.data.records import BadRecord, Piece, Record


class Format(NamedTuple):
    """How the files of a suffix are read: cut into pieces, and a piece into (where, values of the wanted columns)."""

    kinds: tuple[str, ...]  # of records that such a file can hold by itself
    pieces: Callable[[Path, str], list[Piece]]
    rows: Callable[[Path, Piece, tuple[str, ...]], Iterator[tuple[str, tuple] | BadRecord]]
    header: Callable[[Path], list[str]] | None = None  # the names of the columns, where all rows have the same


TABULAR = ("text", "pairs", "labels", "tags", "numbers", "spans", "choices")
FORMATS = {
    ".txt": Format(("text",), lines.txt_pieces, lines.txt_rows),
    ".jsonl": Format(TABULAR, lines.jsonl_pieces, lines.jsonl_rows),
    ".csv": Format(TABULAR, tables.csv_pieces, tables.csv_rows, tables.csv_header),
    ".tsv": Format(TABULAR, tables.csv_pieces, tables.csv_rows, tables.csv_header),
    ".parquet": Format(TABULAR, tables.parquet_pieces, tables.parquet_rows, tables.parquet_header),
}


def of(path: Path) -> Format:
    """What reads this file."""
    return FORMATS[path.suffix.lower()]


def check(path: Path, wanted: tuple[str, ...]) -> None:
    """UserError when the file's header lacks a wanted column."""
    if header := of(path).header:
        tables.places(header(path), wanted, path)


def pieces(found: Found) -> list[Piece]:
    """Of all the files, in their order."""
    return [piece for name in found.chosen for piece in of(found.files[name]).pieces(found.unchanged(name), name)]


def read(found: Found, piece: Piece) -> Iterator[Record | BadRecord]:
    """The records of a piece. UserError when the file is not what it was when it was found."""
    path, wanted = found.unchanged(piece.file), tuple(found.fields.values())
    for row in of(path).rows(path, piece, wanted):
        yield row if isinstance(row, BadRecord) else record(found, *row)
    found.unchanged(piece.file)


def record(found: Found, where: str, values: tuple) -> Record | BadRecord:
    """A record of texts and labels (whole numbers may be labels), or why it is none."""
    made = {}
    for (field, name), value in zip(found.fields.items(), values, strict=True):
        value = shapes.kept(field, value)
        if wrong := shapes.wrong(field, value, repr(name), found.kind):
            return BadRecord(where, *wrong)
        made[field] = value
    wrong = shapes.misfit(found.kind, made)
    return BadRecord(where, *wrong) if wrong else made
