"""Random changes of a text, each a pure function of (words, seed, index, rate): the same for the same four.

Words are pieces of a text, as `pieces` cuts it: each with the space before it, marks of punctuation by themselves, and
joined they are the text. `rate` is the share of the words that are changed: exact on average, however short the text.
The first four are those of Wei & Zou 2019, "EDA", arXiv:1901.11196, section 2.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from lmjax.augment.chance import Chance

MARK = "<mask>"
SPAN, LONGEST = 0.2, 10  # of span lengths: the geometric distribution's p, and the most; Joshi et al. 2020
# Words that are neither replaced nor inserted: the commonest of English, which WordNet takes for something else.
STOP = frozenset(
    "a about after all also am an and any are as at be because been before being both but by can could did do does down "
    "each for from had has have he her here hers him his how i if in into is it its just me more most my no nor not now "
    "of off on once only or other our out over own same she should so some such than that the their them then there "
    "these they this those through to too under until up very was we were what when where which while who whom why will "
    "with would you your".split()
)


@functools.cache
def _piece() -> re.Pattern:
    """White space and: a sign of Chinese or Japanese, a word, or any other character."""
    marks = "".join(chr(i) for i in range(0x300, 0x3000) if unicodedata.category(chr(i))[0] == "M")
    signs = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    letters = rf"[^\W_{signs}][{marks}\u200c\u200d]*"
    return re.compile(rf"\s*(?:[{signs}]|(?:{letters})+(?:['’-](?:{letters})+)*|\S)|\s+")


def pieces(text: str) -> list[str]:
    """The words and marks of a text with the space before each; the last may be space alone. Joined: the text."""
    return _piece().findall(text)


def synonyms(words: Sequence[str], seed: int, index: int, rate: float, *, thesaurus: Mapping[str, Sequence[str]]):
    """Words replaced by one of their synonyms, in their own case; those without any, numbers and STOP stay."""
    chance, out = Chance("synonyms", seed, index), list(words)
    known = _known(out, thesaurus)
    for at in chance.some(len(known), chance.round(rate * len(_places(out)))):
        place = known[at]
        space, word = _parted(out[place])
        out[place] = space + _cased(_one(chance, thesaurus[word.lower()]), word)
    return out


def insertion(words: Sequence[str], seed: int, index: int, rate: float, *, thesaurus: Mapping[str, Sequence[str]]):
    """A synonym of some word put behind any word, as often as `rate` says."""
    chance, out = Chance("insertion", seed, index), list(words)
    known = [_parted(words[place])[1].lower() for place in _known(out, thesaurus)]
    if known:
        for _ in range(chance.round(rate * len(_places(out)))):
            places = _places(out)
            out.insert(places[chance.below(len(places))] + 1, " " + _one(chance, thesaurus[_one(chance, known)]))
    return out


def deletion(words: Sequence[str], seed: int, index: int, rate: float) -> list[str]:
    """Each word left out with probability `rate`; one is always left."""
    chance, places = Chance("deletion", seed, index), _places(words)
    gone = {place for place, unit in zip(places, chance.units(len(places)), strict=True) if unit < rate}
    if places and len(gone) == len(places):
        gone.remove(_one(chance, places))
    out = [word for place, word in enumerate(words) if place not in gone]
    if 0 in gone:  # a text does not begin with the space between two words
        out[0] = _parted(words[0])[0] + _parted(out[0])[1]
    return out


def swap(words: Sequence[str], seed: int, index: int, rate: float) -> list[str]:
    """Two words change places, as often as `rate` says; space stays where it is."""
    chance, out, places = Chance("swap", seed, index), list(words), _places(words)
    for _ in range(chance.round(rate * len(places)) if len(places) > 1 else 0):
        a, b = (places[at] for at in chance.some(len(places), 2))
        (space_a, word_a), (space_b, word_b) = _parted(out[a]), _parted(out[b])
        out[a], out[b] = space_a + word_b, space_b + word_a
    return out


def noise(words: Sequence[str], seed: int, index: int, rate: float) -> list[str]:
    """Typing errors in words: with probability `rate` a character is left out, changed, put in twice over, or swapped
    with the next. New characters are those of the text. Belinkov & Bisk 2018, arXiv:1711.02173, section 4.2."""
    chance, out = Chance("noise", seed, index), list(words)
    places = _places(out)
    letters = "".join(_parted(out[place])[1] for place in places)
    units = iter(chance.units(len(letters)))
    for place in places:
        space, word = _parted(out[place])
        hit = [next(units) < rate for _ in word]
        out[place] = space + (_mistyped(chance, word, hit, letters) if any(hit) else word)
    return out


def mask(words: Sequence[str], seed: int, index: int, rate: float, *, mark: str = MARK) -> list[str]:
    """Spans of words hidden, each word by a mark: lengths are geometric (0.2), at most 10, until `rate` of all words
    is. Joshi et al. 2020, "SpanBERT", arXiv:1907.10529, section 3.1."""
    chance, out, places = Chance("mask", seed, index), list(words), _places(words)
    budget, hidden = min(chance.round(rate * len(places)), len(places)), set()
    while len(hidden) < budget:
        length = 1
        while length < LONGEST and chance.units(1)[0] >= SPAN:
            length += 1
        start = chance.below(len(places))
        hidden |= {*range(start, min(start + length, len(places), start + budget - len(hidden)))}
    for at in hidden:
        out[places[at]] = _parted(words[places[at]])[0] + mark
    return out


def back_translation(
    texts: Iterable[str], generate: Callable[[list[str]], Sequence[str]], *, batch: int = 32
) -> Iterator[dict[str, str]]:
    """Pairs for a translator into the language of texts: {"source": generate(text), "target": text}.

    generate translates a list out of that language, in its order. Sennrich et al. 2016, arXiv:1511.06709, section 3.2.
    A text whose translation is empty gives no pair. ValueError when generate returns another number of texts.
    """
    waiting: list[str] = []

    def pairs() -> Iterator[dict[str, str]]:
        made = generate(waiting)
        if len(made) != len(waiting):
            raise ValueError(f"generate made {len(made)} texts of {len(waiting)}")
        for source, target in zip(made, waiting, strict=True):
            if source.strip():
                yield {"source": source.strip(), "target": target}

    for text in texts:
        waiting.append(text)
        if len(waiting) == batch:
            yield from pairs()
            waiting = []
    if waiting:
        yield from pairs()


TEXT = {
    "synonyms": synonyms,
    "insertion": insertion,
    "deletion": deletion,
    "swap": swap,
    "noise": noise,
    "mask": mask,
}


def _mistyped(chance: Chance, word: str, hit: list[bool], letters: str) -> str:
    out, skip = [], False
    for at, letter in enumerate(word):
        if skip or not hit[at]:
            out += [] if skip else [letter]
            skip = False
            continue
        kind = chance.below(4)
        if kind == 0 and at + 1 < len(word):
            out += [word[at + 1], letter]
            skip = True
        elif kind == 1 and len(word) > 1:
            continue
        elif kind == 2:
            out += [letter, _one(chance, letters)]
        else:
            out.append(_one(chance, letters))
    return "".join(out)


def _places(words: Sequence[str]) -> list[int]:
    """Which pieces are words, and not marks or space."""
    return [place for place, word in enumerate(words) if word and word.lstrip()[:1].isalnum()]


def _known(words: Sequence[str], thesaurus: Mapping[str, Sequence[str]]) -> list[int]:
    lowered = {place: _parted(words[place])[1].lower() for place in _places(words)}
    return [place for place, word in lowered.items() if word[0].isalpha() and word not in STOP and thesaurus.get(word)]


def _parted(piece: str) -> tuple[str, str]:
    """Space and word."""
    word = piece.lstrip()
    return piece[: len(piece) - len(word)], word


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _one(chance: Chance, items: Sequence):
    return items[chance.below(len(items))]
