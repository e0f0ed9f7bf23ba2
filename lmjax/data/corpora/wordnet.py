"""WordNet: what its words mean, and which words mean the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

PLACE = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand
PARTS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}  # of a sense's key
EXAMPLE = re.compile(r';\s*"|^"')
SENTENCE = re.compile(r'"([^"]+)"')


def definitions(files: list[Path]) -> Iterator[dict]:
    """A pair for each set of synonyms: its definition without the examples, and the words."""
    for file in files:
        if file.name.startswith("data."):
            for words, gloss in _synsets(file).values():
                meaning = EXAMPLE.split(gloss)[0].strip() or gloss.strip('" ')
                yield {"source": meaning, "target": ", ".join(words)}


def usages(files: list[Path]) -> Iterator[dict]:
    """A meaning, an example sentence of it, and the word of the sentence that has this meaning: each sentence once."""
    seen = set()
    for file in files:
        for words, gloss in _synsets(file).values() if file.name.startswith("data.") else ():
            meaning = EXAMPLE.split(gloss)[0].strip()
            for sentence in map(str.strip, SENTENCE.findall(gloss)):
                found = (re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, re.IGNORECASE) for word in words)
                word = next(filter(None, found), None)
                if meaning and word and word[0] != sentence and sentence not in seen:
                    seen.add(sentence)
                    yield {"question": meaning, "context": sentence, "answer": word[0], "start": word.start()}


def choices(files: list[Path]) -> Iterator[dict]:
    """A meaning, the word that has it, and three words of the same part of speech, which and in what order by hash."""
    for file in files:
        if not file.name.startswith("data."):
            continue
        synsets = list(_synsets(file).values())
        for words, gloss in synsets:
            meaning = EXAMPLE.split(gloss)[0].strip()
            digest = hashlib.sha256(f"{meaning} {words[0]}".encode()).digest()
            others = [synsets[int.from_bytes(digest[i : i + 4], "big") % len(synsets)][0][0] for i in (0, 4, 8)]
            if meaning and len({*others, words[0]}) == 4 and not set(others) & set(words):
                right = digest[12] % 4
                yield {"question": meaning, "choices": [*others[:right], words[0], *others[right:]], "label": right}


def thesaurus(files: list[Path]) -> dict[str, tuple[str, ...]]:
    """Lower-case word -> the other words of its commonest meaning, as the part of speech that it most often is.

    How often is counted in the texts that WordNet's makers tagged. A synonym may be of several words; a key is one, and
    words that are alone in their meaning are left out.
    """
    named = {file.name: file for file in files}
    tagged: dict[tuple[str, str], int] = {}
    for line in _lines(named["cntlist.rev"]):
        sense, _, times = line.split()
        word, _, rest = sense.partition("%")
        tagged[word, PARTS[rest[0]]] = tagged.get((word, PARTS[rest[0]]), 0) + int(times)
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        synsets = _synsets(named[f"data.{part}"])
        for line in _lines(named[f"index.{part}"]):
            word, _, _, pointers, *rest = line.split()
            often = tagged.get((word, part), 0)
            if "_" not in word and often > found.get(word, (-1,))[0]:
                commonest = rest[int(pointers) + 2]  # the offsets of its synsets stand in the order of their use
                found[word] = often, tuple(other for other in synsets[commonest][0] if other.lower() != word)
    return {word: others for word, (_, others) in found.items() if others}


def _synsets(file: Path) -> dict[str, tuple[list[str], str]]:
    """By their offset in the file: the words, and what they mean."""
    found = {}
    for line in _lines(file):
        fields, _, gloss = line.partition(" | ")
        offset, _, _, count, *words = fields.split(" ")
        names = [PLACE.sub("", word).replace("_", " ") for word in words[: 2 * int(count, 16) : 2]]
        found[offset] = names, gloss.strip()
    return found


def _lines(file: Path) -> Iterator[str]:
    with open(file, encoding="ascii") as lines:
        yield from (line for line in lines if not line.startswith("  "))  # those are the licence
