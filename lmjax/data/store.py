"""A cache of sealed folders: built once, read often, believed only when every byte is as it was sealed.

A folder's name is the hash of everything that decides its contents, so a changed source, setting or format is another
folder. It is built beside its place and appears there by one rename: a build that was killed leaves nothing that could
be taken for a whole one, and two builds at once cannot mix.
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


def sealed(root: Path, parts: dict, build: Callable[[Path], dict], say: Callable[[str], None]) -> tuple[Path, dict]:
    """The sealed folder for parts (plain JSON) and its manifest: found whole, or made by `build(folder) -> manifest`.

    One that is there and damaged is refused with a warning that names the file, and built again.
    """
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder = root / key
    if folder.exists() and seal.damage(folder, key) is None:
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
            if alone:  # what a killed build left
                for left in root.glob(f"{key}.building-*"):
                    shutil.rmtree(left, ignore_errors=True)
            _build(folder, key, parts, build)
    except OSError as error:
        raise _explained(error, root) from None
    if damage := seal.damage(folder, key):
        raise UserError(f"{folder} was damaged while it was written ({damage}). Is the disk sound and not full?")
    return folder, _manifest(folder)


def _build(folder: Path, key: str, parts: dict, build: Callable[[Path], dict]) -> None:
    beside = Path(tempfile.mkdtemp(prefix=f"{key}.building-", dir=folder.parent))
    try:
        manifest = build(beside)
        text = json.dumps({**manifest, "made_from": parts}, indent=1, ensure_ascii=False, sort_keys=True)
        (beside / MANIFEST).write_text(text + "\n", "utf-8")
        seal.write(beside, key)
        beside.chmod(0o755)  # mkdtemp's is 0o700, and a cache may be shared
        try:
            os.rename(beside, folder)
            atomic.sync_folder(folder.parent)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # otherwise another process was first, where there are no locks: its folder is checked next
    finally:
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
