"""Text out of bytes, exactly or not at all: where a long file is cut into documents, and what is no text.

Nothing is repaired or skipped in silence: invalid UTF-8 and NUL bytes are a `BadRecord` that names the place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lmjax.data.records import BadRecord
from lmjax.errors import UserError

PIECE = 16 * 1024  # bytes: a .txt file longer than this is cut, at the next blank line, into documents
WINDOW = 4 * PIECE  # bytes: with no blank line up to here the cut is at a line's end, then a word's, then a character's
BLOCK = 1 << 20
CUTS = (re.compile(rb"\n[ \t\r]*\n"), re.compile(rb"\n"), re.compile(rb"[ \t]"))
LINE = re.compile(r":\d+$")
SURROGATE = re.compile("[\ud800-\udfff]")
BOM = b"\xef\xbb\xbf"


def listing(others: dict[str, int]) -> str:
    """What a folder has besides text, for a message."""
    return ", ".join(f"{count} {kind}" for kind, count in others.items())


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes. UserError when it cannot be read."""
    with opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing_sha256(digests: dict[str, str]) -> str:
    """Hex digest of the "sha256  name" lines of several files, in their order."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()).hexdigest()


def opened(path: Path) -> BinaryIO:
    """The file, to read its bytes. UserError when it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise refusal(error) from None


def refusal(error: OSError) -> UserError:
    """What to raise for a file or folder that cannot be read."""
    return UserError(f"cannot read {error.filename}: {error.strerror}")


def newlines(path: Path, stop: int) -> int:
    """How many lines end in the first `stop` bytes."""
    count = 0
    with opened(path) as stream:
        while stop > 0 and (block := stream.read(min(BLOCK, stop))):
            count, stop = count + block.count(b"\n"), stop - len(block)
    return count


def skip_lines(stream: BinaryIO, lines: int) -> int:
    """Goes behind the first so many lines of a file; the byte where it is then."""
    at = 0
    while lines > 0 and (block := stream.read(BLOCK)):
        ends = block.count(b"\n")
        if ends >= lines:
            place = -1
            for _ in range(lines):
                place = block.index(b"\n", place + 1)
            at += place + 1
            break
        lines, at = lines - ends, at + len(block)
    stream.seek(at)
    return at


def cut_documents(stream: BinaryIO, length: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the documents in the next `length` bytes (none: all that follow): together they are those bytes.

    A short text is one. Where a document ends depends only on the text before that end and up to 64 KiB after it, so the
    documents of a file that grows at its end stay what they were, up to the last four; and reading from the end of
    one, or up to it, gives the documents that reading everything gives.
    """
    buffer, start, offset, last = b"", 0, 0, False  # offset: where buffer begins
    left = length
    while not last:
        block = stream.read(BLOCK if left is None else min(BLOCK, left))
        left = None if left is None else left - len(block)
        last = not block or left == 0
        offset, buffer, start = offset + start, buffer[start:] + block, 0
        while end := _cut(buffer, start, last):
            yield offset + start, buffer[start:end]
            start = end


def decoded(raw: bytes, where: str, offset: int | None) -> str | BadRecord:
    """UTF-8 to str. offset: where raw begins in its file (a byte order mark at 0 is no text); none: not known."""
    place = offset or 0
    if (at := raw.find(b"\0")) >= 0:
        hint = "it looks like UTF-16 or a binary file" if offset == 0 and at < 4 else "is it a text file?"
        return BadRecord(where, "NUL byte", f"a NUL byte at byte {place + at}; {hint}. Text must be UTF-8.")
    if offset == 0 and raw.startswith(BOM):
        raw, place = raw[len(BOM) :], len(BOM)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        file = Path(LINE.sub("", where))
        at = "" if offset is None else f" at byte {place + error.start}"
        return BadRecord(
            where,
            "invalid UTF-8",
            f"invalid UTF-8{at} (0x{raw[error.start]:02x}: {error.reason}). If the file is in another encoding, convert it: "
            f"iconv -f LATIN1 -t UTF-8 {file.name} > {file.stem}-utf8{file.suffix}; if that byte is damage, repair it.",
        )


def not_text(value: object, what: str) -> tuple[str, str] | None:
    """(reason, detail) why a value that was read from `what` is no text; None when it is. Empty text is text."""
    if value is None:
        return "missing value", f"no {what} here"
    if not isinstance(value, str):
        return "not text", f"the {what} is a {type(value).__name__}, not a string"
    if "\0" in value:
        return "NUL byte", f"the {what} holds a NUL character (\\u0000), which no text should"
    if not value.isascii() and not _encodable(value):
        return (
            "broken character",
            f"the {what} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character",
        )
    return None


def _encodable(value: str) -> bool:
    """Whether UTF-8 has all its characters, which a surrogate is not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
