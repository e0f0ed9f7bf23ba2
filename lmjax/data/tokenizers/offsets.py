"""Which characters of a text each of its tokens stands for."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmjax.data.tokenizers.hugging_face import HuggingFace
from lmjax.data.tokenizers.plain import WORD, Bytes, Symbols


def offsets(tokenizer: Any, text: str) -> np.ndarray:
    """(n, 2) int64: the first character of each token of `tokenizer.encode(text)`, and the one after its last."""
    if isinstance(tokenizer, Bytes):
        sizes = np.array([len(character.encode()) for character in text], np.int64)
        first = np.repeat(np.arange(len(text)), sizes)
        return np.stack([first, first + 1], 1)
    if isinstance(tokenizer, Symbols):
        if tokenizer.kind == "chars":
            return np.stack([np.arange(len(text)), np.arange(len(text)) + 1], 1)
        return _pairs([match.span() for match in WORD.finditer(text)])
    if isinstance(tokenizer, HuggingFace):
        return _pairs(tokenizer._model.encode(text, add_special_tokens=False).offsets)
    return _pairs(
        [(piece.begin, piece.end) for piece in tokenizer._model.encode(text, out_type="immutable_proto").pieces]
    )


def covered(places: np.ndarray, start: int, stop: int) -> tuple[int, int] | None:
    """The first and the last token that stand for some of the characters start to stop - 1; None without any."""
    held = np.flatnonzero((places[:, 1] > start) & (places[:, 0] < stop))
    return (int(held[0]), int(held[-1])) if len(held) else None


def _pairs(found: list[tuple[int, int]]) -> np.ndarray:
    return np.array(found, np.int64).reshape(-1, 2)
