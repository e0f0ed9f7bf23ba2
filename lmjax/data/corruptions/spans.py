"""Span corruption: runs of tokens give way to sentinels, and the target is what stood there.

Raffel et al. 2020, "T5", arXiv:1910.10683, section 3.1.4: spans of random lengths, a share `rate` of the tokens, of
`span` tokens on average, each replaced by a sentinel of its own.
"""

from __future__ import annotations

import numpy as np

from lmjax.augment.chance import Chance
from lmjax.errors import UserError


def counts(n: int, rate: float, span: float) -> tuple[int, int]:
    """(tokens that are hidden, spans) of n tokens, at least one each; (0, 0) where n < 2."""
    if n < 2:
        return 0, 0
    hidden = min(max(round(n * rate), 1), n - 1)
    return hidden, max(1, min(round(hidden / span), hidden, n - hidden))


def lengths(n: int, rate: float, span: float) -> tuple[int, int]:
    """(tokens of the source, of the target) that n tokens become, each with its end."""
    hidden, spans = counts(n, rate, span)
    return n - hidden + spans + 1, hidden + spans + 1


def raw_length(source: int, target: int, rate: float, span: float) -> int:
    """The most tokens whose source and target fit. UserError where hardly any does."""
    n = 1
    while all(needed <= room for needed, room in zip(lengths(n + 1, rate, span), (source, target), strict=True)):
        n += 1
    if n < 2:
        raise UserError(f"data.source_length={source} and data.length={target} have no room for a span; try 64 and 32")
    return n


def most(n: int, rate: float, span: float) -> int:
    """Sentinels that texts of up to n tokens need."""
    return max(counts(size, rate, span)[1] for size in range(max(1, n - 2), n + 1))


def mask(n: int, chance: Chance, *, rate: float, span: float) -> np.ndarray:
    """(n,) int32: the number of the span that a token is in, from 1; 0: it stays. The first token does.

    Lengths of the spans, and of what is between them, are drawn like balls into boxes of which none is empty, and the
    text ends with a span.
    """
    hidden, spans = counts(n, rate, span)
    if not spans:
        return np.zeros(n, np.int32)
    parts = np.stack([_parts(n - hidden, spans, chance), _parts(hidden, spans, chance)], 1).reshape(-1)
    numbers = np.stack([np.zeros(spans, np.int32), np.arange(1, spans + 1, dtype=np.int32)], 1).reshape(-1)
    return np.repeat(numbers, parts)


def corrupt(ids: np.ndarray, span_of: np.ndarray, sentinels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of ids (n,), with span_of (n,) as `mask` gives it: each span gives way to its sentinel in the
    source; the target has each sentinel and then the span. `restored` is the inverse."""
    first = (span_of > 0) & np.diff(span_of, prepend=0).astype(bool)  # of each span
    source = np.where(first, sentinels[span_of - 1], ids)[(span_of == 0) | first]
    starts, hidden = np.flatnonzero(first), span_of > 0
    target = np.insert(ids[hidden], np.cumsum(hidden)[starts] - 1, sentinels[span_of[starts] - 1])
    return source, target


def restored(source: np.ndarray, target: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The ids that `corrupt` made source and target of."""
    pieces = dict(zip(target[np.isin(target, sentinels)].tolist(), _after(target, sentinels), strict=True))
    out = [pieces.get(i, np.array([i])) for i in source.tolist()]
    return np.concatenate(out) if out else source


def _after(target: np.ndarray, sentinels: np.ndarray) -> list[np.ndarray]:
    return [part[1:] for part in np.split(target, np.flatnonzero(np.isin(target, sentinels)))[1:]]


def _parts(n: int, count: int, chance: Chance) -> np.ndarray:
    """(count,) positive whole numbers whose sum is n; all such are equally probable."""
    cuts = np.sort(np.array(chance.some(n - 1, count - 1), np.int64)) + 1
    return np.diff(np.concatenate([[0], cuts, [n]]))
