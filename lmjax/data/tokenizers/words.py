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
END = re.compile(rb"(?:[.!?\xe2\x80\xa6]|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f)[\"')\]\xe2\x80\x9d]*\s*$|\n\s*$")


class Letters(NamedTuple):
    """Of each id, (vocab,) bool: begins or ends with a letter; goes on with what is before it; ends a sentence; begins
    with space."""

    begins: np.ndarray
    ends: np.ndarray
    glued: np.ndarray
    stops: np.ndarray
    spaced: np.ndarray


def letters(tokenizer: Any) -> Letters:
    """The table of a tokenizer's ids."""
    raw, glued, apart = _pieces(tokenizer)
    special = set(tokenizer.specials.values())
    found = np.zeros((5, len(raw)), bool)
    for i, piece in enumerate(raw):
        if not piece or i in special:
            continue
        inside = 0x80 <= piece[0] < 0xC0  # amid a character
        text = piece.decode("utf-8", "ignore")
        first, last = _letter(text[:1], piece), _letter(text[-1:], piece)
        stop, space = bool(END.search(piece)), piece[:1].isspace()
        found[:, i] = first and not apart, last, inside or i in glued, stop, space
    return Letters(*found)


def word_numbers(ids: np.ndarray, table: Letters, may: np.ndarray) -> np.ndarray:
    """(n,) int64: the number of the word that each token is in; -1 where it is not one that `may` be in any."""
    joined = table.glued[ids] | (table.begins[ids] & np.append(False, table.ends[ids[:-1]]))
    joined &= np.append(False, may[:-1])
    return np.where(may, np.cumsum(~joined) - 1, -1)


def sentence_starts(ids: np.ndarray, table: Letters) -> np.ndarray:
    """Places (after the first) where a sentence begins: behind a full stop or its like, before or after space."""
    stops, spaced = table.stops[ids], table.spaced[ids]
    lined = np.append(False, stops[:-1] & (spaced[1:] | spaced[:-1] | ~table.ends[ids[:-1]] & table.begins[ids[1:]]))
    return np.flatnonzero(lined)


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
