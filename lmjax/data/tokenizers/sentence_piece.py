"""SentencePiece models (Kudo 2018, arXiv:1808.06226), run by the `sentencepiece` library."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lmjax.data.tokenizers.ids import checked, named, save, special_id, special_names, valid
from lmjax.errors import UserError

MODEL = "tokenizer.model"


class SentencePiece:
    """A .model file. Its control symbols are special tokens; those that it lacks get ids after its own.

    <doc> is always such an id after its own, which no text can produce. Most models change text before they cut it
    (NFKC, spaces): `lossless` is False for those.
    """

    def __init__(self, content: bytes, special: Sequence[str] = ()):
        """content: the bytes of the file. UserError when it is no model, or sentencepiece is not installed."""
        self.content, names = content, special_names(special)
        try:
            import sentencepiece
        except ImportError:
            raise UserError("a SentencePiece model needs sentencepiece: pip install sentencepiece") from None
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        model, size = self._model, self._model.get_piece_size()
        hidden = [i for i in range(size) if model.is_control(i) or model.is_unknown(i)]
        self.specials = named({model.id_to_piece(i): i for i in hidden})
        self.specials["doc"] = self.doc = size
        for name in names:
            self.specials.setdefault(name, max(size, *self.specials.values()) + 1)
        self.names, self._size = names, size
        self.vocab_size = max(self.specials.values()) + 1
        shown = set(range(size)) - set(hidden)
        self.pieces = [_piece_bytes(model, i) if i in shown else b"" for i in range(self.vocab_size)]
        self.token_bytes = np.array([len(piece) for piece in self.pieces], np.int32)
        self.lossless = _keeps_all(content, model)
        about = json.dumps([names, hashlib.sha256(content).hexdigest()])
        self.fingerprint = hashlib.sha256(about.encode()).hexdigest()

    special = special_id

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32."""
        return np.array(self._model.encode(valid(text)), np.int32)

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each."""
        return (self.encode(text) for text in texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        ids = checked(ids, self.vocab_size)
        return self._model.decode(ids[ids < self._size].tolist())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 of `decode`."""
        return self.decode(ids).encode()

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads."""
        save(folder, self, {"kind": "sentencepiece", "special": self.names})
        (Path(folder) / MODEL).write_bytes(self.content)


def _piece_bytes(model, i: int) -> bytes:
    piece = model.id_to_piece(i)
    if model.is_byte(i):
        return bytes.fromhex(re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)[1])
    return piece.replace("\u2581", " ").encode()


def _keeps_all(content: bytes, model) -> bool:
    """Whether any text comes back: no normalisation, no space added or removed, and bytes for unknown characters."""
    probes = ("", " ", "a", " a", "a  b ", "\n\ta", "\ufb01 e\u0301 \u212b", "\u2581", "<s>", "\u4f60\u597d\U0001f468")
    return all(model.decode(model.encode(probe)) == probe for probe in probes)
