"""Readers of the user's files: which records are in a folder, in pieces that can be read on their own, in any order.

    found = find(Path("letters"), "text")
    for piece in pieces(found):
        for record in read(found, piece): ...   # a dict (lmjax/data/records.py), or a BadRecord in its place

A record that cannot be read exactly is a `BadRecord`; what is wrong with a whole file is a UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lmjax.data.readers import folders, formats, pairs, prepared
from lmjax.data.readers.files import Found, changed
from lmjax.data.readers.find import find
from lmjax.data.readers.formats import FORMATS
from lmjax.data.readers.prepared import OPEN as PREPARED
from lmjax.data.readers.prepared import find as find_prepared
from lmjax.data.records import BadRecord, Piece, Record

__all__ = ["ARRANGEMENTS", "FORMATS", "Found", "PREPARED", "changed", "find", "find_prepared", "pieces", "read"]


class Arrangement(NamedTuple):
    """How records lie in files."""

    pieces: Callable[[Found], list[Piece]]
    read: Callable[[Found, Piece], Iterator[Record | BadRecord]]


ARRANGEMENTS = {
    "rows": Arrangement(formats.pieces, formats.read),
    "two files": Arrangement(pairs.pieces, pairs.read),
    "label folders": Arrangement(folders.pieces, folders.read),
    "listed": Arrangement(folders.pieces, folders.read),
    "beside": Arrangement(folders.pieces, folders.read),
    "tfds": Arrangement(prepared.pieces, prepared.read),
    "hf": Arrangement(prepared.pieces, prepared.read),
}


def pieces(found: Found) -> list[Piece]:
    """The parts of about 16 MiB that can be read on their own; one after the other they are all the records."""
    return ARRANGEMENTS[found.arrangement].pieces(found)


def read(found: Found, piece: Piece) -> Iterator[Record | BadRecord]:
    """The records of a piece, as a stream. UserError when its file is not what it was when it was found."""
    return ARRANGEMENTS[found.arrangement].read(found, piece)
