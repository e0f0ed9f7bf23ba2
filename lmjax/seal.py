"""A seal says that a folder is whole: the size and SHA-256 of each of its files, written after all of them.

The seal is the last file of a folder and appears at once, so a folder that has one was finished; and whatever happens
to a file later (truncation, a flipped bit, a missing file, a seal copied from elsewhere) shows against it.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

from lmjax import atomic

NAME = "seal.json"


def write(folder: pathlib.Path, label: str) -> None:
    """Seals `folder` as `label`. Every file, and every folder that names one, is on the disk before the seal is."""
    names = _files(folder)
    with ThreadPoolExecutor(_threads(names)) as pool:
        digests = list(pool.map(lambda name: _digest(folder / name, sync=True), names))
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        atomic.sync_folder(inner)
    files = {name: {"bytes": size, "sha256": sha} for name, (size, sha) in zip(names, digests, strict=True)}
    body = {"label": label, "files": files}
    atomic.write(folder / NAME, atomic.dumps({**body, "sha256": _body_sha256(body)}, indent=1))


def damage(folder: pathlib.Path, label: str) -> str | None:
    """What is wrong with a sealed folder, beginning with the file's name; None when every byte is as sealed.

    Files that the seal does not name are no damage: nothing reads them.
    """
    try:
        sealed = atomic.loads((folder / NAME).read_text())
        body = {"label": sealed["label"], "files": sealed["files"]}
        if sealed["sha256"] != _body_sha256(body):
            return f"{NAME} was changed after it was written"
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in body["files"].items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except NotADirectoryError:
        return "it is a file where a folder should be"
    except OSError as error:
        return f"{NAME} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} is not a seal any more (its JSON is broken)"
    if body["label"] != label:
        return f"{NAME} belongs to {body['label']}, not to {label}"
    with ThreadPoolExecutor(_threads(expected)) as pool:
        found = pool.map(lambda name: _fault(folder / name, name, *expected[name]), expected)
        return next((fault for fault in found if fault), None)


def _fault(path: pathlib.Path, name: str, size: int, sha: str) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found} bytes, {size} were sealed"
        return None if _digest(path)[1] == sha else f"{name} has other bytes than were sealed"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _digest(path: pathlib.Path, sync: bool = False) -> tuple[int, str]:
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return file.tell(), sha


def _body_sha256(body: dict) -> str:
    return hashlib.sha256(atomic.dumps(body).encode()).hexdigest()


def _files(folder: pathlib.Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _threads(names) -> int:
    return max(1, min(8, len(names)))


def stamped(facts: dict) -> dict:
    """The facts with `sha256`, of all the others as JSON: whoever edits one of them by hand is found out."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    return rest | {"sha256": hashlib.sha256(atomic.dumps(rest).encode()).hexdigest()}
