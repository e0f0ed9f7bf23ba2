"""Tokenizers of a few lines: bytes, characters and whole words."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lmjax.data.tokenizers.ids import checked, mark, save, special_id, special_names, valid
from lmjax.errors import UserError

SYMBOLS = "symbols.json"
# A run of letters, digits and underscores, or of other marks, with the space before it; or what white space is left.
WORD = re.compile(r" ?\w{1,64}| ?[^\w\s]{1,64}|\s{1,64}(?!\S)|\s")


class Bytes:
    """One id for each byte of UTF-8, 256 for <doc>, and from 257 on the special tokens that were asked for."""

    lossless = True

    def __init__(self, special: Sequence[str] = ()):
        """special: names of more special tokens, as data.special has them."""
        self.names = special_names(special)
        self.doc, self.vocab_size = 256, 257 + len(self.names)
        self.specials = {name: 256 + i for i, name in enumerate(("doc", *self.names))}
        self.token_bytes = np.array([1] * 256 + [0] * (1 + len(self.names)), np.int32)
        about = json.dumps(self.names) if self.names else ""
        self.fingerprint = hashlib.sha256(b"lmjax bytes 1" + about.encode()).hexdigest()

    special = special_id

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32."""
        return np.frombuffer(valid(text).encode(), np.uint8).astype(np.int32)

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each."""
        return (self.encode(text) for text in texts)

    def encode_bytes(self, content: bytes) -> np.ndarray:
        """(n,) int32, of any bytes."""
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for."""
        ids = checked(ids, self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads."""
        save(folder, self, {"kind": "bytes", "special": self.names} if self.names else {"kind": "bytes"})


class Symbols:
    """One id for each character, or each word, that the training split has; <unk> for any other, which is lossy.

    A word brings the space before it, so words joined are the text. Ids: <doc>, <unk>, special tokens, then symbols,
    the most frequent first.
    """

    lossless = False

    def __init__(self, kind: Literal["chars", "words"], symbols: Sequence[str], special: Sequence[str] = ()):
        """symbols: in the order of their ids."""
        self.kind, self.symbols, self.names = kind, tuple(symbols), special_names([n for n in special if n != "unk"])
        first = 2 + len(self.names)
        self.doc, self.unk, self.vocab_size = 0, 1, first + len(self.symbols)
        self.specials = {name: i for i, name in enumerate(("doc", "unk", *self.names))}
        self.pieces = [""] * first + list(self.symbols)
        self.token_bytes = np.array([len(piece.encode()) for piece in self.pieces], np.int32)
        self._ids = {symbol: first + i for i, symbol in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            raise ValueError(f"the {kind} of a tokenizer are not different from each other")
        if kind == "chars":
            self._table = np.full(0x110000, self.unk, np.int32)
            self._table[[ord(symbol) for symbol in self.symbols]] = range(first, self.vocab_size)
        content = json.dumps([kind, self.names, self.symbols])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    special = special_id

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32; what was never seen in training is <unk>."""
        if self.kind == "chars":
            return self._table[np.frombuffer(valid(text).encode("utf-32-le"), np.uint32)]
        find, unk = self._ids.get, self.unk
        return np.array([find(word, unk) for word in WORD.findall(valid(text))], np.int32)

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each."""
        return (self.encode(text) for text in texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, U+FFFD for <unk>, other special tokens left out."""
        ids = checked(ids, self.vocab_size).tolist()
        return "".join("\ufffd" if i == self.unk else self.pieces[i] for i in ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 of `decode`."""
        return self.decode(ids).encode()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads."""
        save(folder, self, {"kind": self.kind, "special": self.names})
        (Path(folder) / SYMBOLS).write_text(json.dumps(self.symbols, ensure_ascii=False) + "\n", "utf-8", newline="")


def train_symbols(
    kind: Literal["chars", "words"], documents: Iterable[str], vocab: int | None = None, special: Sequence[str] = ()
) -> Symbols:
    """The most frequent characters or words of documents, at most vocab ids; equally frequent ones by code point."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document if kind == "chars" else WORD.findall(document))
    symbols = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    names = special_names([name for name in special if name != "unk"])
    room = len(symbols) if vocab is None else vocab - 2 - len(names)
    if room < 1:
        marks = " ".join(mark(name) for name in ("doc", "unk", *names))
        raise UserError(f"data.vocab={vocab} leaves no id for {kind} beside {marks}")
    return Symbols(kind, symbols[:room], names)
