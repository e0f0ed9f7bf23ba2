"""Readers of the packaged texts: from a package's own files to documents. Where the files lie: `__init__.py`."""

from __future__ import annotations

import csv
import gzip
import html
import io
import itertools
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# botocore's HTML. Other things between < and > are placeholders such as <region>, and stay.
BLOCK = "p|ul|ol|dl|dt|dd|note|important|tr|table|pre|br|para|title|fullname|div"
INLINE = "code|a|i|b|em|strong|u|replaceable|link|td|th|filename|function|ulink|emphasis|xhtml|zonbook|copy|value"
TAG = re.compile(rf"<(?:(li)|(/?(?:{BLOCK}|li))|/?(?:{INLINE}))\b[^>]*>")
NOTE = re.compile(r"\{[^{}]*\}")
CHAPTER = re.compile(r"(?=^chapter [\divxlc]+\.?$)", re.IGNORECASE | re.MULTILINE)


def bible(files: list[Path]) -> Iterator[str]:
    """The World English Bible: a document a chapter, a line a verse; the translators' {notes} are taken out."""
    rows = csv.reader(io.StringIO(gzip.decompress(files[0].read_bytes()).decode()))
    next(rows)  # the header; then: id, book, chapter, verse, text
    for _, verses in itertools.groupby(rows, key=lambda row: row[1:3]):
        lines = (" ".join(NOTE.sub("", row[4]).split()) for row in verses)
        yield "\n".join(line for line in lines if line)  # two verses are nothing but a note


def botocore(files: list[Path]) -> Iterator[str]:
    """The API documentation of AWS: a document an operation or data type, a paragraph for it and one for each member.

    A text that occurs again anywhere (as thousands do) is left out there, so that no test document was trained on.
    """
    seen = set()

    def fresh(owner: dict) -> str:
        text = owner.get("documentation")
        if not text or text in seen:
            return ""
        seen.add(text)
        return _plain(text)

    for file in files:
        service = json.loads(gzip.decompress(file.read_bytes()))
        if text := fresh(service):
            yield f"{service['metadata'].get('serviceFullName', file.parent.parent.name)}\n{text}"
        for name, entry in itertools.chain(service.get("operations", {}).items(), service.get("shapes", {}).items()):
            parts = [f"{name}\n{text}"] if (text := fresh(entry)) else []
            members = entry.get("members", {}).items()
            parts += [f"{member}: {text}" for member, part in members if (text := fresh(part))]
            if parts:
                yield "\n".join(parts)


def austen(files: list[Path]) -> Iterator[str]:
    """Jane Austen's six novels: a document a chapter.

    The file is R's lazy-load database: zlib streams, each behind its length, of character vectors in R's XDR
    serialization ("R Internals", section 1.8).
    """
    raw = files[0].read_bytes()
    while raw:
        stream = zlib.decompressobj()
        data, raw = stream.decompress(raw[4:]), stream.unused_data
        at = 14 + 4 + struct.unpack_from(">i", data, 14)[0]  # past "X\n", three versions and the encoding's name
        _, count = struct.unpack_from(">ii", data, at)
        at, lines = at + 8, []
        for _ in range(count):
            _, size = struct.unpack_from(">ii", data, at)
            lines.append(data[at + 8 : at + 8 + max(size, 0)].decode())
            at += 8 + max(size, 0)
        yield from (chapter.strip("\n") for chapter in CHAPTER.split("\n".join(lines)))


def _plain(text: str) -> str:
    """HTML to lines of text; an item of a list begins with "- "."""
    text = " ".join(text.split()).replace("<li> <p>", "<li>").replace("<li><p>", "<li>")
    text = TAG.sub(lambda tag: "\n- " if tag[1] else "\n" if tag[2] else "", text)
    lines = (line.strip() for line in text.split("\n"))
    return html.unescape("\n".join(line for line in lines if line and line != "-"))
