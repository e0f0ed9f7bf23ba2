"""Who turns text into ids: the fastest of three that give the same ids, which is why none of them is part of a key.

`gigatoken` (an extra; byte-level BPE only), a dictionary of the words met so far, and the `tokenizers` library itself.
A tokenizer whose text is cut into words before its model sees it gives each word the same ids wherever it stands, so
ids of words, looked up and joined, are the ids of the text. English on one core of a shared machine: 5 to 7 times the
library's speed with words, over 70 times with gigatoken (benchmarks/tokenize_pack.py).
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from itertools import chain, compress, pairwise, product
from typing import Any, NamedTuple

import numpy as np

from lmjax.data.tokenizers.ids import gpt2_bytes

LOG = logging.getLogger(__name__)


def words_of(letters: str, digits: str, spaces: str, many: str) -> str:
    """GPT-2's pattern of words (Radford 2019) of these classes of characters, repeated so often."""
    other = f"[^{spaces}{letters}{digits}]"
    runs = rf" ?[{letters}]{many}| ?[{digits}]{many}| ?{other}{many}|[{spaces}]{many}(?![^{spaces}])|[{spaces}]{many}"
    return rf"'(?:[sdmt]|ll|ve|re)|{runs}"


UNBOUNDED, BOUNDED, SHORT = "+", "{1,64}", "{1,16}"  # bounded, no text is one endless word
PATTERNS = {words_of(r"\p{L}", r"\p{N}", r"\s", many): many for many in (UNBOUNDED, BOUNDED, SHORT)}
WORDS = 1 << 19  # words kept, and pieces between spaces, but for those of the last text; each takes about 200 bytes
TOGETHER = 1 << 18  # characters of texts whose new words are given to the library at once
LETTERS = 1 << 24  # characters of all those kept
MARKS = START, LINE, NEXT = "\x01", "\x02", "\x03"  # of `spaced`
APART = np.int32(-1).tobytes()  # in place of the ids of NEXT
SPACES = " \n\t\v\f\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
IRREGULAR = (*map("".join, product(" \n", repeat=3)), *MARKS, *SPACES[2:])  # what no text that `spaced` cuts holds
ASCII_KINDS = np.array([1 if chr(i) in " \n" else 2 * (chr(i) in IRREGULAR) for i in range(128)], np.uint8)
# Texts that engines must agree on before they are used: words, contractions, numbers, white space, scripts, marks.
SAMPLE = (
    "It's the King's; they've gone, we'll see. I'd say 3,000 or 4.5e-3 of them!",
    "def f(x):\n\treturn x  # twice   \r\n\n\n    y = {'a': [1, 2]}\u00a0\u3000\u2028 \x85\x1f z ",
    "你好，世界。吾輩は猫である。名前はまだ無い。 مرحبا بالعالم ١٢٣ नमस्ते दुनिया Größe ½ Ⅷ ²",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u0323\u0307 ñ n\u0303 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U00020000\U0001f468 <doc> <|endoftext|> [PAD] <s>",
    "''' 's 'll 'LL d'été aaaaaaaaaaaaaaaaaaaaa \x00\x01 \ufffd\ufeff 0000000000 ababababab",
)


class Engine(NamedTuple):
    """encode_batch(texts) yields (n,) int32 of each; fresh() is the same without the words that it met."""

    name: str
    encode_batch: Callable[[list[str]], Iterator[np.ndarray]]
    fresh: Callable[[], Engine]


def fastest(model: Any, definition: str) -> Engine:
    """The fastest engine here for a tokenizers.Tokenizer and the tokenizer.json it came from.

    One that does not give the library's ids for SAMPLE is left out with a warning.
    """
    expected = list(_library(model, list(SAMPLE)))
    for name, start in ENGINES.items():
        start = partial(start, model, definition)
        encode_batch = start()
        if encode_batch is None:
            continue
        if all(map(np.array_equal, encode_batch(list(SAMPLE)), expected)):
            return _engine(name, start, model, encode_batch)
        LOG.warning("%s does not give this tokenizer's ids, so it is not used", name)
    return _engine("tokenizers", lambda: partial(_library, model), model)


def _engine(name: str, start: Callable, model: Any, encode_batch: Callable | None = None) -> Engine:
    encode_batch = encode_batch or start()
    encode_batch = _watched(name, encode_batch, model) if name in FOREIGN else encode_batch
    return Engine(name, encode_batch, partial(_engine, name, start, model))


def _library(model: Any, texts: list[str]) -> Iterator[np.ndarray]:
    for found in model.encode_batch_fast(texts, add_special_tokens=False):
        yield np.array(found.ids, np.int32)


def gigatoken(model: Any, definition: str) -> Callable | None:
    """The engine of gigatoken (Rød 2026), when it is installed and knows this tokenizer.

    Without a pre-tokenizer it takes one of its own, so only those that cut by a pattern and spell bytes are given to it.
    The library has texts with characters that this Python's Unicode does not assign: gigatoken 0.10 goes by Unicode 17 and
    tokenizers 0.23 by 16, and 4,657 characters are letters or digits to the former alone.
    """
    if (parts := _for_gigatoken(definition)) is None:
        return None
    try:
        from gigatoken.gigatoken_rs import load_hf_json

        encoder = load_hf_json(parts)
    except ImportError:
        return None
    except Exception as error:  # whatever its Rust says of a tokenizer that it does not know
        LOG.info("gigatoken: %s", error)
        return None
    assigned = np.arange(0x110000) < 128  # of the characters met so far

    def known(text: str) -> bool:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        new = np.unique(points[~assigned[points]])
        assigned[new] = [unicodedata.category(chr(point)) != "Cn" for point in new.tolist()]
        return bool(assigned[new].all())

    def encode_batch(texts: list[str]) -> Iterator[np.ndarray]:
        for text in texts:
            if text.isascii() or all(known(text[i : i + TOGETHER]) for i in range(0, len(text), TOGETHER)):
                yield encoder.encode(text).astype(np.int32)
            else:
                yield from _library(model, [text])

    return encode_batch


@lru_cache(maxsize=1)
def _for_gigatoken(definition: str) -> str | None:
    """A tokenizer.json of what gigatoken does; None where it would do something else."""
    parts = json.loads(definition)
    before = json.dumps(parts.get("pre_tokenizer"))
    if parts["model"]["type"] != "BPE" or parts.get("normalizer") is not None or '"ByteLevel"' not in before:
        return None
    if not all(token["special"] for token in parts.get("added_tokens", ())):
        return None
    return json.dumps(parts | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None})


def _watched(name: str, encode_batch: Callable, model: Any) -> Callable:
    """encode_batch, asked with the library for the first kilobyte of each batch: RuntimeError when they differ."""

    def watched(texts: list[str]) -> Iterator[np.ndarray]:
        start = [text[:1024] for text in texts[:1]]
        if not all(map(np.array_equal, encode_batch(start), _library(model, start))):
            raise RuntimeError(f"{name} does not give the ids of tokenizers for {start}: uninstall it")
        return encode_batch(texts)

    return watched


def words(model: Any, definition: str) -> Callable | None:
    """The engine that remembers the ids of words, when the tokenizer cuts its text by a pattern known here."""
    parts = json.loads(definition)
    pattern = _pattern(parts.get("pre_tokenizer"))
    plain = parts.get("normalizer") is None and all(token["special"] for token in parts.get("added_tokens", ()))
    if pattern is None or not plain or parts["model"].get("dropout"):
        return None
    inside, letters = model.model, _letters() if '"ByteLevel"' in json.dumps(parts["pre_tokenizer"]) else None

    def spell(words: list[str]) -> list[bytes]:
        if letters:  # as the pre-tokenizer hands them to the model
            words = [word.encode().decode("latin-1").translate(letters) for word in words]
        return [np.array([token.id for token in inside.tokenize(word)], np.int32).tobytes() for word in words]

    def cut(text: str) -> list[str]:
        return _finder(pattern, text.isascii())(text)

    def spell_pieces(pieces: list[str]) -> list[bytes]:
        found = {"": [" "], LINE: ["\n"], START: [], NEXT: []}
        for ascii in (True, False):  # all of a kind are cut at once, for each begins with the only space that it has
            some = [piece for piece in pieces if piece.isascii() is ascii and piece not in found]
            words = cut("".join([said(piece) if piece[0] != START else "\n" + piece[1:] for piece in some]))
            starts = [i for i, word in enumerate(words) if word[0] in " \n"]
            found |= {piece: words[i:j] for piece, (i, j) in zip(some, pairwise([*starts, len(words)]), strict=True)}
            found |= {piece: found[piece][1:] for piece in some if piece[0] == START}
        of_words(list(chain.from_iterable(found.values())))  # all new words at once
        return [of_words(found[piece]) if piece != NEXT else APART for piece in pieces]

    of_words, of_pieces = Remembered(spell), Remembered(spell_pieces)

    def some(texts: list[str]) -> list[np.ndarray]:
        found, even = [np.zeros(0, np.int32)] * len(texts), regular(texts)
        for i in np.flatnonzero(~even).tolist():
            parts = cut(texts[i])
            few = len(parts) * 16 < len(texts[i])  # a script without spaces: few words come again
            found[i] = next(_library(model, [texts[i]])) if few else np.frombuffer(of_words(parts), np.int32)
        places, start = np.flatnonzero(even).tolist(), 0
        ids = np.frombuffer(of_pieces(spaced([texts[i] for i in places])), np.int32)
        for i, end in zip(places, [*np.flatnonzero(ids < 0).tolist(), len(ids)], strict=bool(places)):
            found[i] = ids[start:end]
            start = end + 1
        of_words.forget()
        of_pieces.forget()
        return found

    def encode_batch(texts: list[str]) -> Iterator[np.ndarray]:
        first = size = 0
        for i, text in enumerate(texts, 1):
            size += len(text)
            if size >= TOGETHER or i == len(texts):
                yield from some(texts[first:i])
                first, size = i, 0

    return encode_batch


class Remembered(dict):
    """Called with keys, it gives what spell says of them, joined; spell is asked at once for those that are not here."""

    def __init__(self, spell: Callable[[list[str]], list[bytes]]):
        super().__init__()
        self.spell, self.letters = spell, 0

    def __call__(self, keys: list[str]) -> bytes:
        try:
            return b"".join(map(self.__getitem__, keys))
        except KeyError:
            new = [key for key in dict.fromkeys(keys) if key not in self]
        self.letters += sum(map(len, new))
        self.update(zip(new, self.spell(new), strict=True))
        return b"".join(map(self.__getitem__, keys))

    def forget(self) -> None:
        """Lets go of all when they are too many."""
        if len(self) > WORDS or self.letters > LETTERS:
            self.clear()
            self.letters = 0


def regular(texts: list[str]) -> np.ndarray:
    """(n,) bool: which texts `spaced` may cut: those without three characters of white space together, or two at the end,
    where cuts depend on what follows, and without other white space than spaces and ends of lines. Nor those of other
    scripts that put no spaces between words."""
    ascii = list(map(str.isascii, texts))
    found = np.array(ascii)
    for i in np.flatnonzero(~found).tolist():
        text = f"{texts[i]} "
        found[i] = not any(mark in text for mark in IRREGULAR) and (text.count(" ") + text.count("\n")) * 16 > len(text)
    if any(ascii):
        plain = list(compress(texts, ascii))
        kinds = ASCII_KINDS[np.frombuffer(" ".join(plain).encode() + b" ", np.uint8)]
        white, ends = kinds == 1, np.cumsum(list(map(len, plain))) + np.arange(len(plain))
        bad = np.flatnonzero(white[:-2] & white[1:-1] & white[2:]), np.flatnonzero(kinds == 2)
        found[np.flatnonzero(ascii)[np.searchsorted(ends, np.concatenate(bad))]] = False
    return found


def spaced(texts: list[str]) -> list[str]:
    """Regular texts cut before every space and around every line's end, without that space: several times faster than
    `words_of` cuts, which has a cut in all these places.

    A piece is what follows a space; LINE is the end of a line, NEXT that of a text, and one that begins with START follows
    no space.
    """
    return (START + f" {NEXT} {START}".join(texts).replace("\n", f" {LINE} {START}")).split(" ")


def said(piece: str) -> str:
    """The text of a piece."""
    if piece.startswith(START):
        return piece[1:]
    return "\n" if piece == LINE else " " + piece


ENGINES = {"gigatoken": gigatoken, "words": words}
FOREIGN = {"gigatoken"}  # new, and not ours: a wrong id would be seen by nobody, so it is watched


def _pattern(part: dict | None) -> str | None:
    """How long the words of a pre-tokenizer are when it cuts by words_of, and adds nothing and leaves nothing out."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    part = part or {}
    if byte_level.items() <= part.items() and part.get("use_regex", True):
        return UNBOUNDED
    inner = part["pretokenizers"] if part.get("type") == "Sequence" else [part]
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    if not (inner and split.items() <= inner[0].items() and inner[0]["pattern"].get("Regex") in PATTERNS):
        return None
    rest = [(byte_level | {"use_regex": False}).items() <= other.items() for other in inner[1:]]
    return PATTERNS[inner[0]["pattern"]["Regex"]] if all(rest) else None


@cache
def _letters() -> dict[int, str]:
    """Byte -> GPT-2's letter for it, in which byte-level models have their words."""
    return {byte[0]: letter for letter, byte in gpt2_bytes().items()}


@cache
def _finder(many: str, ascii_only: bool) -> Callable[[str], list[str]]:
    """words_of in Python's own regular expressions, with the classes of characters of the library."""
    classes = ("A-Za-z", "0-9", r"\t-\r ") if ascii_only else _classes()
    return re.compile(words_of(*classes, many)).findall


@cache
def _classes() -> tuple[str, str, str]:
    """Letters, digits and white space of all of Unicode as the library sees them: Python may be of another version."""
    import tokenizers
    from tokenizers import pre_tokenizers

    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    found = []
    for name in (r"\p{L}", r"\p{N}", r"\s"):
        runs = pre_tokenizers.Split(tokenizers.Regex(rf"{name}+"), "removed", invert=True).pre_tokenize_str(everything)
        found.append("".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run, _ in runs))
    return found[0], found[1], found[2]
