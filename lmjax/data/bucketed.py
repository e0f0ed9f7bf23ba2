"""Batches of records of about one length, cut to it (data.buckets): few shapes, each compiled once, little padding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmjax.data import kinds, packing, record_rows
from lmjax.data.buckets import EMPTY, Buckets, widths_for
from lmjax.data.examples import SEP, Form
from lmjax.data.shards import Documents
from lmjax.errors import UserError

KINDS = ("pairs", "labels", "images")  # one record a row


class Bucketed:
    """A split, a record a row, in batches of one of `widths` tokens; seed None: in order of length, for evaluation."""

    def __init__(self, documents: Documents, make: Callable[[int], packing.Row], data: Any, widths: Sequence[int],
                 seed: int | None):  # fmt: skip
        self.widths, self._make = tuple(widths), make
        self.sizes = np.minimum(documents.lengths, data.length)
        self._fields = kinds.fields(data)
        self.buckets = functools.cache(lambda batch: Buckets(self.sizes, self.widths, batch, seed))

    def batch(self, i: int, batch: int, rows: slice | Sequence[int]) -> packing.Row:
        """Rows `rows` of batch i, stacked, of its width; those that only fill up a bucket's last batch are zeros."""
        width, numbers = self.buckets(batch).at(i)
        found = [self._empty() if k == EMPTY else self._make(int(k)) for k in numbers[rows]]
        stacked = {name: np.stack([row[name] for row in found]) for name in self._fields}
        return {name: x[:, :width] if self._fields[name].letters == "bt" else x for name, x in stacked.items()}

    def batches(self, batch: int) -> int:
        """Batches of an epoch."""
        return self.buckets(batch).epoch_batches

    def _empty(self) -> packing.Row:
        return {name: np.zeros(field.shape, field.dtype)[()] for name, field in self._fields.items()}


def bucketed(form: Form, data: Any, train: Documents, valid: Documents, seed: int, tokenizer: Any,
             say: Callable[[str], None]) -> tuple[Bucketed, Bucketed] | None:  # fmt: skip
    """Both splits in the buckets that data.buckets asks for, or None; of the widths that leave the least padding."""
    count = getattr(data, "buckets", None)
    if count is None:
        return None
    _check(form, data, count)
    sizes = np.minimum(np.concatenate([train.lengths, valid.lengths]), data.length)
    widths = tuple(min(width, data.length) for width in widths_for(sizes, count))
    splits = []
    for documents, order in ((train, seed), (valid, None)):
        splits.append(Bucketed(documents, _maker(form, data, documents, tokenizer), data, widths, order))
    whole, padded = int(splits[0].sizes.sum()), len(train.lengths) * data.length
    efficiency = splits[0].buckets(1).efficiency
    say(
        f"buckets of {', '.join(map(str, widths))} tokens: {efficiency:.1%} of positions are tokens, {whole / padded:.1%} without"
    )
    return tuple(splits)


def _maker(form: Form, data: Any, documents: Documents, tokenizer: Any) -> Callable[[int], packing.Row]:
    if form.kind == "pairs":
        rows = record_rows.single(documents, data.length, tokenizer.doc, tokenizer.token_bytes)
        return record_rows.Targets(rows, tokenizer.special(SEP)).row
    return record_rows.maker(form, data.length, documents, tokenizer)


def _check(form: Form, data: Any, count: int) -> None:
    if count < 1:
        raise UserError(f"data.buckets={count}: at least 1 width, or none for rows of data.length")
    if form.kind not in KINDS:
        raise UserError(
            f"data.buckets={count}: for records of one text a row ({', '.join(KINDS)}), not data.kind={form.kind}"
        )
    if getattr(data, "packing", "concat") != "none":
        raise UserError(
            f"data.buckets={count}: it is for data.packing=none, and that is {data.packing}, which leaves hardly any padding"
        )
    for leaf, used in (("mixture.sources", bool(data.mixture.sources)), ("curriculum.by", data.curriculum.by != "none"),
                       ("augment.text", bool(data.augment.text))):  # fmt: skip
        if used:
            raise UserError(
                f"data.buckets={count} and data.{leaf} both decide which rows are in a batch: leave one out"
            )
