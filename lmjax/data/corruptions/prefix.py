"""A prefix that is seen from both sides, and the rest of the text, which is written.

Dong et al. 2019, arXiv:1905.03197; Raffel et al. 2020, arXiv:1910.10683, section 3.2.1.
"""

from __future__ import annotations

import numpy as np

from lmjax.augment.chance import Chance


def prefixed(segments: np.ndarray, chance: Chance) -> np.ndarray:
    """(n,) int32: 1 for the tokens of each segment's prefix, whose length is any from 1 to the whole segment."""
    prefix = np.zeros(len(segments), np.int32)
    for number in range(1, int(segments.max(initial=0)) + 1):
        here = np.flatnonzero(segments == number)
        prefix[here[: 1 + chance.below(len(here))]] = 1
    return prefix


def predicted(segments: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    """(n,) bool: the positions whose next token is not of the prefix; the last of each segment always is one."""
    following = np.append((prefix[1:] == 1) & (segments[1:] == segments[:-1]), False)
    return (segments > 0) & ~following
