"""Rules that look at one record: first those that change its text, then those that remove it, in the order of LOCAL."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from lmjax.data.cleaning import markup, pii, quality, scripts
from lmjax.data.cleaning.settings import Settings
from lmjax.data.cleaning.words import WORD
from lmjax.data.records import Record

LOCAL = (
    "missing",
    "unicode",
    "html",
    "boilerplate",
    "pii",
    "min_chars",
    "max_chars",
    "min_words",
    "max_words",
    "symbols",
    "repetition",
    "scripts",
)
TEXTS = ("text", "source", "target", "caption")  # the fields of records that are text; a label is not


class Cleaned(NamedTuple):
    """What came of a record: itself, changed or not, or None and the rule that removed it; changes by rule."""

    record: Record | None
    removed_by: str | None
    changed: dict[str, int]


def clean_record(record: Record, chosen: Settings) -> Cleaned:
    """The record after the rules that need no other record. A record with several texts goes when one of them must."""
    fields = [name for name in TEXTS if name in record]
    told = [value for name, value in record.items() if name != "answer"]  # which may be that there is none
    if any(value is None or (isinstance(value, str) and not value) for value in told):
        return Cleaned(None, "missing", {})
    changed: dict[str, int] = {}
    texts = {name: _changed(record[name], chosen, changed) for name in fields}
    if changed:
        record = {**record, **texts}
    if changed and not all(text.strip() for text in texts.values()):
        return Cleaned(None, "missing", changed)
    for text in texts.values():
        if rule := _removed_by(text, chosen):
            return Cleaned(None, rule, changed)
    return Cleaned(record, None, changed)


def _changed(text: str, chosen: Settings, changed: dict[str, int]) -> str:
    def count(rule: str, times: int = 1) -> None:
        changed[rule] = changed.get(rule, 0) + times

    if chosen.unicode != "none":
        form = chosen.unicode.upper()
        if not unicodedata.is_normalized(form, text):
            text = unicodedata.normalize(form, text)
            count("unicode")
    if chosen.html and (seen := markup.strip_html(text)) != text:
        text = seen
        count("html")
    if chosen.boilerplate:
        text, lines = markup.strip_frame(text)
        if lines:
            count("boilerplate", lines)
    if chosen.pii:
        text, found = pii.mask(text)
        for name, times in found.items():
            count(f"pii {name}", times)
    return text


def _removed_by(text: str, chosen: Settings) -> str | None:
    if chosen.min_chars is not None and len(text) < chosen.min_chars:
        return "min_chars"
    if chosen.max_chars is not None and len(text) > chosen.max_chars:
        return "max_chars"
    if chosen.min_words is not None or chosen.max_words is not None:
        words = len(WORD.findall(text))
        if chosen.min_words is not None and words < chosen.min_words:
            return "min_words"
        if chosen.max_words is not None and words > chosen.max_words:
            return "max_words"
    if chosen.symbols is not None and quality.symbols(text) > chosen.symbols:
        return "symbols"
    if chosen.repetition and quality.repetitive(text):
        return "repetition"
    if chosen.scripts and scripts.share(text, chosen.scripts) < chosen.script_share:
        return "scripts"
    return None
