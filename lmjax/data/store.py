"""A cache of sealed folders: built once, read often, believed only when every byte is as it was sealed.

A folder's name is the hash of everything that decides its contents, so a changed source, setting or format is another
folder. It is built beside its place, in KEY.building, and appears there by one rename: a build that was killed leaves
nothing that could be taken for a whole one, the next process finds what it had done, and two builds at once cannot mix.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lmjax import atomic, seal
from lmjax.errors import UserError

MANIFEST = "manifest.json"
LOG = logging.getLogger(__name__)
Build = Callable[[Path, Path], dict]


class Unfinished(UserError):
    """A build that stopped for a cause outside of it: what it has done is kept, and the next one goes on from there."""


def sealed(root: Path, parts: dict, build: Build, say: Callable[[str], None]) -> tuple[Path, dict]:
    """The sealed folder for parts (plain JSON) and its manifest: found whole, or made by build.

    `build(folder, notes) -> manifest` fills folder, in which it may find what a killed build of the same parts has
    written; notes is a folder beside it for what the next build must know of that, and goes when the build is done.
    A sealed folder that is damaged is refused with a warning that names the file, and built again.
    """
    key = name(parts)
    folder = root / key
    if folder.exists() and seal.damage(folder, key) is None:
        shutil.rmtree(root / f"{key}.building", ignore_errors=True)  # of a build that was killed after its last step
        return folder, _manifest(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f"{key}.lock", say) as alone:
            if folder.exists():
                damage = seal.damage(folder, key)
                if damage is None:
                    return folder, _manifest(folder)
                LOG.warning("%s is refused: %s. It is built again.", folder, damage)
                shutil.rmtree(folder)
            _build(folder, key, parts, build, alone)
    except OSError as error:
        raise _explained(error, root) from None
    if damage := seal.damage(folder, key):
        raise UserError(f"{folder} was damaged while it was written ({damage}). Is the disk sound and not full?")
    return folder, _manifest(folder)


def name(parts: dict) -> str:
    """Of the folder for parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build(folder: Path, key: str, parts: dict, build: Build, alone: bool) -> None:
    """alone: no other process builds this folder, so what one left can be gone on with."""
    beside = folder.parent / f"{key}.building"
    if not alone:
        beside = Path(tempfile.mkdtemp(prefix=f"{key}.building-", dir=folder.parent))
    content, notes = beside / "content", beside / "notes"
    try:
        for place in (content, notes):
            place.mkdir(parents=True, exist_ok=True)
        manifest = build(content, notes)
        text = json.dumps({**manifest, "made_from": parts}, indent=1, ensure_ascii=False, sort_keys=True)
        (content / MANIFEST).write_text(text + "\n", "utf-8")
        seal.write(content, key)
        try:
            os.rename(content, folder)
            atomic.sync_folder(folder.parent)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # otherwise another process was first, where there are no locks: its folder is checked next
    except Unfinished:
        raise
    except (UserError, OSError):  # nothing to go on from: the source or its settings must change, or the disk is full
        shutil.rmtree(beside, ignore_errors=True)
        raise
    shutil.rmtree(beside, ignore_errors=True)


def _manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text("utf-8"))


@contextlib.contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Holds the file's lock, which ends with the process; False where the file system has none."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is preparing {path.stem[:12]} in {path.parent}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _explained(error: OSError, root: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for prepared data in {root}: free some, or set LMJAX_CACHE to another folder")
    return UserError(f"cannot keep prepared data in {root} ({error}): set LMJAX_CACHE to a folder that you can write")
