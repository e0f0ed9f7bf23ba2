"""Readers of the packaged texts whose words are tagged: a month of a Chinese newspaper, by parts of speech and names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SLIPS = {"vvn": "vn", "na": "n", "Yg": "y"}  # tags that one word of a million has
NAMES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}  # tags of persons, places and organisations


def people_daily(files: list[Path]) -> Iterator[dict]:
    """Paragraphs of the People's Daily of January 1998, cut into words, each with its part of speech; each paragraph once.

    The 41 tags are those of Peking University (Yu et al. 2003): n noun, v verb, nr person, ns place, w punctuation ..
    """
    seen = set()
    with open(files[0], encoding="utf-8") as lines:
        for line in lines:
            pairs = [word.rpartition("/") for word in line.split()]
            words = tuple(word for word, _, _ in pairs)
            if words and words not in seen:
                seen.add(words)
                yield {"words": list(words), "tags": [SLIPS.get(tag, tag) for _, _, tag in pairs]}


def people_daily_names(files: list[Path]) -> Iterator[dict]:
    """The same words with persons, places and organisations as B-PER, I-PER, B-LOC, B-ORG and O (Ramshaw & Marcus 1995,
    arXiv:cmp-lg/9505040). A surname and a given name, which are two words there, are one person."""
    for record in people_daily(files):
        found, run = [], 0  # words for persons before this one, without another between them
        for name in (NAMES.get(tag) for tag in record["tags"]):
            run = run + 1 if name == "PER" else 0
            found.append("O" if name is None else "I-PER" if run and run % 2 == 0 else f"B-{name}")
        yield {"words": record["words"], "tags": found}
