"""Denoising as BART has it: the source is the text with spans hidden, tokens left out and sentences moved; the target is
the text.

Lewis et al. 2020, arXiv:1910.13461, section 2.2: text infilling, where one <mask> stands for a span whose length is
drawn from Poisson(span), none included; token deletion; sentence permutation.
"""

from __future__ import annotations

import math

import numpy as np

from lmjax.augment.chance import Chance

HIDDEN = -1  # where a <mask> comes from


def denoise(
    n: int, starts: np.ndarray, chance: Chance, *, rate: float, span: float, delete: float, permute: bool
) -> np.ndarray:
    """(m,) for a text of n tokens: which of them each token of the source is, or HIDDEN for <mask>; m is at most n.

    starts: where sentences begin, but for the first. A share `rate` of the tokens is hidden, `delete` of all left out.
    """
    order = np.arange(n)
    if permute:
        sentences = np.split(order, starts)
        order = np.concatenate([sentences[i] for i in chance.some(len(sentences), len(sentences))])
    source = infilled(order, chance, rate=rate, span=span)
    if delete:
        gone = (chance.units(len(source)) < delete) & (source != HIDDEN)
        source = source[~gone] if not gone.all() else source
    return source


def infilled(order: np.ndarray, chance: Chance, *, rate: float, span: float) -> np.ndarray:
    """order (n,) with spans that hold a share `rate` of it, each of which is one HIDDEN; they do not overlap, and what
    stands between them is kept. A span of no tokens is put in where that does not make the source longer than the text."""
    n = len(order)
    lengths = _lengths(min(n, chance.round(rate * n)), span, chance)
    hidden = sum(lengths)
    lengths = [*filter(None, lengths), *[0] * min(lengths.count(0), hidden - len(lengths) + lengths.count(0))]
    lengths = [lengths[i] for i in chance.some(len(lengths), len(lengths))]
    slots = n - hidden + len(lengths)  # tokens that are kept, and spans
    places = sorted(chance.some(slots, len(lengths)))
    out, at, before = [], 0, 0
    for place, length in zip(places, lengths, strict=True):
        kept = place - before
        out += [order[at : at + kept], [HIDDEN]]
        at, before = at + kept + length, place + 1
    return np.concatenate([*out, order[at:]]).astype(np.int64)


def _lengths(budget: int, span: float, chance: Chance) -> list[int]:
    """Lengths of spans that add up to the budget, each drawn from Poisson(span), the last one cut."""
    found, left = [], budget
    while left > 0:
        length, unit = 0, float(chance.units(1)[0])
        chunk = total = math.exp(-span)
        while unit >= total and length < budget:
            length += 1
            chunk *= span / length
            total += chunk
        found.append(min(length, left))
        left -= found[-1]
    return found
