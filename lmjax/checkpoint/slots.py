"""The names in a checkpoints folder: which of them are checkpoints, and how one is deleted or cleared away."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import shutil

from lmjax import seal
from lmjax.errors import UserError


class CheckpointError(UserError):
    """A save that failed, or checkpoints that exist and cannot be used."""


def candidates(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """(step, path) of what claims to be a checkpoint: the numbered ones, and sealed ones that await their renaming."""
    found = {step_of(name): folder / name for name in names(folder, r"\d{8,}")}
    for name in names(folder, r"tmp\.\d{8,}"):
        if step_of(name) not in found and (folder / name / seal.NAME).is_file():
            found[step_of(name)] = folder / name
    return list(found.items())


def tidy(folder: pathlib.Path) -> None:
    """Clears what killed saves and deletions left; a save that was sealed but not yet renamed is kept."""
    for name in names(folder, r"(tmp|old)\.\d{8,}"):
        final = numbered(folder, step_of(name))
        if name.startswith("tmp") and (folder / name / seal.NAME).is_file() and not final.exists():
            (folder / name).rename(final)
        else:
            shutil.rmtree(folder / name)


def delete(path: pathlib.Path, successor: pathlib.Path | None = None) -> None:
    """Renamed first, so that a kill in the middle leaves nothing that looks like a damaged checkpoint."""
    old = path.with_name(f"old.{path.name}")
    path.rename(old)
    if successor is not None:
        successor.rename(path)
    shutil.rmtree(old)


def names(folder: pathlib.Path, pattern: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot look into {folder}: {error.strerror}") from error


def numbered(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"{step:08d}"


def named(folder: pathlib.Path, what: str, step: int) -> pathlib.Path:
    return folder / f"{what}.{step:08d}"


def step_of(name: str) -> int:
    return int(name.split(".")[-1])


def unused(path: pathlib.Path) -> pathlib.Path:
    """`path`, or `path` with a number behind it, such that nothing is there yet."""
    paths = itertools.chain([path], (path.with_name(f"{path.name}.{i}") for i in itertools.count(2)))
    return next(path for path in paths if not path.exists())
