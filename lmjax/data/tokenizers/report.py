"""What a tokenizer makes of a text, in numbers that help to choose one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

BORDER = "\u2502"
SAMPLE = 240  # characters of the text that is shown cut into tokens
TOGETHER = 12  # tokens that together may make one character
SECONDS = 0.3  # that encoding is timed for, at least
MOST, LONGEST = 12, 6  # tokens that are listed


def report(tokenizer: Any, texts: Iterable[str]) -> dict[str, str]:
    """Numbers of a tokenizer on texts, by what they are, ready to print; `measure` has them as numbers."""
    texts = [text for text in texts if text]
    found = measure(tokenizer, texts)
    unknown = f", {found['unknown']:,} of them <unk>" if found["unknown"] else ""
    kept = "any text comes back as it was" if tokenizer.lossless else "text may change: this tokenizer is lossy"
    marks = ", ".join(f"{name} {i}" for name, i in sorted(tokenizer.specials.items(), key=lambda item: item[1]))
    shown = {
        "ids": f"{tokenizer.vocab_size:,}; {kept}",
        "special tokens": marks,
        "text": f"{len(texts):,} documents, {found['bytes']:,} bytes, {found['tokens']:,} tokens{unknown}",
        "bytes per token": f"{found['bytes_per_token']:.2f}",
        "tokens per word": f"{found['tokens_per_word']:.2f}",
        "ids not used by this text": f"{found['unused']:,} ({found['unused'] / tokenizer.vocab_size:.0%})",
        "most frequent tokens": " ".join(map(repr, found["most_frequent"])),
        "longest tokens": " ".join(map(repr, found["longest"])),
        "speed on one core": f"{found['megabytes_per_second']:.1f} MB/s, {found['tokens_per_second']:,.0f} tokens/s",
        "encoded by": getattr(tokenizer, "engine", type(tokenizer).__name__),
    }
    if texts:
        shown["sample"] = BORDER.join(pieces(tokenizer, tokenizer.encode(texts[0][:SAMPLE])))
    return shown


def measure(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """The numbers of `report`; words are what white space parts. Tokens are without <doc>."""
    encoded = list(tokenizer.encode_batch(texts))
    ids = np.concatenate([np.zeros(0, np.int32), *encoded])
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    size, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    order = np.argsort(-counts, kind="stable")
    used = np.flatnonzero(counts)
    longest = used[np.argsort(-tokenizer.token_bytes[used], kind="stable")]
    seconds = _seconds(tokenizer, texts)
    unknown = tokenizer.specials.get("unk")
    return {
        "bytes": size,
        "tokens": len(ids),
        "bytes_per_token": size / max(1, len(ids)),
        "tokens_per_word": len(ids) / max(1, words),
        "unused": int((counts == 0).sum()),
        "unknown": 0 if unknown is None else int(counts[unknown]),
        "most_frequent": [tokenizer.decode([int(i)]) for i in order[:MOST] if counts[i]],
        "longest": [tokenizer.decode([int(i)]) for i in longest[:LONGEST]],
        "megabytes_per_second": size / 1e6 / seconds,
        "tokens_per_second": len(ids) / seconds,
    }


def pieces(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """The text of each token; of several together where one alone is no whole character."""
    found, i = [], 0
    while i < len(ids):
        whole = (n for n in range(1, TOGETHER) if "\ufffd" not in tokenizer.decode(ids[i : i + n]))
        length = next(whole, 1)
        found.append(tokenizer.decode(ids[i : i + length]))
        i += length
    return found


def _seconds(tokenizer: Any, texts: list[str]) -> float:
    """Seconds to encode texts once, the words having been met before."""
    start, times = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < SECONDS or not times:
        for _ in tokenizer.encode_batch(texts):
            pass
        times += 1
    return max(spent, 1e-9) / times
