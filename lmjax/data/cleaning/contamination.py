"""Contamination: evaluation documents whose n-grams of words occur in the training text (Brown et al. 2020, GPT-3,
arXiv:2005.14165, appendix C; n-grams of 13 words there).

Memory holds 8 bytes for each n-gram of the evaluation documents; the training text goes by as a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lmjax.data.cleaning.settings import Settings
from lmjax.data.cleaning.words import hashes, ngrams, words
from lmjax.errors import UserError

NAMED = 1000  # documents of the result that are named: enough to find and mend them
BATCH = 1 << 16  # words looked up at a time


class Contamination(NamedTuple):
    """documents: tested; short: of fewer words than n, which cannot be; found: (document's index, share of its n-grams
    in training), the contaminated ones, worst first.
    """

    documents: int
    short: int
    found: list[tuple[int, float]]

    @property
    def share(self) -> float:
        """Of the tested documents that are contaminated."""
        return len(self.found) / self.documents if self.documents else 0.0


class Probe:
    """The n-grams of evaluation documents, and which of them the training texts seen so far hold."""

    def __init__(self, documents: Iterable[str], n: int):
        self.n = n
        grams = [ngrams(hashes(words(document)), n) for document in documents]
        self.counts = np.array([len(some) for some in grams], np.int64)
        every = np.concatenate([np.zeros(0, np.uint64), *grams])
        self.known, self._places = np.unique(every, return_inverse=True)
        self.seen = np.zeros(len(self.known), bool)

    def look(self, texts: Iterable[str]) -> Probe:
        """Marks what training texts hold; returns itself. n-grams do not reach from one text into the next."""
        batch, size = [], 0
        for text in texts:
            batch.append(ngrams(hashes(words(text)), self.n))
            size += len(batch[-1])
            if size >= BATCH:
                self._mark(np.concatenate(batch))
                batch, size = [], 0
        if batch:
            self._mark(np.concatenate(batch))
        return self

    def merge(self, seen: np.ndarray) -> Probe:
        """Adds the `seen` of a probe of the same documents that looked at other texts."""
        self.seen |= seen
        return self

    def result(self, share: float) -> Contamination:
        """The documents of whose n-grams at least that share is in training."""
        hits = np.concatenate([[0], np.cumsum(self.seen[self._places])])
        ends = np.cumsum(self.counts)
        overlap = (hits[ends] - hits[ends - self.counts]) / np.maximum(self.counts, 1)
        wrong = np.flatnonzero((self.counts > 0) & (overlap > 0) & (overlap >= share))
        worst = wrong[np.argsort(-overlap[wrong], kind="stable")]
        tested = int(np.count_nonzero(self.counts))
        return Contamination(tested, len(self.counts) - tested, [(int(i), float(overlap[i])) for i in worst])

    def _mark(self, grams: np.ndarray) -> None:
        if len(self.known):
            at = np.minimum(np.searchsorted(self.known, grams), len(self.known) - 1)
            self.seen[at[self.known[at] == grams]] = True


def check(result: Contamination, chosen: Settings, names: dict[int, str] | None = None) -> dict:
    """What a manifest says of the result; UserError when more documents are contaminated than the limit allows."""
    named = [f"{(names or {}).get(i, f'document {i}')} ({share:.0%})" for i, share in result.found[:NAMED]]
    if result.share > chosen.contamination_limit:
        raise UserError(
            f"{len(result.found)} of {result.documents} validation documents ({result.share:.1%}) are in the training "
            f"text: at least {chosen.contamination_share:.0%} of their {chosen.contamination}-grams of words occur "
            f"there; data.clean.contamination_limit={chosen.contamination_limit:g} allows no more. The worst: "
            f"{', '.join(named[:5])}. "
            + ("Copies go with data.clean.near_duplicates=0.8." if chosen.near_duplicates is None else "")
        )
    return {
        "n": chosen.contamination,
        "documents": result.documents,
        "short": result.short,
        "contaminated": len(result.found),
        "worst": named,
    }
