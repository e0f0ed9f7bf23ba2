"""What sources yield: records, plain dicts whose fields follow from `data.kind`, and what could not be one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lmjax.errors import UserError, unknown

Record = dict[str, Any]

# The fields of a record. text, source, target, label, caption: str; image: the bytes of a PNG or JPEG file;
# audio: float32 (n,), mono, with its rate in Hz. What words, tags, choices, value and start are: shapes.py.
KINDS = {
    "text": ("text",),
    "pairs": ("source", "target"),
    "labels": ("text", "label"),
    "images": ("image", "caption"),
    "image_labels": ("image", "label"),
    "image_text_labels": ("image", "text", "label"),
    "tags": ("words", "tags"),
    "numbers": ("text", "value"),
    "spans": ("question", "context", "answer", "start"),
    "choices": ("question", "choices", "label"),
    "speech": ("audio", "rate", "text"),
}


class Piece(NamedTuple):
    """A part of one file that is read on its own: bytes of a text, rows of a table, or all of it. stop -1: to the end."""

    file: str  # the name in the source
    start: int = 0
    stop: int = -1

    @property
    def name(self) -> str:
        return f"{self.file}@{self.start}"


class BadRecord(NamedTuple):
    """In place of a record that cannot be read: where it is, and a short reason to count it by ("invalid UTF-8")."""

    where: str
    reason: str
    detail: str = ""


def fields(kind: str, columns: Sequence[str] | None = None) -> dict[str, str]:
    """Each field of the kind -> the user's name for it: `columns` in the order of the fields, or the fields' own names."""
    if kind not in KINDS:
        raise unknown("value of data.kind", kind, KINDS)
    own = tuple(name for name in KINDS[kind] if name != "rate")
    if not columns:
        return {name: name for name in own}
    if len(columns) != len(own):
        raise UserError(f"data.columns={tuple(columns)}: data.kind={kind} needs {len(own)}, for {', '.join(own)}")
    return dict(zip(own, columns, strict=True))
