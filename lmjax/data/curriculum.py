"""From easy to hard: the order of an epoch's documents by a score, and segments that grow in the course of training.

Bengio et al. 2009, "Curriculum Learning" (ICML), section 4; the order is a pure function of (scores, seed, epoch), so a
resumed run and any number of hosts see the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data import packing
from lmjax.data.shards import Documents
from lmjax.errors import UserError, nearest
from lmjax.parts import pick


@dataclass(frozen=True)
class Curriculum:
    """scores (n,), the lower the earlier, of a split's documents; the first `epochs` epochs go by them, then chance.

    noise: how far chance moves a document, as a share of all of them: 0 sorts strictly, 1 is nearly a shuffle.
    """

    scores: np.ndarray
    epochs: int = 1
    noise: float = 0.1

    def rules(self, epoch: int) -> bool:
        """Whether the scores decide the order of this epoch."""
        return epoch < self.epochs

    def order(self, scores: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """(n,) int64: what has these scores, from low to high, each moved by noise; equal scores in any order."""
        count = len(scores)
        chance = packing.permutation(count, f"{seed}/curriculum", epoch)
        ranks = np.empty(count)
        ranks[chance[np.argsort(scores[chance], kind="stable")]] = np.arange(count)
        moved = np.empty(count)
        moved[packing.permutation(count, f"{seed}/noise", epoch)] = np.arange(count)
        return np.argsort(ranks + self.noise * moved, kind="stable")


class Growing:
    """Rows whose segments are cut to a length that grows from `start` tokens at row 0 to all of them at row `rows`.

    Every token keeps its place and its target, and sees fewer before it, so that shapes stay the same: the sequence
    length warm-up of Li et al. 2022, arXiv:2108.06084, without its truncation. Lengths are multiples of `start`.
    """

    def __init__(self, stream: packing.Stream, start: int, rows: int):
        self.stream, self.start, self.rows = stream, start, rows
        self.length, self.tokens, self.epoch_rows = stream.length, stream.tokens, stream.epoch_rows
        self.documents, self.efficiency, self.end = stream.documents, stream.efficiency, stream.end

    def most(self, k: int) -> int:
        """Tokens that a segment of row k has at most."""
        if k >= self.rows:
            return self.length
        grown = self.start + (self.length - self.start) * k // self.rows
        return grown // self.start * self.start

    def row(self, k: int) -> packing.Row:
        """Row k, a pure function of the stream's."""
        row, most = dict(self.stream.row(k)), self.most(k)
        real = row["segments"] > 0
        positions = row["positions"] % most
        begins = real & (positions == 0)
        return row | {"segments": (np.cumsum(begins) * real).astype(np.int32), "positions": positions * real}


def by_length(documents: Documents) -> np.ndarray:
    """Tokens of each document: short ones first."""
    return documents.lengths.astype(float)


def by_rarity(documents: Documents) -> np.ndarray:
    """Mean surprisal, in millinats, of each document's tokens under their own frequencies: common words first.

    Platanios et al. 2019, arXiv:1903.09848, section 2.1, divided by the length. Reads the documents twice.
    """

    def read(i: int) -> np.ndarray:
        return documents.read(i, 0, int(documents.lengths[i]))

    counts = np.zeros(1, np.int64)
    for i in range(len(documents.lengths)):
        found = np.bincount(read(i))
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    total = int(counts.sum())
    surprisal = np.array([round(1000 * math.log(total / n)) if n else 0 for n in counts.tolist()], np.int64)
    return np.array([surprisal[read(i)].sum() // n for i, n in enumerate(documents.lengths.tolist())], float)


SCORES = {"length": by_length, "rarity": by_rarity}


def make(section: Any, documents: Documents) -> Curriculum | None:
    """The curriculum of config.data.curriculum for a split's documents; None where `by` is none.

    `by`: a name in SCORES, a .npy file of one score a document, or anyone's "package.module:function" of Documents.
    UserError for what cannot be a score, an epoch or a noise.
    """
    if section.by == "none":
        return None
    where = f"data.curriculum.by={section.by}"
    if section.epochs < 1:
        raise UserError(
            f"data.curriculum.epochs={section.epochs}: at least 1; data.curriculum.by=none has no curriculum"
        )
    if not section.noise >= 0:
        raise UserError(f"data.curriculum.noise={section.noise}: at least 0, which sorts strictly")
    if section.by.endswith(".npy"):
        scores = _read(where, Path(section.by).expanduser())
    else:
        if ":" not in section.by and section.by not in SCORES and nearest(section.by, ["none"]):
            raise UserError(f"{where}: did you mean 'none'? Legal: none, {', '.join(SCORES)}, a .npy file")
        function: Callable = pick("value of data.curriculum.by", section.by, SCORES)
        scores = np.asarray(function(documents))
    count = len(documents.lengths)
    if scores.shape != (count,) or scores.dtype.kind not in "iuf":
        raise UserError(
            f"{where} gives scores of shape {scores.shape} and type {scores.dtype}; there are {count} documents to "
            "train on, and each has one number"
        )
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"{where}: the score of document {bad} is {scores[bad]}; all must be finite")
    return Curriculum(scores.astype(float), section.epochs, section.noise)


def grow(stream: packing.Stream, section: Any) -> packing.Stream:
    """The stream with segments that grow as config.data.curriculum says, or as it is."""
    start, rows = section.start_length, section.grow_rows
    if start is None and rows is None:
        return stream
    if start is None or rows is None:
        raise UserError(
            "data.curriculum.start_length (tokens) and data.curriculum.grow_rows (rows) go together: set both"
        )
    if not 1 <= start <= stream.length:
        raise UserError(f"data.curriculum.start_length={start}: from 1 to data.length={stream.length} tokens")
    if rows < 1:
        raise UserError(f"data.curriculum.grow_rows={rows}: at least 1 row; none for no growth")
    return Growing(stream, start, rows)


def _read(where: str, path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{where}: {path} cannot be read as an array of scores ({error})") from None
