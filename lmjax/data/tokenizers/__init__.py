"""Text to token ids and back: bytes, characters, words, four kinds trained here, and files that others trained.

Every tokenizer has one id, `doc`, that begins each document and that no text can produce. `token_bytes` says how many
bytes of UTF-8 each id stands for, which is what makes bits per byte comparable between tokenizers. `lossless` says
whether any text comes back as it was; `special(name)` is the id of another special token that data.special adds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmjax.data.tokenizers.hugging_face import FILE, HuggingFace, from_file
from lmjax.data.tokenizers.ids import DOC, RECORD, special_names
from lmjax.data.tokenizers.plain import SYMBOLS, Bytes, Symbols, train_symbols
from lmjax.data.tokenizers.sentence_piece import MODEL, SentencePiece
from lmjax.data.tokenizers.training import (
    FEWEST,
    TRAINERS,
    train_bpe,
    train_char_bpe,
    train_unigram,
    train_wordpiece,
)
from lmjax.errors import UserError, unknown

__all__ = [
    "KINDS",
    "TRAINED",
    "Bytes",
    "HuggingFace",
    "SentencePiece",
    "Symbols",
    "Tokenizer",
    "load",
    "make",
    "settings",
    "train_bpe",
    "train_char_bpe",
    "train_symbols",
    "train_unigram",
    "train_wordpiece",
]
Tokenizer = Bytes | Symbols | HuggingFace | SentencePiece
TRAINED = ("chars", "words", *TRAINERS)  # those that read the training split before they are
KINDS = ("bytes", *TRAINED)
SAMPLE, EACH = 16 << 20, 512  # bytes of text that one is trained on at most, and for each of its ids
VOCAB = 8192  # ids of words, and of those with pieces of words, when data.vocab is not set
HINT = "Or the path of a Hugging Face tokenizer.json or of a SentencePiece .model."


def settings(data: Any) -> dict:
    """What config.data says of the tokenizer, checked, as plain JSON: it is part of the key of everything tokenized."""
    name, vocab, special = data.tokenizer, data.vocab, _special(data)
    if vocab is not None and name not in TRAINED:
        kinds = ", ".join(TRAINED)
        raise UserError(f"data.vocab={vocab} is for data.tokenizer={kinds} only; {name} has its own size")
    chosen = {"kind": name}
    if name in TRAINERS:
        chosen |= {"vocab": _size(name, vocab, special), "tokenizers": importlib.metadata.version("tokenizers")}
    elif name == "words":
        chosen |= {"vocab": _size(name, vocab, special), "unicode": unicodedata.unidata_version}
    elif name == "chars":
        chosen |= {"vocab": vocab}
    elif name != "bytes":
        path = _path(name)
        library = "sentencepiece" if path.suffix == ".model" else "tokenizers"
        chosen = {"kind": "file", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        chosen[library] = _version(library)
    return chosen | ({"special": list(special)} if special else {})


def sample(data: Any, size: int | None) -> int | None:
    """Bytes of the training text from which the tokenizer of config.data is made, of files that hold `size`; None: all.

    Its memory grows with the different words that it meets. Of 1 GB, 16 MiB from everywhere in it give pieces that cut
    other text of it into 0.1 % more ids than those of 64 MiB (8,192 ids; 0.5 % of 32,000). Characters are never left out.
    """
    chosen = settings(data)
    if chosen["kind"] not in (*TRAINERS, "words"):
        return None
    most = max(SAMPLE, EACH * chosen["vocab"])
    least = size if data.limit is None or size is None else min(size, data.limit)
    return most if least is not None and least > most else None


def make(data: Any, documents: Iterable[str]) -> Tokenizer:
    """The tokenizer that config.data names. documents (the training split alone) are read only to train one."""
    chosen, special = settings(data), _special(data)
    kind = chosen["kind"]
    if kind == "bytes":
        return Bytes(special)
    if kind in ("chars", "words"):
        return train_symbols(kind, documents, chosen["vocab"], special)
    if kind in TRAINERS:
        return TRAINERS[kind](documents, chosen["vocab"], special)
    path = _path(data.tokenizer)
    if path.suffix == ".model":
        return SentencePiece(path.read_bytes(), special)
    try:
        return from_file(path.read_text("utf-8"), special)
    except Exception as error:  # the library raises a bare Exception for anything that it cannot read
        raise UserError(f"data.tokenizer={path}: not a tokenizer.json of Hugging Face tokenizers: {error}") from None


def load(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer that `.save(folder)` wrote. UserError when it is not there or was changed."""
    folder = Path(folder)
    file = folder / RECORD
    try:
        record = json.loads(file.read_text("utf-8"))
        kind, expected = record["kind"], record["fingerprint"]
        if kind == "bytes":
            tokenizer = Bytes(record.get("special", ()))
        elif kind in ("chars", "words"):
            file = folder / SYMBOLS
            tokenizer = Symbols(kind, json.loads(file.read_text("utf-8")), record["special"])
        elif kind == "sentencepiece":
            file = folder / MODEL
            tokenizer = SentencePiece(file.read_bytes(), record["special"])
        else:
            file = folder / FILE
            tokenizer = HuggingFace(file.read_text("utf-8"), record["doc"])
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no tokenizer can be read here ({error})") from None
    except Exception as error:  # the library raises a bare Exception for anything that it cannot read
        raise UserError(f"{file} is damaged: {error}") from None
    if tokenizer.fingerprint != expected:
        raise UserError(f"{file} is not the tokenizer that was saved here (its fingerprint differs)")
    return tokenizer


def _special(data: Any) -> tuple[str, ...]:
    return special_names(getattr(data, "special", None) or ())  # runs from before there were any have no such leaf


def _size(name: str, vocab: int | None, special: tuple[str, ...]) -> int:
    """The number of ids of a trained tokenizer; UserError when there is no room for those that it must have."""
    vocab = VOCAB if vocab is None else vocab
    fewest = FEWEST.get(name, 2) + 1 + len(special)
    if vocab < fewest:
        what = f"one for each byte and one for {DOC}" if name in TRAINERS else f"among them {DOC} and <unk>"
        raise UserError(f"data.vocab={vocab}: data.tokenizer={name} needs at least {fewest} ids, {what}")
    return vocab


def _path(name: str) -> Path:
    path = Path(name).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise unknown("data.tokenizer", name, KINDS, hint=HINT)
    return path


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"data.tokenizer needs {library}: pip install {library}") from None
