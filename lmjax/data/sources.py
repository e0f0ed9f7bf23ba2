"""Where records come from: corpora inside installed packages, the user's own files, or a function of the user's.

A source is hashed before it is read, and the hash is part of everything that is made from it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmjax.data import readers, shapes, text
from lmjax.data.corpora import CORPORA, packaged
from lmjax.data.readers import media
from lmjax.data.records import KINDS, BadRecord, Piece, Record
from lmjax.errors import UserError, unknown
from lmjax.parts import pick

WHOLE = Piece("all", 0, -1)  # of what is not in files
VALID = "for validation: "  # begins the names of the pieces of data.valid_source


@dataclass(frozen=True)
class Source:
    """Records that are there and hashed, not yet read: as often as asked and, when files hold them, in any process."""

    name: str
    fingerprint: str  # sha256 over the names and bytes of the files, and how they are read
    about: dict  # what a manifest says of it: files, licence, citation, files left out
    pieces: Callable[[], list[Piece]]  # the parts, in order, that can be read on their own
    read: Callable[[Piece], Iterator[Record | BadRecord]]
    kind: str = "text"
    size: int | None = None  # bytes of its files, where they are the user's and hold text


def open_source(source: str, kind: str = "text", columns: Sequence[str] | None = None) -> Source:
    """The corpus of that name, the file or folder at that path, a prepared dataset ("tfds:...", "hf:...": readers/
    prepared.py), or the texts or records of "module:function".

    kind and columns: data.kind and data.columns (lmjax/data/records.py). UserError says what is missing.
    """
    if source.partition(":")[0] in CORPORA:
        holds = CORPORA[source.partition(":")[0]].kind
        if kind != holds and (kind, holds) != ("text", "labels"):
            raise UserError(
                f"data.source={source} holds records of kind {holds}, and {kind} is asked for: say --config.data.kind={holds}"
            )
        fingerprint, about, read = packaged(source, kind)
        read = (
            functools.partial(_shaped, read, source, kind) if kind in shapes.CHECKS else functools.partial(_all, read)
        )
        return Source(source, fingerprint, about, _whole, read, kind)
    if source.partition(":")[0] in readers.PREPARED:
        return _files(source, readers.find_prepared(source, kind, columns))
    path = Path(source).expanduser()
    if not path.exists():
        if ":" in source and os.sep not in source:
            return _function(source, kind)
        if os.sep in source or path.suffix:
            raise UserError(f"data.source={source}: no such file or folder (looked for {path.absolute()})")
        raise unknown("data.source", source, CORPORA, hint="Or the path of a folder of text files or tables.")
    return _files(source, readers.find(path, kind, columns))


def of_data(data: Any, kind: str) -> Source:
    """The source of config.data, with that of data.valid_source behind it."""
    columns, name = getattr(data, "columns", None), getattr(data, "valid_source", None)
    source = open_source(data.source, kind, columns)
    return source if name is None else _with_validation(source, open_source(name, kind, columns))


def _with_validation(source: Source, valid: Source) -> Source:
    """Both, with names of pieces that tell which are for validation."""
    if valid.fingerprint == source.fingerprint:
        raise UserError(
            f"data.valid_source={valid.name} is what data.source={source.name} is: a model would have seen it"
        )
    return Source(
        source.name,
        hashlib.sha256(json.dumps([source.fingerprint, "valid", valid.fingerprint]).encode()).hexdigest(),
        {**source.about, "valid": {"name": valid.name, **valid.about}},
        functools.partial(_both_pieces, source, valid),
        functools.partial(_both_read, source, valid),
        source.kind,
        source.size,
    )


def _both_pieces(source: Source, valid: Source) -> list[Piece]:
    return [*source.pieces(), *(piece._replace(file=f"{VALID}{piece.file}") for piece in valid.pieces())]


def _both_read(source: Source, valid: Source, piece: Piece) -> Iterator[Record | BadRecord]:
    if piece.file.startswith(VALID):
        return valid.read(piece._replace(file=piece.file.removeprefix(VALID)))
    return source.read(piece)


def refusal(source: Source, bad: BadRecord) -> UserError:
    """What to raise for a record that cannot be read, where none may be left out."""
    return UserError(
        f"data.source={source.name}: {bad.where}: {bad.detail or bad.reason}\n"
        "(--config.data.clean.bad=drop counts what cannot be read and goes on without it)"
    )


def texts(source: Source) -> Iterator[str]:
    """The documents of a text source, in their order. UserError at the first that cannot be read."""
    for piece in source.pieces():
        for record in source.read(piece):
            if isinstance(record, BadRecord):
                raise refusal(source, record)
            yield record["text"]


def documents(source: Source, *, limit: int | None = None, tally: dict | None = None) -> Iterator[str]:
    """The source's documents, without empty ones, until one would take the text over limit bytes.

    tally, when given, is filled while one reads: documents, bytes (of UTF-8), empty, limited (whether the limit cut).
    """
    tally = {} if tally is None else tally
    tally.update(documents=0, bytes=0, empty=0, limited=0)
    return counted(texts(source), limit, tally)


def utf8(document: str) -> int:
    """Bytes of a document in UTF-8."""
    return len(document) if document.isascii() else len(document.encode())


def counted(documents: Iterable[Any], limit: int | None, tally: dict, measure: Callable[[Any], int] = utf8) -> Iterator:
    """Those that are not empty, until one would take the text over limit bytes; tally counts as `documents` says.

    measure: the bytes of one, 0 when it is empty.
    """
    for document in documents:
        size = measure(document)
        if limit is not None and tally["bytes"] + size > limit:
            tally["limited"] = 1
            return
        if not size:
            tally["empty"] += 1
            continue
        tally["documents"] += 1
        tally["bytes"] += size
        yield document


def _files(name: str, found: readers.Found) -> Source:
    digests = {file: text.sha256(path) for file, path in found.files.items()}
    digest = text.listing_sha256(digests)
    how = (found.kind, found.fields, found.arrangement)
    if how != ("text", {"text": "text"}, "rows"):  # the same files, read otherwise
        digest = hashlib.sha256(repr((digest, *how, found.chosen)).encode()).hexdigest()
    about = {"kind": "files", "files": len(found.files), "other_files": found.others}
    pieces, read = functools.partial(readers.pieces, found), functools.partial(_read, found, digests)
    size = None if "image" in KINDS[found.kind] else sum(size for size, _ in found.stamps.values())
    return Source(name, digest, about, pieces, read, found.kind, size)


def _read(found: readers.Found, digests: dict[str, str], piece: Piece) -> Iterator[Record | BadRecord]:
    """The records of a piece; behind the first of a file it is hashed again, for a change within the resolution of the
    file system's clock shows in nothing else.
    """
    yield from readers.read(found, piece)
    if piece.start == 0 and piece.file in digests and text.sha256(found.files[piece.file]) != digests[piece.file]:
        raise readers.changed(found.files[piece.file])


def _function(name: str, kind: str) -> Source:
    """The texts or records that a function of the user's yields; the fingerprint is of them, so they are made twice."""
    yields = pick("data.source", name, {})
    digest = hashlib.sha256()
    for made in yields():
        if kind == "text" and not isinstance(made, str):
            raise UserError(f"data.source={name} yields {type(made).__name__}; a document is a string")
        for value in [made] if kind == "text" else _values(name, kind, made):
            raw = value if isinstance(value, bytes) else value.encode()
            digest.update(f"{len(value)}:".encode() + raw)
    read = functools.partial(_checked, yields, name) if "image" in KINDS[kind] else functools.partial(_all, yields)
    read = functools.partial(_shaped, yields, name, kind) if kind in shapes.CHECKS else read
    return Source(name, digest.hexdigest(), {"kind": "function"}, _whole, read, kind)


def _values(name: str, kind: str, record: Any) -> list[str | bytes]:
    """The fields of a record in their order. UserError when it is none of its kind."""
    if kind in shapes.CHECKS:
        return list(_record(name, kind, record).values())
    types = {field: bytes if field == "image" else str for field in KINDS[kind]}
    if not isinstance(record, dict) or {field: type(value) for field, value in record.items()} != types:
        needed = ", ".join(f"{field} ({wanted.__name__})" for field, wanted in types.items())
        raise UserError(f"data.source={name} yields {record!r:.80}; a record of data.kind={kind} is a dict of {needed}")
    return [record[field] for field in types]


def _shaped(yields: Callable[[], Iterator[Any]], name: str, kind: str, piece: Piece) -> Iterator[Record]:
    """Records of lists and numbers, as they are kept."""
    return (_record(name, kind, made) for made in yields())


def _record(name: str, kind: str, made: Any) -> Record:
    found = shapes.record(kind, made)
    if isinstance(found, tuple):
        raise UserError(f"data.source={name} yields what is no record of data.kind={kind}: {found[1]}")
    return found


def _checked(yields: Callable[[], Iterator[Record]], name: str, piece: Piece) -> Iterator[Record | BadRecord]:
    """Records with images that can be decoded."""
    for number, record in enumerate(_all(yields, piece)):
        image = media.image(record["image"], f"record {number} of {name}")
        yield image if isinstance(image, BadRecord) else record


def _whole() -> list[Piece]:
    return [WHOLE]


def _all(read: Callable[[], Iterator[str | Record]], piece: Piece) -> Iterator[Record]:
    return ({"text": record} if isinstance(record, str) else record for record in read())
