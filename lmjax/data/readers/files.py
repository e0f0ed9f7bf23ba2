"""The files of a source: which there are, and how their records lie in them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from lmjax.data import text
from lmjax.errors import UserError

TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg")
SOUNDS = (".wav", ".flac", ".ogg")


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a source, and what reading them takes. It can be pickled, and read in any process."""

    root: Path  # or "tfds:...", "hf:..." where the files lie elsewhere
    kind: str
    fields: dict[str, str]  # of a record -> the user's name for it
    arrangement: str  # a key of readers.ARRANGEMENTS
    files: dict[str, Path]  # by relative name, sorted: all that records are made of
    others: dict[str, int]  # what else is there: kind -> how many
    chosen: tuple[str, ...] = ()  # the names that say where the records are, of those files
    stamps: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # (bytes, mtime in ns)

    def unchanged(self, name: str) -> Path:
        """The path of a file, as it was when it was found. UserError when it is not."""
        path = self.files[name]
        if stamp(path) != self.stamps[name]:
            raise changed(path)
        return path


def changed(path: Path) -> UserError:
    """What to raise when a file is not what it was."""
    return UserError(f"{path} changed while it was read; start again when nothing writes to it")


def found(root: Path, kind: str, fields: dict, arrangement: str, files: dict, others: dict, chosen: Iterable[str]):
    """Found, with the files sorted and stamped."""
    files, chosen = dict(sorted(files.items())), tuple(chosen)
    stamps = {name: stamp(path) for name, path in files.items()}
    return Found(root, kind, fields, arrangement, files, dict(sorted(others.items())), chosen, stamps)


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        status = path.stat()
    except OSError as error:
        raise text.refusal(error) from None
    return status.st_size, status.st_mtime_ns


def walk(root: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """All files below a folder by relative name, sorted, and how many linked folders were not entered (they may lead in
    a circle). Names that begin with a dot are not there.
    """
    if root.is_file():
        return {root.name: root}, {}
    files, links = {}, 0
    for folder, names, here in os.walk(root, onerror=_refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        links += sum(Path(folder, name).is_symlink() for name in names)
        for file in (Path(folder, name) for name in here if not name.startswith(".")):
            files[file.relative_to(root).as_posix()] = file
    return dict(sorted(files.items())), {"linked folders": links} if links else {}


def of(files: dict[str, Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Those of the files that end so."""
    return {name: path for name, path in files.items() if path.suffix.lower() in suffixes and path.is_file()}


def rest(files: dict[str, Path], taken: Iterable[str]) -> dict[str, int]:
    """Suffix -> how many of the files are not taken."""
    taken, others = set(taken), {}
    for name, path in files.items():
        if name not in taken:
            suffix = path.suffix.lower() or "no suffix"
            others[suffix] = others.get(suffix, 0) + 1
    return others


def runs(sizes: Iterable[int], most: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive entries that together hold about `most` bytes."""
    start, size, stop = 0, 0, 0
    for stop, one in enumerate(sizes, start=1):
        size += one
        if size >= most:
            yield start, stop
            start, size = stop, 0
    if stop > start:
        yield start, stop


def _refuse(error: OSError) -> NoReturn:
    raise text.refusal(error) from None
