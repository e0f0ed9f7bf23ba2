"""Two texts in a row, of which a model tells how they belong together: `<cls> A <sep> B <sep>`.

Next sentence prediction: whether B is what comes after A, or of another text (Devlin et al. 2019, arXiv:1810.04805,
section 3.1). Sentence order: whether A and B are in their order (Lan et al. 2020, "ALBERT", arXiv:1909.11942, 3.1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lmjax.augment.chance import Chance

CLASSES = {"next": ("next", "other"), "order": ("in order", "swapped")}  # names of the labels 0 and 1


def parted(ids: np.ndarray, starts: np.ndarray, chance: Chance) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text up to where one of its sentences begins, and from there on; with no such start, at any place."""
    places = starts if len(starts) else np.arange(1, len(ids))
    at = int(places[chance.below(len(places))]) if len(places) else len(ids)
    return ids[:at], ids[at:]


def paired(
    first: np.ndarray, second: np.ndarray, pair: str, chance: Chance, other: Callable[[], np.ndarray], room: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """A, B and the label: 0 as they are, and by chance 1, with the two swapped, or B the ids that `other()` gives.

    room: tokens that both may have; of others there are as many as it lets in.
    """
    if chance.units(1)[0] < 0.5:
        return first, second, 0
    if pair == "order":
        return second, first, 1
    return first, other()[: room - len(first)], 1
