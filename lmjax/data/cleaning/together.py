"""Rules that decide about a record by all the others: outliers, copies and balance, in the order of TOGETHER.

A first pass makes a signature of each record that the local rules keep, piece by piece and in any order; `decide`
looks at all of them in the order of the source; a second pass over the records obeys. A signature is 40 bytes, and 296
where near-duplicates are looked for: that, and not the text, is what memory holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from lmjax.data.cleaning import minhash
from lmjax.data.cleaning.local import TEXTS
from lmjax.data.cleaning.settings import Settings
from lmjax.data.records import Record

TOGETHER = ("outliers", "exact_duplicates", "near_duplicates", "balance")
DEVIATIONS = 3.0  # std: from the mean
RANGES = 1.5  # iqr: interquartile ranges beyond the quartiles (Tukey 1977, "Exploratory Data Analysis", 2C)


def dtype(chosen: Settings) -> np.dtype:
    """Of a signature."""
    fields = [("content", "<u8", 2), ("length", "<i8"), ("label", "<u8", 2)]
    return np.dtype(fields + ([("rows", "<u2", minhash.ROWS)] if chosen.near_duplicates is not None else []))


def content(record: Record) -> bytes:
    """16 bytes that two records share when all their fields are equal."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(record):
        raw = _raw(record[name])
        digest.update(f"{name}:{len(raw)}:".encode() + raw)
    return digest.digest()


def signature(record: Record, chosen: Settings) -> np.void:
    """What `decide` has to know of a record."""
    made = np.zeros((), dtype(chosen))
    texts = [record[name] for name in TEXTS if name in record]
    made["content"] = np.frombuffer(content(record), "<u8")
    made["length"] = sum(map(len, texts)) if texts else len(_raw(record.get("image", record.get("audio", b""))))
    if "label" in record:
        made["label"] = np.frombuffer(hashlib.blake2b(_raw(record["label"]), digest_size=16).digest(), "<u8")
    if chosen.near_duplicates is not None:
        made["rows"] = minhash.signature("\n".join(texts) if texts else made["content"].tobytes().hex())
    return made[()]


def decide(signatures: Sequence[np.ndarray], chosen: Settings) -> list[np.ndarray]:
    """For each piece's array of signatures one of uint8: 0 for a record to keep, else 1 + its rule's place in TOGETHER.

    Of copies the first in the order of the pieces is kept; each rule sees what the rules before it left.
    """
    ends = np.cumsum([len(piece) for piece in signatures])
    every = np.concatenate(signatures) if len(signatures) else np.zeros(0, dtype(chosen))
    marks = np.zeros(len(every), np.uint8)
    rules = {
        "outliers": chosen.outliers != "none" and (lambda some: _outliers(some["length"], chosen.outliers)),
        "exact_duplicates": chosen.exact_duplicates and (lambda some: _repeated(some["content"])),
        "near_duplicates": chosen.near_duplicates is not None
        and (lambda some: minhash.copies(some["rows"], chosen.near_duplicates)),
        "balance": chosen.balance is not None and (lambda some: _beyond(some, chosen.balance)),
    }
    for place, name in enumerate(TOGETHER, start=1):
        left = np.flatnonzero(marks == 0)
        if rules[name] and len(left):
            marks[left[rules[name](every[left] if len(left) < len(every) else every)]] = place
    return np.split(marks, ends[:-1]) if len(signatures) else []


def _outliers(lengths_n: np.ndarray, by: str) -> np.ndarray:
    if by == "std":
        return np.abs(lengths_n - lengths_n.mean()) > DEVIATIONS * lengths_n.std()
    low, high = np.quantile(lengths_n, [0.25, 0.75])
    room = RANGES * (high - low)
    return (lengths_n < low - room) | (lengths_n > high + room)


def _repeated(contents_n2: np.ndarray) -> np.ndarray:
    order = np.lexsort((contents_n2[:, 0], contents_n2[:, 1]))  # stable: the first of equals comes first
    same = (contents_n2[order[1:]] == contents_n2[order[:-1]]).all(axis=1)
    gone = np.zeros(len(contents_n2), bool)
    gone[order[1:][same]] = True
    return gone


def _beyond(some: np.ndarray, ratio: float) -> np.ndarray:
    """Records of a label beyond ratio times the rarest's, chosen by their content: others hardly change as data grows."""
    labels, counts = np.unique(some["label"], axis=0, return_counts=True)
    most = math.ceil(ratio * counts.min())
    gone = np.zeros(len(some), bool)
    for label in labels[counts > most]:
        of_label = np.flatnonzero((some["label"] == label).all(axis=1))
        contents = some["content"][of_label]
        gone[of_label[np.lexsort((contents[:, 0], contents[:, 1]))[most:]]] = True
    return gone


def _raw(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.tobytes() if isinstance(value, np.ndarray) else str(value).encode("utf-8", "surrogatepass")
