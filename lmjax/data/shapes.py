"""Records of more than texts: lists of words and choices, numbers, places in a text; as users write them, and as kept.

    tags               words, tags               two lists of equal length; of a table white space parts their items
    numbers            text, value               a number
    spans              question, context, answer, start     the answer and the character of the context that it begins at;
                                                 "" and 0 where the context has none
    choices            question, choices, label  a list, and which of it is right, from 0 on
    image_text_labels  image, text, label        an image, a text about it, and a label of both

A kept record is strings alone: the items of a list with MARK between them, numbers as they are written.
"""

from __future__ import annotations

import math
import re
from typing import Any

from lmjax.data import text
from lmjax.data.records import KINDS, Record

MARK = "\x1f"  # Unicode's separator of units, between the items of a list
LISTS, NUMBERS = ("words", "tags", "choices"), ("value", "start")
SIGN = "[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]"  # beside which there is no space
TOUCHING, NO_SPACE = re.compile(f"(?<={SIGN}){MARK}(?={SIGN})"), "\x1e"

Wrong = tuple[str, str]  # (reason, detail) why something is no record


def kept(field: str, value: Any) -> Any:
    """The value of a field as a record has it: lists and numbers as strings, where they are what the field holds."""
    if field in LISTS and isinstance(value, str):
        return MARK.join(value.split()) if field != "choices" else [value]  # in a .csv or .tsv white space parts words
    if field in LISTS and isinstance(value, (list, tuple)):
        items = [str(item) if type(item) is int else item for item in value]
        texts = {type(item) for item in items} <= {str}
        joined = MARK.join(items) if texts else ""
        return joined if texts and NO_SPACE not in joined and joined.count(MARK) == max(0, len(items) - 1) else value
    if field == "label" and isinstance(value, int):
        return str(value)
    if isinstance(value, bool):
        return value
    if field == "start" and isinstance(value, int):
        return str(value)
    return repr(float(value)) if field == "value" and isinstance(value, (int, float)) else value


def wrong(field: str, value: Any, name: str, kind: str) -> Wrong | None:
    """Why a kept value is none of its field; None when it is one. name: what the user calls it; empty texts are counted
    elsewhere where the kind is text."""
    if field in LISTS and not isinstance(value, str):
        return "not a list", f"{name} is {value!r:.60}: it must be a list of strings, as .jsonl and .parquet have them"
    if field in NUMBERS and not isinstance(value, str):
        return "not a number", f"{name} is {value!r:.60}: it must be a number"
    if found := text.not_text(value, name):
        return found
    if not value.strip() and kind != "text" and field != "answer":
        return "empty field", f"{name} is empty here"
    if field in LISTS and not all(map(str.strip, value.split(MARK))):
        return "empty field", f"an item of {name} is empty here"
    return None


def record(kind: str, made: Any) -> Record | Wrong:
    """A dict with the fields of the kind, as it is kept, or why it is none."""
    if not isinstance(made, dict) or set(made) != set(KINDS[kind]):
        return "not such a record", f"it is {made!r:.80}; a record of data.kind={kind} has {', '.join(KINDS[kind])}"
    values = {field: kept(field, made[field]) for field in KINDS[kind]}
    texts = {field: value for field, value in values.items() if field != "image"}
    if found := next(filter(None, (wrong(field, value, field, kind) for field, value in texts.items())), None):
        return found
    return misfit(kind, values) or values


def misfit(kind: str, record: Record) -> Wrong | None:
    """Why fields that are right on their own make no record together; None when they do."""
    return CHECKS[kind](record) if kind in CHECKS else None


def items(value: str) -> list[str]:
    """Those of a kept list."""
    return value.split(MARK)


def spoken(words: str) -> list[str]:
    """The words of a kept list, which joined are the text: each but the first with a space before it, but for Chinese and
    Japanese signs next to each other."""
    return TOUCHING.sub(NO_SPACE, words).replace(MARK, f"{NO_SPACE} ").split(NO_SPACE)


def _tags(record: Record) -> Wrong | None:
    words, tags = (len(items(record[name])) for name in ("words", "tags"))
    return None if words == tags else ("lists of two lengths", f"{words} words and {tags} tags: each word has one")


def _number(record: Record) -> Wrong | None:
    try:
        number = float(record["value"])
    except ValueError:
        number = math.nan
    return None if math.isfinite(number) else ("not a number", f"the value is {record['value']!r:.60}")


def _answer(record: Record) -> Wrong | None:
    answer, start = record["answer"], record["start"]
    if not (start.isascii() and start.isdigit()):
        return "not a number", f"start is {start!r:.60}: the character of the context that the answer begins at, from 0"
    found = record["context"][int(start) : int(start) + len(answer)]
    if found == answer:
        return None
    return "answer not there", f"the context has {found!r:.60} at {start}, and the answer is {answer!r:.60}"


def _choices(record: Record) -> Wrong | None:
    label, count = record["label"], len(items(record["choices"]))
    if label.isascii() and label.isdigit() and int(label) < count:
        return None
    return "no such choice", f"label is {label!r:.60}: the number of one of the {count} choices, from 0 to {count - 1}"


CHECKS = {"tags": _tags, "numbers": _number, "spans": _answer, "choices": _choices}
