"""Rows of tags, numbers, spans, choices, and images with texts and labels: one record each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lmjax.data.examples import SEP, Form
from lmjax.data.packing import Row
from lmjax.data.shards import Documents


def maker(form: Form, length: int, documents: Documents, tokenizer: Any) -> Callable[[int], Row]:
    """What makes the row of a record, by its number."""
    if form.kind == "choices":
        return functools.partial(_choices, documents, length, tokenizer.special(SEP))
    more = {"tags": _tags, "numbers": _number, "image_text_labels": _labelled}
    if form.kind == "spans":
        return functools.partial(_made, documents, length, functools.partial(_span, tokenizer.special(SEP)))
    return functools.partial(_made, documents, length, more[form.kind])


def _made(documents: Documents, length: int, more: Callable[[Documents, int, np.ndarray, Row], Row], i: int) -> Row:
    ids = documents.read(i, 0, min(length, int(documents.lengths[i])))
    row = words(ids, length)
    return row | more(documents, i, ids, row)


def words(ids: np.ndarray, length: int) -> Row:
    """Tokens, segments and positions of one text; more ids than a row has are cut off."""
    row = {name: np.zeros(length, np.int32) for name in ("tokens", "segments", "positions")}
    n = min(len(ids), length)
    row["tokens"][:n], row["segments"][:n], row["positions"][:n] = ids[:n], 1, np.arange(n)
    return row


def _tags(documents: Documents, i: int, ids: np.ndarray, row: Row) -> Row:
    """The number of the tag of each word, at its first token, and weights of 1 there."""
    beside, counted = np.zeros(len(row["tokens"]), np.int32), np.zeros(len(row["tokens"]), np.float32)
    beside[: len(ids)] = documents.tail(i)[: len(ids)]
    counted[beside > 0] = 1
    return {"tags": np.maximum(beside - 1, 0), "weights": counted}


def _number(documents: Documents, i: int, ids: np.ndarray, row: Row) -> Row:
    return {"value": np.float32(documents.head(i)["value"]), "weights": np.float32(1)}


def _span(sep: int, documents: Documents, i: int, ids: np.ndarray, row: Row) -> Row:
    head, types = documents.head(i), np.zeros(len(row["tokens"]), np.int32)
    types[int(np.argmax(ids[1:] == sep)) + 2 : len(ids)] = 1
    return {"start": np.int32(head["start"]), "end": np.int32(head["end"]), "types": types, "weights": np.float32(1)}


def _labelled(documents: Documents, i: int, ids: np.ndarray, row: Row) -> Row:
    head = documents.head(i)
    return {"image": head["image"], "label": np.int32(head["label"]), "weights": np.float32(1)}


def _choices(documents: Documents, length: int, sep: int, i: int) -> Row:
    """`<doc> question <sep> choice` of each choice; a question that leaves no room for the longest is cut at its end."""
    ids = documents.read(i, 0, int(documents.lengths[i]))
    end = ids[-1:] if ids[-1] == sep else ids[:0]  # of data.marks=cls
    question, *choices = np.split(ids[: len(ids) - len(end)], np.flatnonzero(ids[1 : len(ids) - len(end)] == sep) + 1)
    choices = [np.concatenate([choice, end]) for choice in choices]
    asked, rows = question[: max(1, length - max(map(len, choices)))], []
    for choice in choices:
        row = words(np.concatenate([asked, choice]), length)
        types = np.zeros(length, np.int32)
        types[len(asked) + 1 : len(asked) + len(choice)] = 1
        rows.append(row | {"types": types})
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return stacked | {"label": np.int32(documents.head(i)["label"]), "weights": np.float32(1)}
