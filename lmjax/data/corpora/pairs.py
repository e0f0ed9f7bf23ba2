"""Readers of the packaged pairs: sentences and their translations, words and their sounds."""

from __future__ import annotations

import csv
import gzip
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from lmjax.data.corpora.texts import NOTE

ACCELERATOR = re.compile(r"~|(?<![^\s(])_(?=\w)")  # the mark before the letter that a key press stands for
VERSE = re.compile(r"\S+ (\d+):(\d+) \S+ \d+:\d+ (.+)")


def bible_ja(files: list[Path]) -> Iterator[dict]:
    """Verses in English (World English Bible) and in literary Japanese, paired by book, chapter and verse."""
    kougo, web = (gzip.decompress(file.read_bytes()).decode("utf-8-sig") for file in files)
    japanese, book = {}, 0
    for line in filter(None, kougo.splitlines()):
        if line[0] == "=" and line[1:4].isdigit():
            book = int(line[1:4])  # 001 to 039, then 101 to 127 for the New Testament
            book -= 61 if book > 100 else 0
        elif verse := VERSE.fullmatch(line):
            japanese[book, int(verse[1]), int(verse[2])] = verse[3].strip()
    rows = csv.reader(io.StringIO(web))
    next(rows)  # the header; then: id, book, chapter, verse, text
    for _, *place, text in rows:
        source, target = " ".join(NOTE.sub("", text).split()), japanese.get(tuple(map(int, place)))
        if source and target:
            yield {"source": source, "target": target}


def debian(files: list[Path]) -> Iterator[dict]:
    """Descriptions of Debian's packages and their translations: a record a paragraph, each English one once.

    The two are paired by the MD5 of the English description; those with unequal numbers of paragraphs are left out.
    """
    english, translated = files
    targets = dict(_descriptions(translated))
    seen = set()
    for key, sources in _descriptions(english):
        target = targets.pop(key, ())
        if len(sources) != len(target):
            continue
        for pair in zip(sources, target, strict=True):
            if all(pair) and pair[0] != pair[1] and pair[0] not in seen:
                seen.add(pair[0])
                yield {"source": pair[0], "target": pair[1]}


def debian_short(files: list[Path]) -> Iterator[dict]:
    """Descriptions of Debian's packages, all their paragraphs, and the short ones that their makers gave them.

    Of packages that begin with the same paragraph, as the parts of one do, the first alone, so that no text is on both
    sides of a split.
    """
    seen = set()
    for _, (short, *paragraphs) in _descriptions(files[0]):
        if paragraphs and short and paragraphs[0] not in seen:
            seen.add(paragraphs[0])
            yield {"source": "\n".join(paragraphs), "target": short}


def libreoffice(files: list[Path]) -> Iterator[dict]:
    """LibreOffice's interface in English and another language: a record a text, each pair once.

    The files are gettext's .mo (its manual, section "The Format of GNU MO Files"); a context stands before \\x04.
    """
    seen = set()
    for file in files:
        raw = file.read_bytes()
        count, *tables = struct.unpack_from("<III", raw, 8)
        for i in range(count):
            spans = (struct.unpack_from("<II", raw, table + 8 * i) for table in tables)
            texts = [raw[start : start + size].decode().split("\0")[0] for size, start in spans]  # \0: the plural
            source, target = (ACCELERATOR.sub("", text.split("\4")[-1]).strip() for text in texts)
            if source and target and source != target and (source, target) not in seen:
                seen.add((source, target))
                yield {"source": source, "target": target}


def cmudict(files: list[Path]) -> Iterator[dict]:
    """English words, letters apart, and their sounds in ARPAbet with stress: a record a pronunciation."""
    for line in files[0].read_text().splitlines():
        word, _, sounds = line.partition("#")[0].partition(" ")
        yield {"source": " ".join(word.partition("(")[0]), "target": sounds.strip()}  # read(2): the second of its


def syllables(files: list[Path]) -> Iterator[dict]:
    """English words, letters apart, and how many syllables they have: the sounds with a stress of the first pronunciation."""
    for line in files[0].read_text().splitlines():
        word, _, sounds = line.partition("#")[0].partition(" ")
        if "(" not in word:
            yield {"text": " ".join(word), "value": sum(sound[-1].isdigit() for sound in sounds.split())}


def _descriptions(file: Path) -> Iterator[tuple[str, list[str]]]:
    """MD5 and paragraphs, the short description first, of every entry of an index (Debian Policy, 5.6.13)."""
    key, lines = "", []
    with open(file, encoding="utf-8") as entries:
        for line in entries:
            if line.startswith("Description-md5:"):
                key = line.split()[1]
            elif line.startswith("Description-"):
                lines = [line.partition(": ")[2].strip(), " ."]
            elif line.startswith(" "):
                lines.append(line.rstrip("\n"))
            elif not line.strip() and lines:
                yield key, _paragraphs(lines)
                lines = []
    if lines:
        yield key, _paragraphs(lines)


def _paragraphs(lines: list[str]) -> list[str]:
    """The paragraphs: " ." stands between two, and a line that begins with two spaces stays a line."""
    paragraphs = [""]
    for line in lines:
        if line.strip() == ".":
            paragraphs.append("")
        else:
            paragraphs[-1] += ("\n" if line.startswith("  ") else " ") + line.strip()
    return [paragraph.strip() for paragraph in paragraphs if paragraph.strip()]
