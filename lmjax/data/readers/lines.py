"""Rows out of plain text: the documents of a .txt file, the lines of a .jsonl file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lmjax.data import text
from lmjax.data.records import BadRecord, Piece

SIZE = 16 << 20  # bytes of a file that make a piece


def txt_pieces(path: Path, name: str) -> list[Piece]:
    """Pieces that end where documents end, so that they hold the very documents of the file read in one go."""
    size = path.stat().st_size
    if size <= SIZE:
        return [Piece(name, 0, size)]
    pieces, start, end = [], 0, 0
    with text.opened(path) as stream:
        for _, document in text.cut_documents(stream):
            end += len(document)
            if end - start >= SIZE:
                pieces.append(Piece(name, start, end))
                start = end
    return pieces + ([Piece(name, start, end)] if end > start else [])


def txt_rows(path: Path, piece: Piece, wanted: Sequence[str]) -> Iterator[tuple[str, tuple] | BadRecord]:
    """Where each document of a piece begins, and its text; an empty file is one empty document."""
    with text.opened(path) as stream:
        stream.seek(piece.start)
        for offset, raw in text.cut_documents(stream, piece.stop - piece.start):
            document = text.decoded(raw, piece.file, piece.start + offset)
            yield document if isinstance(document, BadRecord) else (piece.file, (document,))
    if piece.stop == 0:
        yield piece.file, ("",)


def jsonl_pieces(path: Path, name: str) -> list[Piece]:
    """Pieces of whole lines."""
    size = path.stat().st_size
    pieces, start = [], 0
    with text.opened(path) as stream:
        while size - start > SIZE:
            stream.seek(start + SIZE - 1)
            stream.readline()
            pieces.append(Piece(name, start, stream.tell()))
            start = stream.tell()
    return pieces + ([Piece(name, start, size)] if size > start else [])


def jsonl_rows(path: Path, piece: Piece, wanted: Sequence[str]) -> Iterator[tuple[str, tuple] | BadRecord]:
    """Where each line of a piece is, and the values of the wanted keys of its object. Blank lines are none."""
    number, offset = None, piece.start
    with text.opened(path) as stream:
        stream.seek(piece.start)
        for count, line in enumerate(_lines(stream, piece), start=1):
            if line.strip():
                if number is None:
                    number = text.newlines(path, piece.start)
                yield _object(line, f"{piece.file}:{number + count}", offset, wanted)
            offset += len(line)


def _object(line: bytes, where: str, offset: int, wanted: Sequence[str]) -> tuple[str, tuple] | BadRecord:
    decoded = text.decoded(line, where, offset)
    if isinstance(decoded, BadRecord):
        return decoded
    try:
        entry = json.loads(decoded)
    except json.JSONDecodeError as error:
        return BadRecord(where, "not JSON", f"this line is not JSON ({error.msg} at column {error.colno})")
    except (RecursionError, ValueError):  # a number of more digits than Python converts is the latter
        return BadRecord(where, "not JSON", "this line's JSON is nested too deeply or too large to be read")
    if not isinstance(entry, dict) or not all(key in entry for key in wanted):
        keys = f"an object with the keys {', '.join(entry) or '(none)'}" if isinstance(entry, dict) else "not an object"
        like = ", ".join(f'"{key}": "..."' for key in wanted)
        detail = f"each line must be {{{like}}} with a string; this one is {keys} (data.columns says other keys)"
        return BadRecord(where, "missing field", detail)
    return where, tuple(entry[key] for key in wanted)


def _lines(stream: BinaryIO, piece: Piece) -> Iterator[bytes]:
    left = piece.stop - piece.start
    while left > 0 and (line := stream.readline()):
        left -= len(line)
        yield line
