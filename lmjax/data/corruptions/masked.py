"""Masked language modelling: some tokens are hidden, and each is to be told from all the others.

Devlin et al. 2019, "BERT", arXiv:1810.04805, section 3.1 and appendix A.1: of the chosen tokens 80 % become <mask>, 10 %
any token, and 10 % stay what they are. That rows are drawn anew every epoch is RoBERTa's dynamic masking (Liu et al.
2019, arXiv:1907.11692, section 4.1).
"""

from __future__ import annotations

import numpy as np

from lmjax.augment.chance import Chance


def masked(
    ids: np.ndarray, words: np.ndarray, chance: Chance, *, rate: float, hidden: float, random: float, mask: int,
    ordinary: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(n,) corrupted ids and (n,) bool, which of them were chosen: a share `rate` of those that may be, at least one.

    words (n,): which word a token is of, -1 for what may not be chosen; words are chosen whole. ordinary: the ids that
    a chosen token may become by chance, `hidden` and `random` the shares of the chosen that become <mask> and those.
    """
    chosen = _chosen(words, chance, rate)
    at = np.flatnonzero(chosen)
    draw, out = chance.units(len(at)), ids.copy()
    other = ordinary[(chance.units(len(at)) * len(ordinary)).astype(np.int64)]
    out[at] = np.where(draw < hidden, mask, np.where(draw < hidden + random, other, ids[at]))
    return out, chosen


def _chosen(words: np.ndarray, chance: Chance, rate: float) -> np.ndarray:
    """Words in a random order, until their tokens are enough; one that is too long for what is left is passed over."""
    may = np.flatnonzero(words >= 0)
    chosen = np.zeros(len(words), bool)
    if not len(may):
        return chosen
    budget = max(1, min(len(may), chance.round(rate * len(may))))
    numbers, sizes = np.unique(words[may], return_counts=True)
    order = chance.some(len(numbers), len(numbers))
    if (sizes == 1).all():
        chosen[may[order[:budget]]] = True
        return chosen
    taken = []
    for word in order:
        if sizes[word] <= budget or not taken:  # a word longer than all that is allowed is better than none
            taken.append(numbers[word])
            budget -= int(sizes[word])
        if budget <= 0:
            break
    return np.isin(words, taken)
