"""From config.data to batches: batch i is a pure function of (fingerprint, seed, i), for any number of hosts."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmjax.data import build, packing, shards, sources, store, tokenizers
from lmjax.environment import cache_root
from lmjax.errors import UserError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Tokenized, packed text: the training stream and the validation split."""

    train: packing.Rows
    valid: packing.OrderedRows
    tokenizer: tokenizers.Bytes | tokenizers.HuggingFace
    fingerprint: str  # of the token ids of both splits and of the tokenizer
    stats: dict  # the manifest of the prepared data: counts, source, licence, citation

    def train_batch(self, i: int, batch: int, rows: slice | Sequence[int] = slice(None)) -> packing.Row:
        """Rows i * batch + rows of the training stream, a dict of (b, t) arrays; rows: those of the batch to make."""
        return packing.batch(self.train, i * batch + np.arange(batch)[rows])

    def valid_batch(self, i: int, batch: int, rows: slice | Sequence[int] = slice(None)) -> packing.Row:
        """Likewise of the validation split; rows past its end are padding."""
        return packing.batch(self.valid, i * batch + np.arange(batch)[rows])

    def valid_batches(self, batch: int) -> int:
        """Batches that hold the whole validation split."""
        return -(-len(self.valid) // batch)


def open_dataset(data: Any, seed: int, say: Callable[[str], None] = LOG.info, *, workers: int | None = None) -> Dataset:
    """The dataset of config.data, prepared now or found in the cache. say is told what takes long;
    workers: processes that prepare it, none for as many as there are cores.

    UserError for whatever is wrong with the text, the packages, the tokenizer or the cache.
    """
    _check(data)
    source = sources.open_source(data.source, columns=data.columns)
    folder, stats = store.sealed(
        cache_root() / "data",
        shards.parts(source, data),
        functools.partial(build.build, source=source, data=data, say=say, workers=workers),
        say,
    )
    stats["source"] = {"name": source.name, **source.about}  # the same bytes may have been prepared from another place
    tokenizer = tokenizers.load(folder / "tokenizer")
    train, valid = (shards.load(folder, stats[name], name, tokenizer.vocab_size) for name in shards.SPLITS)
    if stats["train"]["tokens"] <= data.length:
        raise UserError(
            f"data.source={data.source} has {stats['train']['tokens']} tokens to train on, less than one row of "
            f"data.length={data.length} and the token after it: add text"
            + (f", raise data.limit={data.limit}" if stats["read"]["limited"] else "")
            + " or set a smaller data.length"
        )
    return Dataset(
        packing.Rows(train, data.length, seed, tokenizer.token_bytes),
        packing.OrderedRows(valid, data.length, tokenizer.doc, tokenizer.token_bytes),
        tokenizer,
        stats["fingerprint"],
        stats,
    )


def _check(data: Any) -> None:
    if data.length < 1:
        raise UserError(f"data.length={data.length}: a row has at least one token")
    if not (math.isfinite(data.valid_fraction) and 0 < data.valid_fraction < 1):
        raise UserError(f"data.valid_fraction={data.valid_fraction}: must be between 0 and 1, such as 0.05")
    if data.limit is not None and data.limit < 1:
        raise UserError(f"data.limit={data.limit}: bytes of text to read at most; none reads all")
