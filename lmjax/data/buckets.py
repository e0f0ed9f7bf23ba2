"""Batches of examples of about one length, for pairs and evaluation: few shapes, each compiled once, little padding.

An example goes to the narrowest bucket that holds it. An epoch's batches are a pure function of (sizes, widths, batch,
seed, epoch), so batch i is one of (.., i), for any number of hosts and after any resume.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from lmjax.data import packing
from lmjax.errors import UserError

EMPTY = -1  # the index of a row that holds no example


class Buckets:
    """Batches of `batch` examples and one of `widths` columns each; sizes: (n,) tokens, or (n, m) of m sequences.

    Of a pair's two sequences the longer one counts. Every epoch has each example once; a bucket's last batch is filled
    with EMPTY rows, whose weight is to be zero. With seed None the order is that of the lengths, for evaluation.
    UserError for an example longer than the widest bucket, whose number it says.
    """

    def __init__(self, sizes: np.ndarray, widths: Sequence[int], batch: int, seed: int | None):
        sizes = np.asarray(sizes)
        self.sizes = sizes if sizes.ndim == 1 else sizes.max(axis=1)
        self.widths, self.batch, self.seed = tuple(sorted(set(widths))), batch, seed
        if batch < 1 or not self.widths or self.widths[0] < 1:
            raise UserError(f"buckets of widths {tuple(widths)} and batches of {batch}: all must be at least 1")
        if len(self.sizes) == 0:
            raise UserError("there are no examples to put into buckets")
        longest = int(np.argmax(self.sizes))
        if self.sizes[longest] > self.widths[-1]:
            raise UserError(
                f"example {longest} has {self.sizes[longest]} tokens, more than the widest bucket, {self.widths[-1]}: add a "
                "wider one, or leave such examples out"
            )
        self._bucket = np.searchsorted(self.widths, self.sizes)
        held = np.bincount(self._bucket, minlength=len(self.widths))
        self._batches = -(-held // batch)  # of each bucket
        self.epoch_batches = int(self._batches.sum())
        cells = int((self._batches * self.widths).sum()) * batch
        self.efficiency = float(self.sizes.sum() / cells)  # the share of positions of the longer sequence not padding
        self.shapes = {(batch, width): int(n) for width, n in zip(self.widths, self._batches, strict=True) if n}
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def at(self, i: int) -> tuple[int, np.ndarray]:
        """Batch i of the endless stream: its width, and (batch,) int64 of its examples, or EMPTY."""
        epoch, b = divmod(i, self.epoch_batches)
        indices, widths = self._epoch(epoch)
        return int(widths[b]), indices[b]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(batches, batch) examples and (batches,) widths of an epoch."""
        if self.seed is None:
            order = np.argsort(self.sizes, kind="stable")
        else:
            order = packing.permutation(len(self.sizes), f"{self.seed}/buckets", epoch)
        found = []
        for b, count in enumerate(self._batches.tolist()):
            own = order[self._bucket[order] == b]
            padded = np.full(count * self.batch, EMPTY)
            padded[: len(own)] = own
            found.append(padded.reshape(count, self.batch))
        indices, widths = np.concatenate(found), np.repeat(self.widths, self._batches)
        if self.seed is not None:
            mixed = packing.permutation(self.epoch_batches, self.seed, epoch)
            indices, widths = indices[mixed], widths[mixed]
        return indices, widths


def widths_for(sizes: np.ndarray, count: int, multiple: int = 8) -> tuple[int, ...]:
    """At most `count` widths, multiples of `multiple`, so that the examples have the least padding: exactly, by dynamic
    programming over the different lengths (rounded up)."""
    if count < 1 or multiple < 1:
        raise UserError(f"{count} widths in multiples of {multiple}: both must be at least 1")
    sizes = np.asarray(sizes)
    rounded = -(-(sizes if sizes.ndim == 1 else sizes.max(axis=1)) // multiple) * multiple
    different, counts = np.unique(np.maximum(rounded, multiple), return_counts=True)
    held = np.append(0, np.cumsum(counts))  # examples up to each length
    n = len(different)
    best, cuts = different * held[1:], []  # cells of the first j + 1 lengths in one bucket
    for _ in range(min(count, n) - 1):
        # cells when lengths i .. j share a bucket, and what came before was best
        cells = np.append(0, best)[:n, None] + different[None, :] * (held[None, 1:] - held[:n, None])
        cells = np.where(np.arange(n)[:, None] <= np.arange(n)[None, :], cells, np.iinfo(np.int64).max)
        cuts.append(cells.argmin(axis=0))
        best = cells.min(axis=0)
    widths, j = [], n - 1
    for cut in reversed(cuts):
        widths.append(int(different[j]))
        j = int(cut[j]) - 1
        if j < 0:
            return tuple(reversed(widths))
    return tuple(reversed([*widths, int(different[j])]))
