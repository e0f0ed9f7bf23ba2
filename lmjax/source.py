"""Which code is running: the commit, what is not committed, or the wheel it came from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import subprocess

_LARGEST_DIFF, _LARGEST_FILE = 4_000_000, 200_000  # bytes; what is larger is recorded by its hash alone
_SOURCES = (".py", ".toml", ".cfg", ".sh")
_READERS = ("verbs", "study", "plan", "interop", "shipped", "__main__.py")  # of lmjax: they change no number of a run


def code(experiment_file=None) -> dict:
    """{"lmjax": ..., "experiment": ...}: the code of this package and, where it lives elsewhere, of the experiment.

    Each is a repository {commit, dirty, diff, diff_sha256, untracked}, a wheel {version, record_sha256}, or a loose
    file {sha256, text}; "unknown" stands for what cannot be found out (no git, no commit yet). lmjax also has a
    package_sha256, which is the same wherever the package is and whatever else its repository holds.
    """
    here = pathlib.Path(__file__).resolve()
    found = {"lmjax": _repository(here) or _wheel("lmjax", here) or _loose(here)}
    found["lmjax"]["package_sha256"] = package_sha256(here.parent)
    if experiment_file is not None:
        file = pathlib.Path(experiment_file).resolve()
        if _root(file) is None or _root(file) != _root(here):
            inside = file.is_relative_to(here.parent)  # an experiment that came with the wheel
            found["experiment"] = found["lmjax"] if inside else _repository(file) or _loose(file)
    return found


def package_sha256(folder: pathlib.Path) -> str:
    """SHA-256 over the names and bytes of the package's Python files, without those that only read finished runs."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if name.parts[0] not in _READERS:
            digest.update(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _repository(file: pathlib.Path) -> dict | None:
    """The git repository around `file`; None when there is none, or it does not hold the file (a venv inside it)."""
    root = _root(file)
    ignored = root and (_git(root, "check-ignore", "-q", str(file)) is not None or "site-packages" in file.parts)
    if root is None or ignored:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": "unknown", "dirty": True, **_difference(""), "untracked": _untracked(root)}
    diff = _git(root, "-c", "core.quotepath=off", "diff", "--no-ext-diff", "--no-color", "--binary", "HEAD")
    if diff is None:
        return {"commit": commit.strip(), "dirty": "unknown", "diff": "unknown", "diff_sha256": "unknown"}
    untracked = _untracked(root)
    return {"commit": commit.strip(), "dirty": bool(diff or untracked), **_difference(diff), "untracked": untracked}


def _difference(diff: str) -> dict:
    data = diff.encode(errors="surrogateescape")
    text = diff if len(data) <= _LARGEST_DIFF else f"left out: {len(data)} bytes"
    return {"diff": text, "diff_sha256": hashlib.sha256(data).hexdigest()}


def _untracked(root: pathlib.Path) -> dict[str, dict]:
    """Source files that git neither holds nor ignores: a diff does not show them, and the run may import them."""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z") or ""
    names = sorted(name for name in listed.split("\0") if name.endswith(_SOURCES))
    return {name: _loose(root / name) for name in names[:200]}


def _wheel(name: str, file: pathlib.Path) -> dict | None:
    """The installed distribution that owns `file`: its RECORD lists the hash of every file in it."""
    for distribution in importlib.metadata.distributions(name=name):
        if any(pathlib.Path(distribution.locate_file(entry)).resolve() == file for entry in distribution.files or ()):
            record = distribution.read_text("RECORD")
            sha = hashlib.sha256(record.encode()).hexdigest() if record else "unknown"
            return {"commit": "unknown", "version": distribution.version, "record_sha256": sha}
    return None


def _loose(file: pathlib.Path) -> dict:
    try:
        data = file.read_bytes()
    except OSError:
        return {"commit": "unknown", "file": str(file), "sha256": "unknown"}
    text = data.decode(errors="replace") if len(data) <= _LARGEST_FILE else f"left out: {len(data)} bytes"
    return {"commit": "unknown", "file": str(file), "sha256": hashlib.sha256(data).hexdigest(), "text": text}


def _root(file: pathlib.Path) -> pathlib.Path | None:
    top = _git(file.parent, "rev-parse", "--show-toplevel")
    return pathlib.Path(top.strip()) if top and top.strip() else None


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """Standard output of a git command in `folder`; None when it fails, or there is no git."""
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=quiet, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None
