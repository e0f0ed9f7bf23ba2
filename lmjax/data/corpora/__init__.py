"""Corpora inside installed packages, pinned by version and sha256: where their files lie, and what is in them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmjax.data import text
from lmjax.data.corpora.catalogue import CORPORA
from lmjax.data.corpora.places import Corpus, Package, place, state
from lmjax.errors import UserError, unknown

__all__ = ["CORPORA", "Corpus", "Package", "files", "listing", "packaged", "records"]

Read = Callable[[], Iterator[Any]]


def packaged(source: str, kind: str = "text") -> tuple[str, dict, Read]:
    """Corpus "NAME" or "NAME:SPLIT": its fingerprint, what a manifest says of it, and its documents or records.

    The first split is what NAME alone means. kind text also reads the texts of a labelled corpus. UserError when the
    corpus is not here as pinned, and when it has no such split or kind.
    """
    name, _, split = source.partition(":")
    corpus = CORPORA[name]
    if split and split not in corpus.splits:
        raise unknown(f"split of corpus {name!r}", split, corpus.splits)
    if kind not in (corpus.kind, "text") or (kind == "text" and corpus.kind not in ("text", "labels")):
        raise UserError(f"data.source={name} holds records of kind {corpus.kind}, and {kind} is asked for")
    split = split or next(iter(corpus.splits), "")
    found = [_verified(name, package) for package in corpus.packages]
    tools = {tool: _version(name, tool) for tool in corpus.tools}
    fingerprint = found[0][0]
    if len(found) > 1 or split or tools:
        parts = json.dumps([[digest for digest, _ in found], split, tools], sort_keys=True)
        fingerprint = hashlib.sha256(parts.encode()).hexdigest()
    files = [file for _, files in found for file in files]
    about = {"kind": "package", "files": len(files)}
    about |= {key: getattr(corpus, key) for key in ("package", "version", "licence", "citation")}
    about |= ({"split": split} if split else {}) | ({"tools": tools} if tools else {})
    read = functools.partial(corpus.read, files, *([split] if split else []))
    return fingerprint, about, functools.partial(_texts, read) if kind != corpus.kind else read


def records(source: str) -> Iterator[dict]:
    """The records of corpus "NAME" or "NAME:SPLIT", with the fields of its kind (records.py)."""
    corpus = CORPORA[source.partition(":")[0]]
    _, _, read = packaged(source, corpus.kind)
    for record in read():
        yield {"text": record} if corpus.kind == "text" else record


def files(name: str) -> list[Path]:
    """The files of a corpus, compared with what was pinned. UserError says how to get them when they are not here."""
    return [file for package in CORPORA[name].packages for file in _verified(name, package)[1]]


def listing() -> list[dict]:
    """A row for each corpus: name, kind, records by split, megabytes to download, licence, citation, and where it is."""
    rows = []
    for name, corpus in CORPORA.items():
        states = {state(package) for package in corpus.packages}
        where = next(one for one in ("missing", "fetched", "installed") if one in states)
        row = {"name": name, "kind": corpus.kind, "records": corpus.size, "megabytes": corpus.megabytes}
        rows.append(row | {"licence": corpus.licence, "citation": corpus.citation, "state": where})
    return rows


def _verified(name: str, package: Package) -> tuple[str, list[Path]]:
    """The sha256 of a package's files, as pinned, and the files."""
    root = place(name, package)
    files = {path.relative_to(root).as_posix(): path for path in root.glob(package.files) if path.is_file()}
    if not files:
        raise UserError(f"{package.package} is there, {root / package.files} is not: {package.install(again=True)}")
    digests = {path: text.sha256(files[path]) for path in sorted(files)}
    found = next(iter(digests.values())) if len(digests) == 1 else text.listing_sha256(digests)
    if found != package.sha256:
        raise UserError(
            f"the data of corpus {name!r} in {root} is not that of {package.package} {package.version} (sha256 "
            f"{found}, pinned {package.sha256}). Install it again: {package.install(again=True)}"
        )
    return found, [files[path] for path in digests]


def _version(name: str, tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"corpus {name!r} is drawn by {tool}, which is not installed: pip install {tool}") from None


def _texts(read: Read) -> Iterator[str]:
    return (record["text"] for record in read())
