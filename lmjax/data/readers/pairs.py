"""Two files side by side: line n of one is the translation of line n of the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmjax.data import text
from lmjax.data.readers import formats
from lmjax.data.readers.files import Found
from lmjax.data.readers.lines import SIZE
from lmjax.data.records import BadRecord, Piece, Record
from lmjax.errors import UserError


def pieces(found: Found) -> list[Piece]:
    """Pieces of both files; start and stop are line numbers. UserError when the counts of lines differ."""
    first, second = found.chosen
    name = " + ".join(found.chosen)
    made, start, number, size = [], 0, 0, 0
    with text.opened(found.unchanged(first)) as stream:
        for number, line in enumerate(stream, start=1):
            size += len(line)
            if size >= SIZE:
                made.append(Piece(name, start, number))
                start, size = number, 0
    other = _lines(found.unchanged(second))
    if number != other:
        raise UserError(
            f"{found.files[first]} has {number:,} lines, {found.files[second]} {other:,}: line n of one must be the "
            "translation of line n of the other. Find where they part and repair them; nothing is paired by guess."
        )
    return made + ([Piece(name, start, number)] if number > start else [])


def read(found: Found, piece: Piece) -> Iterator[Record | BadRecord]:
    """The pairs of a piece, each line without its end."""
    first, second = (found.unchanged(name) for name in found.chosen)
    with text.opened(first) as left, text.opened(second) as right:
        offsets = [text.skip_lines(stream, piece.start) for stream in (left, right)]
        for number in range(piece.start + 1, piece.stop + 1):
            raw = left.readline(), right.readline()
            places = [f"{name}:{number}" for name in found.chosen]
            sides = [text.decoded(*one) for one in zip(raw, places, offsets, strict=True)]
            offsets = [offset + len(one) for offset, one in zip(offsets, raw, strict=True)]
            bad = next((side for side in sides if isinstance(side, BadRecord)), None)
            yield bad or formats.record(found, places[0], tuple(side.rstrip("\r\n") for side in sides))
    for name in found.chosen:
        found.unchanged(name)


def _lines(path: Path) -> int:
    """As reading line by line counts them: a last line need not end."""
    size = path.stat().st_size
    ends = text.newlines(path, size)
    with text.opened(path) as stream:
        stream.seek(max(0, size - 1))
        return ends + (stream.read(1) not in (b"", b"\n"))
