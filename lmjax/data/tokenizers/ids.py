"""What all tokenizers share: checks of texts and ids, names of special tokens, and the record of a saved one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data.text import SURROGATE
from lmjax.errors import UserError, unknown

DOC = "<doc>"
RECORD = "lmjax_tokenizer.json"
# What other people's tokenizers call a special token; the first spelling that is there is the one.
SPELLINGS = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "bos": ("<bos>", "<s>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("<eos>", "</s>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
}
SENTINEL = re.compile(r"<extra_id_(\d+)>")  # T5's


def valid(text: str) -> str:
    """The text; UserError when it holds half a surrogate pair, which no UTF-8 can say."""
    if not text.isascii() and (match := SURROGATE.search(text)):
        raise UserError(f"the text holds an invalid character at {match.start()} (a byte that was not UTF-8)")
    return text


def checked(ids: Iterable[int], size: int) -> np.ndarray:
    """(n,) int64; UserError for the first id outside of the vocabulary of that size."""
    ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
    if ids.size and not (0 <= ids.min() and ids.max() < size):
        bad = int(ids[(ids < 0) | (ids >= size)][0])
        raise UserError(f"token id {bad} is outside of the vocabulary of {size}")
    return ids


def save(folder: str | os.PathLike, tokenizer: Any, record: dict) -> None:
    """Writes the record that says what kind of tokenizer is in the folder, and its fingerprint."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps({**record, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}, indent=1)
    (Path(folder) / RECORD).write_text(text + "\n", "utf-8")


def mark(name: str) -> str:
    """How the special token of that name is written in a vocabulary of ours: pad is <pad>."""
    return f"<{name}>"


def special_names(names: Sequence[str]) -> tuple[str, ...]:
    """data.special, checked: lower-case names, each once. doc is always there and need not be among them."""
    for name in names:
        if not (isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)):
            raise UserError(f"data.special: {name!r} is no name of a special token; for example pad, mask or sentinel0")
        if names.count(name) > 1:
            raise UserError(f"data.special names {name!r} twice")
    return tuple(name for name in names if name != "doc")


def named(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Name -> id for the special tokens of a vocabulary: our own <name>, and what others call the same."""
    found, others = {}, {spelling for spellings in SPELLINGS.values() for spelling in spellings}
    for token, i in vocabulary.items():
        if token in others:
            continue
        if match := SENTINEL.fullmatch(token):
            found[f"sentinel{int(match[1])}"] = i
        elif match := re.fullmatch("<([a-z][a-z0-9_]*)>", token):
            found[match[1]] = i
    for name, spellings in SPELLINGS.items():
        for spelling in spellings:
            if spelling in vocabulary:
                found[name] = vocabulary[spelling]
                break
    return found


def special_id(tokenizer: Any, name: str) -> int:
    """The id of a special token by its name: doc, pad, mask, sep, sentinel0 ... UserError names those that it has."""
    if name not in tokenizer.specials:
        hint = f"data.special={name} adds it." if name != "doc" else ""
        raise unknown("special token", name, sorted(tokenizer.specials), hint=hint)
    return tokenizer.specials[name]


def gpt2_bytes() -> dict[str, bytes]:
    """GPT-2's letter for each byte, backwards: printable Latin-1 is itself, the others follow from U+0100 in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    return {letter: bytes((byte,)) for byte, letter in letters.items()}
