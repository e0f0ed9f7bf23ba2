"""Small files that a crash or a power cut leaves as the old bytes or the new ones; JSON in which NaN survives."""

from __future__ import annotations

import json
import math
import os
import pathlib

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write(path: str | os.PathLike, text: str) -> None:
    """Replaces the file `path` by `text` at once: written beside it, synced to disk, renamed over it."""
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike) -> None:
    """Makes the names in `folder` (new files, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dumps(value, indent: int | None = None) -> str:
    """Valid JSON; non-finite numbers become the strings "NaN", "Infinity", "-Infinity" (protobuf's JSON mapping).

    NumPy and JAX scalars become numbers, tuples become lists. Anything else that JSON has no word for is a TypeError.
    """
    text = json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 stays as its escapes
        return json.dumps(_plain(value), indent=indent, allow_nan=False)
    return text


def loads(text: str):
    """The value that `dumps` wrote, with its non-finite floats back. ValueError when `text` is not JSON."""
    value = json.loads(text)
    return _floats(value) if any(f'"{name}"' in text for name in _NON_FINITE) else value


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _floats(value):
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
