"""Rows out of tables: .csv and .tsv (a header, quoted fields may hold line ends), and .parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmjax.data import text
from lmjax.data.readers.lines import SIZE
from lmjax.data.records import BadRecord, Piece
from lmjax.errors import UserError, nearest

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LARGEST = 1 << 30  # bytes of a field
ROWS = 1024  # of a parquet file in memory at once


def csv_pieces(path: Path, name: str) -> list[Piece]:
    """Pieces of whole rows, without the header. A quoted line end is none, so a long file is read through to cut it."""
    size, start = path.stat().st_size, 0
    pieces, rows = [], _rows(path)
    for end, _, _ in rows:
        if start == 0:
            start = end  # behind the header
            if size - start <= SIZE:
                break
        elif end - start >= SIZE:
            pieces.append(Piece(name, start, end))
            start = end
    return pieces + ([Piece(name, start, size)] if size > start else [])


def csv_rows(path: Path, piece: Piece, wanted: Sequence[str]) -> Iterator[tuple[str, tuple] | BadRecord]:
    """Where each row of a piece begins, and its values in the wanted columns. UserError without such columns."""
    header = csv_header(path)
    at = places(header, wanted, path)
    before = None
    for _, row, line in _rows(path, piece.start, piece.stop):
        if before is None:
            before = text.newlines(path, piece.start)
        where = f"{piece.file}:{before + line}"
        if isinstance(row, csv.Error):
            yield BadRecord(where, "broken row", f"this row cannot be read: {row}")
        elif len(row) != len(header) and row:
            detail = f"this row has {len(row)} fields, the header {len(header)} ({', '.join(header)})"
            yield BadRecord(where, "wrong number of columns", detail)
        elif row:  # a blank line is no row
            values = [text.decoded(row[place].encode("latin-1"), where, None) for place in at]
            yield next((value for value in values if isinstance(value, BadRecord)), None) or (where, tuple(values))


def csv_header(path: Path) -> list[str]:
    """The names of the columns. UserError when the file is empty or its first line is no header at all."""
    for _, row, _ in _rows(path):
        if isinstance(row, csv.Error):
            raise UserError(f"{path}: the first line cannot be read as names of columns: {row}")
        names = [text.decoded(name.encode("latin-1"), path.name, 0) for name in row]
        bad = next((name for name in names if isinstance(name, BadRecord)), None)
        if bad:
            raise UserError(f"{bad.where}: {bad.detail}")
        return [name.strip() for name in names]
    return []


def _rows(path: Path, start: int = 0, stop: int = -1) -> Iterator[tuple[int, list[str] | csv.Error, int]]:
    """(where it ends in the file, its fields, the line it begins at, from 1) of each row in bytes start to stop.

    As Latin-1, which keeps every byte and every comma, quote and line end: what is UTF-8 is for whoever takes a field.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST))  # the process's; 128 KiB unless raised
    end, line, lines = start, 1, 0
    with text.opened(path) as stream:
        stream.seek(start)

        def decoded() -> Iterator[str]:
            nonlocal end, lines
            while (stop < 0 or end < stop) and (raw := stream.readline()):
                bom = text.BOM if end == 0 and raw.startswith(text.BOM) else b""
                end, lines = end + len(raw), lines + 1
                yield raw[len(bom) :].decode("latin-1")

        reader = csv.reader(decoded(), delimiter=DELIMITERS[path.suffix.lower()], strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = error
            yield end, row, line
            line = lines + 1


def places(header: list[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Where the wanted columns are. UserError without one of them."""
    for name in wanted:
        if header.count(name) != 1:
            raise _no_column(path, header, name, wanted)
    return [header.index(name) for name in wanted]


def _no_column(path: Path, header: Sequence[str], name: str, wanted: Sequence[str]) -> UserError:
    """What to say of a table that lacks a column, or names it twice."""
    twice = list(header).count(name) > 1
    close = nearest(name, header)
    shown = ", ".join(map(repr, header[:20])) + (", ..." if len(header) > 20 else "")
    guess = f" Did you mean {close!r}?" if close and not twice else ""
    return UserError(
        f"{path}: {'two columns are' if twice else 'no column is'} named {name!r}; its first line names "
        f"{shown or 'none'}.{guess} The first line must name the columns, and data.columns says which are "
        f"{', '.join(wanted)}: --config.data.columns={','.join(['COLUMN'] * len(wanted))}"
    )


def parquet_pieces(path: Path, name: str) -> list[Piece]:
    """Pieces of whole row groups; start and stop are their numbers."""
    with _parquet(path) as file:
        pieces, start, size = [], 0, 0
        for group in range(file.metadata.num_row_groups):
            size += file.metadata.row_group(group).total_byte_size
            if size >= SIZE:
                pieces.append(Piece(name, start, group + 1))
                start, size = group + 1, 0
        last = file.metadata.num_row_groups
        return pieces + ([Piece(name, start, last)] if last > start else [])


def parquet_rows(path: Path, piece: Piece, wanted: Sequence[str]) -> Iterator[tuple[str, tuple]]:
    """Where each row of a piece is (from 1), and its values in the wanted columns; no other column is read."""
    import pyarrow

    with _parquet(path) as file:
        places(file.schema_arrow.names, wanted, path)
        number = sum(file.metadata.row_group(group).num_rows for group in range(piece.start))
        groups = list(range(piece.start, piece.stop))
        try:
            for batch in file.iter_batches(ROWS, row_groups=groups, columns=list(wanted), use_threads=False):
                for values in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                    number += 1
                    yield f"{piece.file} row {number}", values
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: this parquet file is damaged after row {number}: {error}") from None


def parquet_header(path: Path) -> list[str]:
    """The names of the columns."""
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading .parquet needs pyarrow: pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: this is no parquet file that can be read: {error}") from None
