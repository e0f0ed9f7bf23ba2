"""Which tokens of a row make a word together, and where sentences end, by the letters that each id stands for."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, NamedTuple

import numpy as np

from lmjax.data.tokenizers.hugging_face import HuggingFace
from lmjax.data.tokenizers.plain import Bytes, Symbols

SIGN = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")  # a word of its own
QUOTES = "[\"')\\]\u201d\u2019]*"
STOP = re.compile(rf"[.!?\u2026]{QUOTES}$")  # ends a sentence when space follows
CLOSE = re.compile(rf"[\u3002\uff01\uff1f][\u300d\u300f\u201d]?$|[.!?\u2026]{QUOTES}\s+$|\n\s*$")  # ends it in any case


class Letters(NamedTuple):
    """Of each id, (vocab,) bool: begins with a letter, ends with one; goes on with the word before it; ends a sentence
    if space follows, or whatever does; begins with space."""

    begins: np.ndarray
    ends: np.ndarray
    glued: np.ndarray
    stops: np.ndarray
    closes: np.ndarray
    spaced: np.ndarray


def letters(tokenizer: Any) -> Letters:
    """The table of a tokenizer's ids."""
    raw, glued, apart = _pieces(tokenizer)
    special = set(tokenizer.specials.values())
    found = np.zeros((6, len(raw)), bool)
    for i, piece in enumerate(raw):
        if not piece or i in special:
            continue
        joins = i in glued or 0x80 <= piece[0] < 0xC0  # a byte amid a character
        text = piece.decode("utf-8", "ignore")
        letter = _letter(text[:1], piece) and not apart
        space = text[:1].isspace() or (bool(glued) and not joins)  # which the pieces of words have lost
        found[:, i] = letter, _letter(text[-1:], piece), joins, STOP.search(text), CLOSE.search(text), space
    return Letters(*found)


def word_numbers(ids: np.ndarray, table: Letters, may: np.ndarray) -> np.ndarray:
    """(n,) int64: the number of the word that each token is in; -1 where it is not one that `may` be in any."""
    joined = table.glued[ids] | (table.begins[ids] & np.append(False, table.ends[ids[:-1]]))
    joined &= np.append(False, may[:-1])
    return np.where(may, np.cumsum(~joined) - 1, -1)


def sentence_starts(ids: np.ndarray, table: Letters) -> np.ndarray:
    """Places, but for the first, where a sentence begins: behind a full stop and its like, and at new lines."""
    return np.flatnonzero(table.closes[ids[:-1]] | (table.stops[ids[:-1]] & table.spaced[ids[1:]])) + 1


def _letter(character: str, piece: bytes) -> bool:
    """Whether it is a letter or digit of a script that puts space between words; "" is half a character."""
    if not character:
        return not (0xE3 <= piece[0] <= 0xE9 or piece[0] >= 0xF0)
    return (character.isalnum() or unicodedata.category(character)[0] == "M") and not SIGN.match(character)


def _pieces(tokenizer: Any) -> tuple[list[bytes], set[int], bool]:
    """What each id stands for; those that go on with a word though nothing shows it; whether all others begin one."""
    if isinstance(tokenizer, Bytes):
        return [bytes((i,)) for i in range(256)] + [b""] * (tokenizer.vocab_size - 256), set(), False
    if isinstance(tokenizer, Symbols):
        made = [piece.encode() for piece in tokenizer.pieces]
        return made, set(), tokenizer.kind == "words"
    if not isinstance(tokenizer, HuggingFace):
        return tokenizer.pieces, set(), False
    if tokenizer.pieces is not None:
        return tokenizer.pieces, set(), False
    prefix = json.loads(tokenizer.definition)["model"].get("continuing_subword_prefix") or ""
    raw, glued = [b""] * tokenizer.vocab_size, set()
    for token, i in tokenizer.vocabulary.items():
        glued |= {i} if prefix and token.startswith(prefix) else set()
        raw[i] = token.removeprefix(prefix).replace("\u2581", " ").encode()
    return raw, glued, bool(prefix)
