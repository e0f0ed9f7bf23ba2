"""Retrieval: at which rank the one that belongs to a query stands among all candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmjax.evaluate import intervals
from lmjax.evaluate.intervals import Estimate

AT = (1, 5, 10)


def ranks(similarity_nm: np.ndarray, belongs_n: np.ndarray | None = None) -> np.ndarray:
    """The rank (n,), from 1, of candidate `belongs_n` of each query, by falling similarity; query i's own is i.

    Of equal similarities it is the last, so that a model that tells nothing apart finds nothing.
    """
    similarity_nm = np.asarray(similarity_nm)
    belongs_n = np.arange(len(similarity_nm)) if belongs_n is None else np.asarray(belongs_n)
    own_n1 = np.take_along_axis(similarity_nm, belongs_n[:, None], axis=1)
    return (similarity_nm >= own_n1).sum(axis=1)


def retrieval(ranks_n: np.ndarray, at: Sequence[int] = AT) -> dict[str, Estimate]:
    """`recall@k` for each k and the mean reciprocal rank `mrr` (Voorhees 1999, TREC-8)."""
    ranks_n = np.asarray(ranks_n)
    found = {f"recall@{k}": intervals.share(ranks_n <= k) for k in at}
    return {**found, "mrr": intervals.mean(1 / ranks_n, least=0, most=1)}
