"""The special tokens around a text of a record that has a row of its own: `<doc> text`, or BERT's `<cls> text <sep>`.

Shards hold `<doc> text` and `<doc> question <sep> context` whatever data.marks is; it decides about rows alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from lmjax.errors import UserError, unknown

if TYPE_CHECKING:
    from lmjax.data.shards import Documents

MARKS = ("doc", "cls")
SPECIAL = ("cls", "sep")  # tokens that cls needs
KINDS = ("labels", "tags", "numbers", "spans", "choices", "image_text_labels")


def bert(data: Any, kind: str) -> bool:
    """Whether rows are `<cls> text <sep>`. UserError for a value of data.marks that is none, or not for the kind."""
    marks = getattr(data, "marks", "doc")  # configs from before there were any have no such leaf
    if marks not in MARKS:
        raise unknown("value of data.marks", marks, MARKS)
    if marks == "doc":
        return False
    if kind not in KINDS:
        raise UserError(
            f"data.marks={marks} is for records with a row of their own ({', '.join(KINDS)}), not data.kind={kind}"
        )
    if names := getattr(getattr(data, "augment", None), "text", ()):
        raise UserError(f"data.marks={marks} puts an end to texts that data.augment.text={','.join(names)} changes: leave "
                        "one out")  # fmt: skip
    return True


def marked(documents: Documents, cls: int, sep: int) -> Documents:
    """Documents whose <doc> is <cls>, with <sep> behind the last id, also where only the first ids are read."""

    def read(i: int, start: int, stop: int) -> np.ndarray:
        size = int(documents.lengths[i])
        ids = np.append(documents.read(i, 0, size), sep)
        ids[0] = cls
        if 0 < stop <= size:
            ids[stop - 1] = sep
        return ids[start:stop]

    beside = documents.tail and (lambda i: np.append(documents.tail(i), np.zeros(1, np.int64)))
    return dataclasses.replace(documents, lengths=documents.lengths + 1, read=read, tail=beside)
