"""A tokenizer.json: a vocabulary in the format of the Hugging Face `tokenizers` library, trained here or given."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data.tokenizers import engines
from lmjax.data.tokenizers.ids import DOC, checked, gpt2_bytes, mark, named, save, special_id, special_names, valid
from lmjax.errors import UserError

FILE = "tokenizer.json"
# What other people's tokenizers call the mark between documents; the first that is there is used, else <doc> is added.
SEPARATORS = (DOC, "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "[SEP]", "<s>")


class HuggingFace:
    """A tokenizer.json with truncation, padding and template tokens switched off, run by the fastest engine there is."""

    def __init__(self, definition: str, doc: int):
        """definition: the text of a tokenizer.json that has the id doc."""
        self.definition, self.doc = definition, doc
        self._model = library().Tokenizer.from_str(definition)
        self._model.no_truncation()
        self._model.no_padding()
        self._model.encode_special_tokens = True  # "<doc>" in a text is five letters, not the mark
        vocabulary = self.vocabulary = self._model.get_vocab(with_added_tokens=True)
        parts = json.loads(definition)
        self.vocab_size = max(vocabulary.values()) + 1
        self.specials = named({token["content"]: token["id"] for token in parts.get("added_tokens", ())})
        self.specials["doc"] = doc
        self.token_bytes, self.pieces = _token_bytes(vocabulary, self.vocab_size, parts, doc)
        self.lossless = self.pieces is not None and _keeps_all(parts, self.pieces)
        self.fingerprint = hashlib.sha256(f"{doc}\n{definition}".encode()).hexdigest()
        self._engine, self._start = None, functools.partial(engines.fastest, self._model, definition)

    special = special_id

    @property
    def engine(self) -> str:
        """The name of what encodes: gigatoken, words or tokenizers. The ids are the same with each."""
        if self._engine is None:
            self._engine = self._start()
        return self._engine.name

    def forget(self) -> None:
        """Let go of the words that the engine remembers; the library keeps its own few, and would lose them for good."""
        if self._engine is not None:
            self._engine, self._start = None, self._engine.fresh

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32."""
        return next(self.encode_batch([text]))

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each. UserError when a text holds the mark between documents as a word."""
        _ = self.engine
        found = list(self._engine.encode_batch(list(map(valid, texts))))
        if found and (np.concatenate(found) == self.doc).any():
            raise UserError(f"the text holds the tokenizer's mark between documents (id {self.doc}) as a word")
        return iter(found)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, <doc> and other special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        ids = checked(ids, self.vocab_size)
        if self.pieces is not None:
            return b"".join(self.pieces[i] for i in ids.tolist()).decode("utf-8", "replace")
        return self._model.decode(ids.tolist(), skip_special_tokens=True)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for: half a character too, where the vocabulary is of bytes."""
        if self.pieces is None:
            return self.decode(ids).encode()
        return b"".join(self.pieces[i] for i in checked(ids, self.vocab_size).tolist())

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads; the tokenizer.json there is for any Hugging Face tool."""
        save(folder, self, {"kind": "tokenizer.json", "doc": self.doc})
        (Path(folder) / FILE).write_text(self.definition, "utf-8", newline="")


def from_file(definition: str, special: Sequence[str] = ()) -> HuggingFace:
    """A given tokenizer.json with a mark between documents, and the special tokens of those names: added when missing."""
    model = library().Tokenizer.from_str(definition)
    doc = next((i for token in SEPARATORS if (i := model.token_to_id(token)) is not None), None)
    missing = [DOC] if doc is None else []
    if special:
        present = named({token.content: i for i, token in model.get_added_tokens_decoder().items() if token.special})
        missing += [mark(name) for name in special_names(special) if name not in present]
    if missing:
        model.add_special_tokens(missing)
        definition = model.to_str()
    return HuggingFace(definition, model.token_to_id(DOC) if doc is None else doc)


def _token_bytes(vocabulary: dict[str, int], size: int, definition: dict, doc: int):
    """Bytes of UTF-8 each id stands for, (size,) int32; and the bytes themselves, or None when they are not the text.

    Exact for byte-level tokenizers and, but for a space put before the text, for SentencePiece's with byte fallback;
    an estimate for those that drop or change characters. Whoever tokenizes a corpus compares the sums.
    """
    special = {token["id"]: token for token in definition.get("added_tokens", ())}
    decoders = _types(definition.get("decoder"))
    byte_level = "ByteLevel" in decoders
    byte_fallback = decoders == {"Sequence", "ByteFallback", "Fuse"} and definition.get("normalizer") is None
    prefix = definition["model"].get("continuing_subword_prefix") or ""
    table = gpt2_bytes()
    pieces = [b""] * size
    for token, i in vocabulary.items():
        if i in special:
            pieces[i] = b"" if special[i]["special"] else token.encode()
        elif byte_level:
            letters = token.removeprefix(prefix)
            pieces[i] = b"".join(table.get(letter) or letter.encode() for letter in letters)
        elif match := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):
            pieces[i] = bytes.fromhex(match[1])
        else:
            pieces[i] = token.removeprefix(prefix)
            pieces[i] = (pieces[i] if byte_fallback else pieces[i].replace("\u2581", " ")).encode()
    pieces[doc] = b""
    return np.array([len(piece) for piece in pieces], np.int32), pieces if byte_level or byte_fallback else None


def _keeps_all(definition: dict, pieces: list[bytes]) -> bool:
    """Whether any text comes back: nothing is normalised, dropped or put in, and there is an id for every byte."""
    before = json.dumps(definition.get("pre_tokenizer"))
    changed = definition.get("normalizer") is not None or '"add_prefix_space": true' in before or '"Removed"' in before
    changed |= not _types(definition.get("pre_tokenizer")) <= {"ByteLevel", "Split", "Sequence", "Digits"}
    return not changed and {bytes((byte,)) for byte in range(256)} <= set(pieces)


def _types(part: Any) -> set[str]:
    """The types of a part of a tokenizer.json and of the parts in it: {"Sequence", "Split", "ByteLevel"}."""
    if isinstance(part, dict):
        return set().union([part["type"]] if "type" in part else [], *(_types(value) for value in part.values()))
    return set().union(*(_types(item) for item in part)) if isinstance(part, list) else set()


def library():
    """The `tokenizers` library: 60 ms to import, and not needed for bytes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns of every process started after it has run
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
