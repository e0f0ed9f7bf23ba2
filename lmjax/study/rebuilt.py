"""What follows from the runs of a bundle, made again and compared: its numbers always, its pages by the code that wrote them.

A later lmjax may word a page otherwise, and that changes no number. So a page must be the same byte for byte where the
files of lmjax that write pages are those of the bundle, and stands by its hash alone where they are not and it is another.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmjax import atomic

NUMBERS = ("table.json", "report.csv")
PAGES = ("table.txt", "report.html", "report.md", "report.tex")
WORDS = ("notes", "marks")  # of the tables in NUMBERS
WRITERS = ("checks.py", "costs.py", "drawing.py", "latex.py", "markdown.py", "pages.py", "records.py", "report.css",
           "report.py", "statistics.py", "table.py", "varied.py", "wording.py")  # fmt: skip
LIST = "writers.json"  # in the bundle: the SHA-256 of each
CLOSE = 2e-8  # relative: table.json has 9 digits, and another processor or NumPy may round the last bit otherwise


def writers() -> bytes:
    """writers.json: the files of lmjax that write the pages, each with its SHA-256."""
    home = Path(__file__).parent
    found = {f"lmjax/study/{name}": hashlib.sha256((home / name).read_bytes()).hexdigest() for name in WRITERS}
    return json.dumps(found, indent=1).encode() + b"\n"


def faults(files: Mapping[str, bytes], again: Mapping[str, bytes]) -> Iterator[str]:
    """Files of a bundle that are not what its runs give; `again`: the derived ones, made from them by this lmjax."""
    alike = same_writers(files)
    yield from (f"{name} is missing" for name in (*NUMBERS, *PAGES) if name not in files)
    for name in (name for name in NUMBERS if name in files):
        said, made = (_values(name, some[name]) for some in (files, again))
        if apart := difference(said, made, words=alike):
            yield f"{name} is not what the raw metrics give: {apart}"
    for name in (name for name in PAGES if alike and name in files):
        if files[name] != again[name]:
            yield f"{name} is not what the raw metrics give: {_first_line(files[name], again[name])}"


def same_pages(files: Mapping[str, bytes], again: Mapping[str, bytes]) -> bool:
    """Whether this lmjax writes the pages of a bundle as they are."""
    return all(files.get(name) == again[name] for name in PAGES)


def same_writers(files: Mapping[str, bytes]) -> bool:
    """Whether the pages of a bundle were written by the code that is here."""
    return files.get(LIST) == writers()


def difference(said: Any, made: Any, *, words: bool = True, at: str = "") -> str:
    """The first value of `said` that `made` does not have, with its place; "" without one. What only `made` has is new."""
    if isinstance(said, dict) and isinstance(made, dict):
        names = [name for name in said if words or name not in WORDS]
        pairs = [(f"{at}.{name}".strip("."), said[name], made.get(name)) for name in names]
    elif isinstance(said, list) and isinstance(made, list):
        if len(said) != len(made):
            return f"{at or 'it'} has {len(said)} entries, and the runs give {len(made)}"
        pairs = [(f"{at}[{n}]", *pair) for n, pair in enumerate(zip(said, made, strict=True))]
    else:
        return "" if _same(said, made) else f"{at} is {_short(said)}, and the runs give {_short(made)}"
    return next(filter(None, (difference(one, other, words=words, at=place) for place, one, other in pairs)), "")


def _same(said: Any, made: Any) -> bool:
    if isinstance(said, float) and isinstance(made, (int, float)):
        return math.isnan(said) and math.isnan(made) or math.isclose(said, made, rel_tol=CLOSE, abs_tol=1e-12)
    return said == made


def _values(name: str, data: bytes) -> Any:
    """The table in a JSON or CSV file; of the latter a dict a line, each field its words, numbers among them as such."""
    if name.endswith(".json"):
        return atomic.loads(data.decode())
    lines = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [{head: [_number(word) for word in (text or "").split()] for head, text in line.items() if head}
            for line in lines]  # fmt: skip


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _short(value: Any) -> str:
    return repr(value)[:80]


def _first_line(said: bytes, made: bytes) -> str:
    """The first line in which two texts differ."""
    a, b = said.decode(errors="replace").splitlines(), made.decode(errors="replace").splitlines()
    at = next((at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
    one, other = (lines[at].strip()[:80] if at < len(lines) else "nothing" for lines in (a, b))
    return f"line {at + 1} says {one!r}, and it is {other!r}"
