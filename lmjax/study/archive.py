"""Archives that are the same bytes wherever they are made, and source code that proves which commit it is."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lmjax.errors import UserError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a ZIP file can name


class Code(NamedTuple):
    """A repository at a commit: git's own text of the commit, and the files in a tar file."""

    commit: bytes
    tar: bytes


def pack(files: Mapping[str, bytes]) -> bytes:
    """A ZIP file of `files` by name, in their order, without compression: another zlib would make other bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    return packed.getvalue()


def unpack(data: bytes, name: str) -> tuple[dict[str, bytes], list[str]]:
    """The files of a ZIP file that `pack` made, and what is wrong with it, naming the file within.

    A file whose bytes are damaged is empty. UserError where nothing can be unpacked.
    """
    files, faults = {}, []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                try:  # by which byte has changed zipfile raises one of these
                    files[entry.filename] = archive.read(entry)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
                    faults.append(f"{entry.filename} was changed in {name}: {error}")
                    files[entry.filename] = b""
    # What zipfile raises for a damaged directory of contents; UnicodeDecodeError is a ValueError.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise UserError(f"{name} is no whole ZIP file: {error}") from None
    if any(part in ("", "..") for file in files for part in file.split("/")):
        raise UserError(f"{name} holds a file that would be unpacked elsewhere")
    again = data if faults else pack(files)
    if again != data:
        at = next(
            (at for at, (a, b) in enumerate(zip(again, data, strict=False)) if a != b), min(len(again), len(data))
        )
        faults.append(f"{name} is not as it was packed: byte {at} has changed, outside the contents of its files")
    return files, faults


def code_at(repository: Path, commit: str) -> Code:
    """The repository's files at a commit; UserError where it does not have that commit."""
    return Code(_git(repository, commit, "cat-file", "commit", commit),
                _git(repository, commit, "archive", "--format=tar", commit))  # fmt: skip


def code_fault(commit: str, code: Code) -> str:
    """Why these files are not those of the commit; "" if they are, which its SHA-1 of their tree proves without git."""
    found = hashlib.sha1(b"commit %d\0" % len(code.commit) + code.commit).hexdigest()
    if found != commit:
        return f"the commit in it is {found[:12]}, not {commit[:12]}"
    said = code.commit.split(b"\n", 1)[0].decode().removeprefix("tree ")
    try:
        tree = tree_sha1(code.tar)
    except tarfile.TarError as error:
        return f"its tar file is damaged: {error}"
    return "" if tree == said else f"its files are not those of commit {commit[:12]}: tree {tree[:12]}, not {said[:12]}"


def tree_sha1(tar: bytes) -> str:
    """Git's name of the tree of the files in a tar file."""
    root: dict = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.isdir():
                continue
            data = member.linkname.encode() if member.issym() else archive.extractfile(member).read()
            mode = "120000" if member.issym() else "100755" if member.mode & 0o100 else "100644"
            *folders, name = member.name.split("/")
            folder = root
            for part in folders:
                folder = folder.setdefault(part, {})
            folder[name] = (mode, hashlib.sha1(b"blob %d\0" % len(data) + data).digest())
    return _tree(root).hex()


def _tree(folder: dict) -> bytes:
    """The SHA-1 of a folder: its entries in the order of their names, a folder's as if it ended with a slash."""
    entries = [(f"{name}/", b"40000", name, _tree(held)) if isinstance(held, dict) else (name, held[0].encode(), name,
               held[1]) for name, held in folder.items()]  # fmt: skip
    body = b"".join(mode + b" " + name.encode() + b"\0" + sha for _, mode, name, sha in
                    sorted(entries, key=lambda entry: entry[0].encode()))  # fmt: skip
    return hashlib.sha1(b"tree %d\0" % len(body) + body).digest()


def _git(repository: Path, commit: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"no code at commit {commit[:12]}: git cannot be asked: {error}") from None
    if done.returncode:
        raise UserError(f"the repository {repository} has no commit {commit[:12]}, at which the study ran: fetch it, or "
                        "leave the code out with --small")  # fmt: skip
    return done.stdout
