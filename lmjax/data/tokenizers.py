"""Text to token ids and back: bytes, byte-level BPE trained here, or any Hugging Face tokenizer.json.

Every tokenizer has one id, `doc`, that begins each document and that no text can produce. `token_bytes` says how many
bytes of UTF-8 each id stands for, which is what makes bits per byte comparable between tokenizers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.data.text import SURROGATE
from lmjax.errors import UserError, unknown

KINDS = ("bytes", "bpe")
DOC = "<doc>"
# What other people's tokenizers call the mark between documents; the first that is there is used, else <doc> is added.
SEPARATORS = (DOC, "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "[SEP]", "<s>")
VOCAB = 8192  # ids of a BPE when data.vocab is not set
LOG = logging.getLogger(__name__)
RECORD = "lmjax_tokenizer.json"
HUGGING_FACE = "tokenizer.json"


def settings(data: Any) -> dict:
    """What config.data says of the tokenizer, checked, as plain JSON: it is part of the key of everything tokenized."""
    name, vocab = data.tokenizer, data.vocab
    if vocab is not None and name != "bpe":
        raise UserError(f"data.vocab={vocab} is for data.tokenizer=bpe only; data.tokenizer={name} has its own size")
    if name == "bytes":
        return {"kind": "bytes"}
    if name == "bpe":
        vocab = VOCAB if vocab is None else vocab
        if vocab < 257:
            raise UserError(f"data.vocab={vocab}: a BPE needs at least 257 ids, one for each byte and one for {DOC}")
        return {"kind": "bpe", "vocab": vocab, "tokenizers": importlib.metadata.version("tokenizers")}
    path = Path(name).expanduser()
    path = path / HUGGING_FACE if path.is_dir() else path
    if not path.is_file():
        raise unknown("data.tokenizer", name, KINDS, hint="Or the path of a Hugging Face tokenizer.json.")
    version = importlib.metadata.version("tokenizers")
    return {"kind": "file", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "tokenizers": version}


def make(data: Any, documents: Iterable[str]) -> Bytes | HuggingFace:
    """The tokenizer that config.data names. documents (the training split alone) are read only to train a BPE."""
    chosen = settings(data)
    if chosen["kind"] == "bytes":
        return Bytes()
    if chosen["kind"] == "bpe":
        return train_bpe(documents, chosen["vocab"])
    path = Path(data.tokenizer).expanduser()
    path = path / HUGGING_FACE if path.is_dir() else path
    try:
        return _from_file(path.read_text("utf-8"))
    except Exception as error:  # the library raises a bare Exception for anything that it cannot read
        raise UserError(f"data.tokenizer={path}: not a tokenizer.json of Hugging Face tokenizers: {error}") from None


def load(folder: str | os.PathLike) -> Bytes | HuggingFace:
    """The tokenizer that `.save(folder)` wrote. UserError when it is not there or was changed."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if record["kind"] == "bytes":
            tokenizer = Bytes()
        else:
            tokenizer = HuggingFace((folder / HUGGING_FACE).read_text("utf-8"), record["doc"])
        expected = record["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no tokenizer can be read here ({error})") from None
    except Exception as error:  # the library raises a bare Exception for anything that it cannot read
        raise UserError(f"{folder / HUGGING_FACE} is damaged: {error}") from None
    if tokenizer.fingerprint != expected:
        raise UserError(f"{folder / HUGGING_FACE} is not the tokenizer that was saved here (its fingerprint differs)")
    return tokenizer


def train_bpe(documents: Iterable[str], vocab: int) -> HuggingFace:
    """Byte-level BPE of at most vocab ids (Sennrich 2016, arXiv:1508.07909; bytes: Radford 2019, GPT-2, section 2.2).

    The same documents give the same bytes on any number of threads: pairs are counted, and ties go to the lower ids.
    """
    hf = _library()
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[DOC], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(documents, trainer=trainer)
    size = model.get_vocab_size()
    if size < vocab:
        LOG.warning("the training text has only enough different words for %d of data.vocab=%d ids", size, vocab)
    return HuggingFace(model.to_str(), model.token_to_id(DOC))


@dataclass(frozen=True)
class Bytes:
    """One id for each byte of UTF-8, and 256 for <doc>."""

    doc: int = 256
    vocab_size: int = 257
    token_bytes: np.ndarray = field(default_factory=lambda: np.array([1] * 256 + [0], np.int32), compare=False)
    fingerprint: str = hashlib.sha256(b"lmjax bytes 1").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32."""
        return np.frombuffer(_valid(text).encode(), np.uint8).astype(np.int32)

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each."""
        return (self.encode(text) for text in texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, <doc> left out; bytes that are no UTF-8 become U+FFFD."""
        ids = _checked(ids, self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads."""
        _save(self, folder, {"kind": "bytes"})


class HuggingFace:
    """A tokenizer.json run by the `tokenizers` library, with truncation, padding and template tokens switched off."""

    def __init__(self, definition: str, doc: int):
        """definition: the text of a tokenizer.json that has the id doc."""
        self.definition, self.doc = definition, doc
        self._model = _library().Tokenizer.from_str(definition)
        self._model.no_truncation()
        self._model.no_padding()
        self._model.encode_special_tokens = True  # "<doc>" in a text is five letters, not the mark
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self.token_bytes, self._pieces = _token_bytes(vocabulary, self.vocab_size, json.loads(definition), doc)
        self.fingerprint = hashlib.sha256(f"{doc}\n{definition}".encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """(n,) int32."""
        return next(self.encode_batch([text]))

    def encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        """`encode` of each, on all cores."""
        for found in self._model.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False):
            ids = np.array(found.ids, np.int32)
            if (ids == self.doc).any():
                raise UserError(f"the text holds the tokenizer's mark between documents (id {self.doc}) as a word")
            yield ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, <doc> and other special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        ids = _checked(ids, self.vocab_size)
        if self._pieces is not None:
            return b"".join(self._pieces[i] for i in ids.tolist()).decode("utf-8", "replace")
        return self._model.decode(ids.tolist(), skip_special_tokens=True)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads; the tokenizer.json there is for any Hugging Face tool."""
        _save(self, folder, {"kind": "tokenizer.json", "doc": self.doc})
        (Path(folder) / HUGGING_FACE).write_text(self.definition, "utf-8", newline="")


def _from_file(definition: str) -> HuggingFace:
    model = _library().Tokenizer.from_str(definition)
    for separator in SEPARATORS:
        if (doc := model.token_to_id(separator)) is not None:
            return HuggingFace(definition, doc)
    model.add_special_tokens([DOC])
    return HuggingFace(model.to_str(), model.token_to_id(DOC))


def _token_bytes(vocabulary: dict[str, int], size: int, definition: dict, doc: int):
    """Bytes of UTF-8 each id stands for, (size,) int32; and the bytes themselves, or None when it is not byte-level.

    Exact for byte-level tokenizers and, but for a space put before the text, for SentencePiece's with byte fallback;
    an estimate for those that drop or change characters. Whoever tokenizes a corpus compares the sums.
    """
    special = {token["id"]: token for token in definition.get("added_tokens", ())}
    byte_level = _mentions(definition.get("decoder"), "ByteLevel")
    table = _gpt2_bytes()
    pieces = [b""] * size
    for token, i in vocabulary.items():
        if i in special:
            pieces[i] = b"" if special[i]["special"] else token.encode()
        elif byte_level:
            pieces[i] = b"".join(table.get(letter) or letter.encode() for letter in token)
        elif match := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):
            pieces[i] = bytes.fromhex(match[1])
        else:
            pieces[i] = token.removeprefix("##").replace("\u2581", " ").encode()
    pieces[doc] = b""
    return np.array([len(piece) for piece in pieces], np.int32), pieces if byte_level else None


def _mentions(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json is of that type, or a sequence that has one."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(value, kind) for value in part.values())
    return isinstance(part, list) and any(_mentions(value, kind) for value in part)


def _gpt2_bytes() -> dict[str, bytes]:
    """GPT-2's letter for each byte, backwards: printable Latin-1 is itself, the others follow from U+0100 in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    return {letter: bytes((byte,)) for byte, letter in letters.items()}


def _valid(text: str) -> str:
    if not text.isascii() and (match := SURROGATE.search(text)):
        raise UserError(f"the text holds an invalid character at {match.start()} (a byte that was not UTF-8)")
    return text


def _checked(ids: Iterable[int], size: int) -> np.ndarray:
    ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
    if ids.size and not (0 <= ids.min() and ids.max() < size):
        bad = int(ids[(ids < 0) | (ids >= size)][0])
        raise UserError(f"token id {bad} is outside of the vocabulary of {size}")
    return ids


def _save(tokenizer: Bytes | HuggingFace, folder: str | os.PathLike, record: dict) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps({**record, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}, indent=1)
    (Path(folder) / RECORD).write_text(text + "\n", "utf-8")


def _library():
    """The `tokenizers` library: 60 ms to import, and not needed for bytes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns of every process started after it has run
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
