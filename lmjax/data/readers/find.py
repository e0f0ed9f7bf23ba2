"""Which files of a folder hold its records, and how: one finder a kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmjax.data import text
from lmjax.data.readers import files, folders, formats
from lmjax.data.readers.files import IMAGES, SOUNDS, TABLES, Found
from lmjax.data.records import fields
from lmjax.errors import UserError

LISTS = ("captions", "labels", "transcripts", "metadata")  # names of the table that is meant when there are several


class Looked(NamedTuple):
    """What a finder is given."""

    root: Path
    kind: str
    columns: tuple[str, ...]  # of data.columns, may be empty
    fields: dict[str, str]
    files: dict[str, Path]
    links: dict[str, int]

    def found(self, arrangement: str, chosen: Sequence[str], more: Sequence[str] = (), **fields: str) -> Found:
        """These of the files, the others counted."""
        taken = {name: self.files[name] for name in (*chosen, *more)}
        others = self.links | files.rest(self.files, taken)
        return files.found(self.root, self.kind, self.fields | fields, arrangement, taken, others, chosen)

    def nothing(self, needed: str) -> UserError:
        """Says what there is instead."""
        others = text.listing(dict(sorted((self.links | files.rest(self.files, ())).items())))
        return UserError(f"data.source={self.root}: no {needed} (found: {others or 'nothing'})")


def find(path: Path, kind: str = "text", columns: Sequence[str] | None = None) -> Found:
    """What is at path (a file or a folder and all below it). UserError when there are no records of the kind."""
    names = fields(kind, columns)
    here, links = files.walk(path)
    return FINDERS[kind](Looked(path, kind, tuple(columns or ()), names, here, links))


def _texts(looked: Looked) -> Found:
    """.txt and .jsonl files; tables when there are none of these, or when data.columns names columns."""
    plain, tables = files.of(looked.files, (".txt", ".jsonl")), files.of(looked.files, TABLES)
    if looked.root.is_file() and not plain and not tables:
        raise UserError(f"data.source={looked.root}: a text file must end in {_either(formats.FORMATS)}")
    if looked.columns:
        chosen = tables
    else:
        chosen = plain or tables
    if not chosen:
        raise looked.nothing(
            f"{_either(TABLES if looked.columns else formats.FORMATS)} file in this folder. Put plain UTF-8 text there, one "
            'document a .txt file or a row of a table with a column "text", or one {"text": "..."} a line of a .jsonl file'
        )
    return _rows(looked, chosen)


def _rows(looked: Looked, chosen: dict[str, Path]) -> Found:
    for path in chosen.values():
        formats.check(path, tuple(looked.fields.values()))
    return looked.found("rows", tuple(chosen))


def _pairs(looked: Looked) -> Found:
    """Two columns, or two files line by line: NAME.en and NAME.de, or any two .txt files."""
    if tables := files.of(looked.files, TABLES):
        return _rows(looked, tables)
    names = list(looked.files)
    if len(names) == 2 and (len({Path(name).stem for name in names}) == 1 or {*map(_suffix, names)} == {"txt"}):
        return looked.found("two files", _direction(looked, names))
    raise looked.nothing(
        f"pairs: put two files of equal line count there (NAME.en and NAME.de) and nothing else, or {_either(TABLES)} files "
        'with the columns "source" and "target" (data.columns says other names)'
    )


def _direction(looked: Looked, names: list[str]) -> tuple[str, ...]:
    """source, then target: never guessed from the alphabet."""
    wanted = tuple(looked.fields.values())
    chosen = tuple(name for want in wanted for name in names if want in (name, Path(name).stem, _suffix(name)))
    if len(chosen) != 2 or len(set(chosen)) != 2:
        short = [_suffix(name) if _suffix(name) != "txt" else Path(name).stem for name in sorted(names)]
        raise UserError(
            f"data.source={looked.root}: which of {' and '.join(sorted(names))} is the source? Say "
            f"--config.data.columns={short[0]},{short[1]} or --config.data.columns={short[1]},{short[0]}"
        )
    return chosen


def _labels(looked: Looked) -> Found:
    """Two columns, or one folder of .txt files for each label."""
    if tables := files.of(looked.files, TABLES):
        return _rows(looked, tables)
    texts = files.of(looked.files, (".txt",))
    if not any("/" in name for name in texts):
        raise looked.nothing(
            f"labelled text: put one folder of .txt files for each label there, or {_either(TABLES)} files with the "
            'columns "text" and "label" (data.columns says other names)'
        )
    return looked.found("label folders", tuple(texts))


def _media(looked: Looked) -> Found:
    """A table that lists files; else a folder for each label, or NAME.txt beside NAME.png or NAME.wav."""
    first, second, *more = looked.fields
    suffixes = SOUNDS if first == "audio" else IMAGES
    here = files.of(looked.files, suffixes)
    if not here:
        raise looked.nothing(f"{_either(suffixes)} file in this folder")
    tables = [name for name in files.of(looked.files, TABLES) if "/" not in name]
    named = [name for name in tables if Path(name).stem in LISTS]
    if len(tables) > 1 and len(named) != 1:
        raise UserError(
            f"data.source={looked.root}: which of {', '.join(tables)} lists the files? Leave only one there"
        )
    if tables:
        table = (named or tables)[0]
        names = {} if looked.columns else {first: "file"}
        formats.check(looked.files[table], tuple((looked.fields | names).values()))
        return _counted(looked.found("listed", (table,), tuple(here), **names), here, table)
    if more:
        raise looked.nothing(f"table with the columns file, {second}, {', '.join(more)} for the {len(here)} files")
    if second == "label":
        return looked.found("label folders", tuple(here))
    texts = [name for name in files.of(looked.files, (".txt",)) if _has_media(name, here)]
    if not texts:
        raise looked.nothing(
            f"{second} for the {len(here)} files: list them in {'transcripts' if first == 'audio' else 'captions'}.csv with "
            f'the columns "file" and "{second}", or put NAME.txt beside each'
        )
    return looked.found("beside", tuple(here), texts)


def _counted(found: Found, here: dict[str, Path], table: str) -> Found:
    """The files that the table does not name are among the others."""
    named = {entry.file for entry in folders.listed(found) if isinstance(entry, folders.Entry)}
    forgotten = len(set(here) - named)
    others = found.others | ({f"files not in {table}": forgotten} if forgotten else {})
    return dataclasses.replace(found, others=others)


def _has_media(name: str, here: dict[str, Path]) -> bool:
    stem = name.rpartition(".")[0]
    return any(f"{stem}{suffix}" in here for suffix in (*IMAGES, *SOUNDS))


def _suffix(name: str) -> str:
    return Path(name).suffix.lower().removeprefix(".")


def _either(suffixes: Sequence[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"


def _tabular(looked: Looked) -> Found:
    """Tables and .jsonl files alone."""
    if tables := files.of(looked.files, TABLES):
        return _rows(looked, tables)
    raise looked.nothing(
        f"{_either(TABLES)} file with the columns {', '.join(looked.fields.values())} (data.columns says other names)"
    )


FINDERS = {
    "text": _texts,
    "pairs": _pairs,
    "labels": _labels,
    "images": _media,
    "image_labels": _media,
    "image_text_labels": _media,
    "tags": _tabular,
    "numbers": _tabular,
    "spans": _tabular,
    "choices": _tabular,
    "speech": _media,
}
