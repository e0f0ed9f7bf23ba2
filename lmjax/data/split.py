"""Training and validation: which documents the model never sees, by their content or because a source has them."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from lmjax.errors import UserError


class Split:
    """Which split a text or an image file is in: its SHA-256, read as a fraction, below valid_fraction is validation.

    So a document stays where it is whatever is added, and copies of one are never on both sides. start: where the
    fractions for validation begin, of the folds of a cross-validation.
    """

    def __init__(self, valid_fraction: float, start: float = 0.0):
        self.valid_fraction, self.start, self.lowest, self.highest = valid_fraction, start, 1.0, 0.0

    def of(self, document: str | bytes) -> str:
        """The split of a document."""
        raw = document.encode() if isinstance(document, str) else document
        fraction = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") / 2**64
        self.saw(fraction, fraction)
        return "valid" if self.start <= fraction < self.valid_fraction else "train"

    def saw(self, lowest: float, highest: float) -> None:
        """Fractions of documents that another split of them met."""
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)

    def check(self, tally: dict, data: Any) -> None:
        """UserError when a split is empty, with what to do."""
        count = tally["documents"] - tally.get("unseen_labels", 0)
        said = f"data.source={data.source} has {count} document{'s' if count != 1 else ''}"
        if data.limit is not None:
            said += f" within data.limit={data.limit} bytes"
        if count < 2:
            more = "raise data.limit" if tally["limited"] else "add text"
            raise UserError(f"{said}: too few to train on some and validate on others; {more}")
        folds = getattr(data, "folds", None)
        if folds is not None or getattr(data, "valid_source", None) is not None:
            return  # neither goes by valid_fraction: `check_documents`
        if self.lowest >= self.valid_fraction:
            fraction = min(0.999, int(self.lowest * 1000 + 1) / 1000)
            raise UserError(
                f"{said}, none of which is among the data.valid_fraction={self.valid_fraction} kept for validation; "
                f"add text, or set data.valid_fraction={fraction}"
            )
        if self.highest < self.valid_fraction:
            fraction = int(self.highest * 1000) / 1000
            raise UserError(
                f"{said}, all of which are among the data.valid_fraction={self.valid_fraction} kept for validation; "
                f"add text, or set data.valid_fraction={fraction}"
            )


class Given:
    """The split of all that a part holds, where a source of its own is for validation."""

    lowest, highest = 1.0, 0.0  # fractions decide nothing

    def __init__(self, name: str):
        self.name = name

    def of(self, document: str | bytes) -> str:
        """The split of a document."""
        return self.name


def bounds(data: Any) -> tuple[float, float]:
    """(end, start) of the fractions that are for validation: up to data.valid_fraction, or those of a fold."""
    folds, fold = getattr(data, "folds", None), getattr(data, "fold", 0)
    if folds is None:
        return data.valid_fraction, 0.0
    return (fold + 1) / folds, fold / folds


def key(data: Any) -> dict:
    """What names the split in the key of prepared data."""
    folds, source = getattr(data, "folds", None), getattr(data, "valid_source", None)
    if source is not None:
        return {"valid_fraction": None}  # the source is part of the sources' fingerprint
    return {"valid_fraction": data.valid_fraction} if folds is None else {"folds": [folds, data.fold]}


def check(data: Any) -> None:
    """UserError for a fraction or a fold that is none."""
    folds, fold = getattr(data, "folds", None), getattr(data, "fold", 0)
    if not (math.isfinite(data.valid_fraction) and 0 < data.valid_fraction < 1):
        raise UserError(f"data.valid_fraction={data.valid_fraction}: must be between 0 and 1, such as 0.05")
    if folds is None and fold:
        raise UserError(f"data.fold={fold} is one of data.folds, which says how many there are: set it, such as 5")
    if folds is None:
        return
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(
            f"data.folds={folds}, data.fold={fold}: at least 2 folds, numbered from 0 to {max(folds, 2) - 1}"
        )
    if (source := getattr(data, "valid_source", None)) is not None:
        raise UserError(
            f"data.folds={folds} cuts data.source, and data.valid_source={source} is validated on: leave one out"
        )


def check_documents(splits: dict, data: Any) -> None:
    """UserError when a fold or a validation source leaves nothing to train or to validate on."""
    folds, source = getattr(data, "folds", None), getattr(data, "valid_source", None)
    for name, found in splits.items() if folds is not None or source is not None else ():
        if not found["documents"]:
            which = f"data.valid_source={source}" if source is not None else f"fold {data.fold} of {folds}"
            more = "it has no document that can be used" if source is not None else "fewer folds, or more text"
            raise UserError(f"data.source={data.source}, {which}: no document of the {name} split; {more}")
