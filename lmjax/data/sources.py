"""Where text comes from: corpora inside installed packages, pinned by version and sha256, or the user's own files.

A source is hashed before it is read, and the hash is part of everything that is made from it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmjax.data import text
from lmjax.data.corpora import CORPORA, packaged
from lmjax.errors import UserError, unknown
from lmjax.parts import pick


@dataclass(frozen=True)
class Source:
    """Text that is there and hashed, not yet read. `read()` yields the documents in their order, as often as asked."""

    name: str
    fingerprint: str  # sha256 over the names and bytes of the files
    about: dict  # what a manifest says of it: files, licence, citation, files left out
    read: Callable[[], Iterator[str]]


def open_source(source: str) -> Source:
    """The corpus of that name, the .txt/.jsonl file or folder at that path, or the texts of "module:function".

    UserError says what is missing.
    """
    if source in CORPORA:
        return Source(source, *packaged(source))
    path = Path(source).expanduser()
    if not path.exists():
        if ":" in source and os.sep not in source:
            return _function(source)
        if os.sep in source or path.suffix:
            raise UserError(f"data.source={source}: no such file or folder (looked for {path.absolute()})")
        raise unknown("data.source", source, CORPORA, hint="Or the path of a folder of .txt and .jsonl files.")
    found, others = text.find(path)
    files = {name: (file, text.sha256(file)) for name, file in found.items()}
    digest = text.listing_sha256({name: digest for name, (_, digest) in files.items()})
    about = {"kind": "files", "files": len(files), "other_files": others}
    return Source(source, digest, about, functools.partial(text.read, files))


def documents(source: Source, *, limit: int | None = None, tally: dict | None = None) -> Iterator[str]:
    """The source's documents, without empty ones, until one would take the text over limit bytes.

    tally, when given, is filled while one reads: documents, bytes (of UTF-8), empty, limited (whether the limit cut).
    """
    tally = {} if tally is None else tally
    tally.update(documents=0, bytes=0, empty=0, limited=False)
    for document in source.read():
        size = len(document) if document.isascii() else len(document.encode())
        if limit is not None and tally["bytes"] + size > limit:
            tally["limited"] = True
            return
        if not document:
            tally["empty"] += 1
            continue
        tally["documents"] += 1
        tally["bytes"] += size
        yield document


def _function(name: str) -> Source:
    """The texts that a function of the user's yields; the fingerprint is of the texts, so they are made twice."""
    yields = pick("data.source", name, {})
    digest = hashlib.sha256()
    for document in yields():
        if not isinstance(document, str):
            raise UserError(f"data.source={name} yields {type(document).__name__}; a document is a string")
        digest.update(f"{len(document)}:".encode() + document.encode())
    return Source(name, digest.hexdigest(), {"kind": "function"}, lambda: iter(yields()))
