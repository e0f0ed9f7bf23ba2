"""Fill in the middle: a text is cut in three, and its middle is moved to the end, where a causal model writes it.

Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 4.3, on tokens: `<prefix> p <suffix> s <middle> m` (PSM), or with
the suffix first, `<prefix> <suffix> s <middle> p m` (SPM, its variant 2), so that p and m are one text.
"""

from __future__ import annotations

import numpy as np

from lmjax.augment.chance import Chance

MARKS = ("prefix", "suffix", "middle")  # special tokens


def rearranged(ids: np.ndarray, chance: Chance, *, suffix_first: float, marks: np.ndarray) -> np.ndarray:
    """(n + 3,) ids of a text of n, cut in two places, any of them; marks (3,): the ids of MARKS."""
    first, second = sorted((chance.below(len(ids) + 1), chance.below(len(ids) + 1)))
    prefix, middle, suffix = ids[:first], ids[first:second], ids[second:]
    if chance.units(1)[0] < suffix_first:
        return np.concatenate([marks[:2], suffix, marks[2:], prefix, middle])
    return np.concatenate([marks[:1], prefix, marks[1:2], suffix, marks[2:], middle])


def restored(ids: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The text that `rearranged` was given."""
    _, suffix, middle = (int(np.flatnonzero(ids == mark)[0]) for mark in marks)
    return np.concatenate([ids[1:suffix], ids[middle + 1 :], ids[suffix + 1 : middle]])
