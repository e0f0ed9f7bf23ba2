"""A folder of .txt and .jsonl files as documents, read as a stream; whatever cannot be read exactly is an error.

Nothing is skipped in silence: other files and empty documents are counted, invalid UTF-8 and NUL bytes are errors that
name the file and the byte, and a file that changes while it is read is an error too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from lmjax.errors import UserError

PIECE = 16 * 1024  # bytes: a .txt file longer than this is cut, at the next blank line, into documents
WINDOW = 4 * PIECE  # bytes: with no blank line up to here the cut is at a line's end, then a word's, then a character's
BLOCK = 1 << 20
CUTS = (re.compile(rb"\n[ \t\r]*\n"), re.compile(rb"\n"), re.compile(rb"[ \t]"))
SUFFIXES = (".txt", ".jsonl")
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")


def find(path: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """The .txt and .jsonl files at path (a file, or a folder and all below it) by relative name, sorted; and how many
    files of each other kind lie there. Names that begin with a dot are not entered. UserError when there is no text.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"data.source={path}: a text file must end in .txt or .jsonl")
        return {path.name: path}, {}
    found, others = {}, {}
    for folder, names, files in os.walk(path, onerror=_refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        links = sum(Path(folder, name).is_symlink() for name in names)  # not entered: they may lead in a circle
        if links:
            others["linked folders"] = others.get("linked folders", 0) + links
        for file in (Path(folder, name) for name in files if not name.startswith(".")):
            kind = file.suffix.lower()
            if kind in SUFFIXES and file.is_file():
                found[file.relative_to(path).as_posix()] = file
            else:
                others[kind or "no suffix"] = others.get(kind or "no suffix", 0) + 1
    if not found:
        listed = listing(dict(sorted(others.items()))) or "nothing"
        raise UserError(
            f"data.source={path}: no .txt or .jsonl file in this folder (found: {listed}). Put plain UTF-8 text there, "
            'one document a .txt file, or one {"text": "..."} a line of a .jsonl file.'
        )
    return dict(sorted(found.items())), dict(sorted(others.items()))


def listing(others: dict[str, int]) -> str:
    """What a folder has besides text, for a message."""
    return ", ".join(f"{count} {kind}" for kind, count in others.items())


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes. UserError when it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        _refuse(error)


def read(files: dict[str, tuple[Path, str]]) -> Iterator[str]:
    """The documents of files (name -> path and expected sha256), in that order. May yield empty ones."""
    for path, digest in files.values():
        yield from (jsonl if path.suffix.lower() == ".jsonl" else txt)(path, digest)


def txt(path: Path, digest: str) -> Iterator[str]:
    """A file's text as one document, or, when it is long, as pieces that together are exactly the text (less its BOM).

    Where a piece ends depends only on the text before that end and up to 64 KiB after it, so the documents of a file
    that grows at its end stay what they were, up to the last four.
    """
    seen, buffer, start, offset = hashlib.sha256(), b"", 0, 0  # offset: where buffer begins in the file
    with _open(path) as stream:
        last = False
        while not last:
            block = stream.read(BLOCK)
            last = not block
            seen.update(block)
            offset, buffer, start = offset + start, buffer[start:] + block, 0
            while end := _cut(buffer, start, last):
                yield _decode(buffer[start:end], path, offset + start)
                start = end
    if offset == 0 and not buffer:
        yield ""
    _unchanged(path, seen, digest)


def jsonl(path: Path, digest: str) -> Iterator[str]:
    """The "text" of each line's JSON object, one document a line; blank lines are none."""
    seen, offset = hashlib.sha256(), 0
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            seen.update(line)
            if line.strip():
                yield _text(_decode(line, path, offset), f"{path}:{number}")
            offset += len(line)
    _unchanged(path, seen, digest)


def _text(line: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: this line is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{where}: this line's JSON is nested too deeply to be read") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        what = f"an object with the keys {', '.join(entry) or '(none)'}" if isinstance(entry, dict) else "not an object"
        raise UserError(f'{where}: each line must be {{"text": "..."}} with a string; this one is {what}')
    text = entry["text"]
    if "\0" in text:
        raise UserError(f"{where}: the text holds a NUL character (\\u0000), which no text should")
    if SURROGATE.search(text):
        raise UserError(f"{where}: the text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return text


def _cut(buffer: bytes, start: int, last: bool) -> int:
    """Where the document that begins at start ends; 0 when buffer does not yet (or no longer) hold a whole one."""
    left = len(buffer) - start
    if left <= WINDOW + 4 and not last:
        return 0
    if left <= PIECE:
        return len(buffer) if left else 0
    for pattern in CUTS:
        if match := pattern.search(buffer, start + PIECE, start + WINDOW):
            return match.end()
    if left <= WINDOW:
        return len(buffer)
    end = start + WINDOW
    while end > start + WINDOW - 3 and buffer[end] & 0xC0 == 0x80:  # not inside a character
        end -= 1
    return end


def _decode(raw: bytes, path: Path, offset: int) -> str:
    """UTF-8 to str. offset: where raw begins in the file, for the message."""
    if (at := raw.find(b"\0")) >= 0:
        hint = "it looks like UTF-16 or a binary file" if offset == 0 and at < 4 else "is it a text file?"
        raise UserError(f"{path}: a NUL byte at byte {offset + at}; {hint}. Text must be UTF-8.")
    if offset == 0 and raw.startswith(BOM):
        raw, offset = raw[len(BOM) :], len(BOM)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: invalid UTF-8 at byte {offset + error.start} (0x{raw[error.start]:02x}: {error.reason}). "
            f"If the file is in another encoding, convert it: iconv -f LATIN1 -t UTF-8 {path.name} > {path.stem}-utf8"
            f"{path.suffix}; if that byte is damage, repair the file."
        ) from None


def _open(path: Path):
    try:
        return open(path, "rb")
    except OSError as error:
        _refuse(error)


def _unchanged(path: Path, seen, digest: str) -> None:
    if seen.hexdigest() != digest:
        raise UserError(f"{path} changed while it was read; start again when nothing writes to it")


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def listing_sha256(digests: dict[str, str]) -> str:
    """Of the lines "sha256  name", in the order given."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()).hexdigest()
