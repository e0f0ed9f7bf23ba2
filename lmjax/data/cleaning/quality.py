"""Quality filters that look at one text: symbols a word, and repetition (Gopher; Rae et al. 2021, arXiv:2112.11446)."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from lmjax.data.cleaning.words import FACTOR, WORD, hashes

# Table A1: the largest share of lines or paragraphs that repeat earlier ones, and of the characters in them.
LINES, LINE_CHARS = 0.30, 0.20
PARAGRAPHS, PARAGRAPH_CHARS = 0.30, 0.20
# The largest share of characters in the most frequent n-gram, and in all n-grams that repeat earlier ones.
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
SYMBOL = re.compile(r"#|\.\.\.|…")


def symbols(text: str) -> float:
    """Number signs and ellipses a word (Rae et al. 2021, A1.1: more than 0.1 is removed)."""
    count = len(SYMBOL.findall(text))
    return count / max(1, len(WORD.findall(text))) if count else 0.0


def repetitive(text: str) -> str | None:
    """The first rule of table A1 that the text breaks ("lines", "paragraph characters", "5-grams", ...), or None.

    n-grams are of lower-case words, and the shares are of the characters in words. An n-gram counts as repeated from
    its second occurrence on, and characters in several count once.
    """
    for name, parts, most, most_chars in (
        ("line", text.split("\n"), LINES, LINE_CHARS),
        ("paragraph", re.split(r"\n\s*\n", text), PARAGRAPHS, PARAGRAPH_CHARS),
    ):
        parts = [part.strip() for part in parts if part.strip()]
        again = Counter(parts)
        if len(parts) - len(again) > most * len(parts):
            return f"{name}s"
        chars = sum((count - 1) * len(part) for part, count in again.items())
        if chars > most_chars * sum(map(len, parts)):
            return f"{name} characters"
    return _repeated_ngrams(WORD.findall(text.lower()))


def _repeated_ngrams(found: list[str]) -> str | None:
    """A run of n words can only be there twice where its first n - 1 words are: few places are left after pairs."""
    sizes, hashed = np.fromiter(map(len, found), np.int64, len(found)), hashes(found)
    total, at, grams = int(sizes.sum()), np.arange(len(found)), hashed
    for n in range(2, max(REPEATED) + 1):
        inside = at <= len(found) - n
        at, grams = at[inside], grams[inside] * FACTOR + hashed[at[inside] + n - 1]  # modulo 2^64
        _, first, which, count = np.unique(grams, return_index=True, return_inverse=True, return_counts=True)
        if not len(at) or count.max() == 1:
            return None
        if n in TOP:
            start = int(at[first[count == count.max()].min()])  # of equally frequent ones the first
            if int(sizes[start : start + n].sum()) * int(count.max()) > TOP[n] * total:
                return f"{n}-grams"
        if n in REPEATED:
            again = np.ones(len(at), bool)
            again[first] = False
            covered = np.zeros(len(found) + 1, np.int64)
            covered[at[again]] += 1
            covered[at[again] + n] -= 1
            if sizes[np.cumsum(covered)[:-1] > 0].sum() > REPEATED[n] * total:
                return f"{n}-grams"
        twice = count[which] > 1
        at, grams = at[twice], grams[twice]
    return None
