"""Training and validation by content: which documents the model never sees."""

from __future__ import annotations

import hashlib
from typing import Any

from lmjax.errors import UserError


class Split:
    """Which split a text or an image file is in: its SHA-256, read as a fraction, below valid_fraction is validation.

    So a document stays where it is whatever is added, and copies of one are never on both sides.
    """

    def __init__(self, valid_fraction: float):
        self.valid_fraction, self.lowest, self.highest = valid_fraction, 1.0, 0.0

    def of(self, document: str | bytes) -> str:
        """The split of a document."""
        raw = document.encode() if isinstance(document, str) else document
        fraction = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") / 2**64
        self.saw(fraction, fraction)
        return "valid" if fraction < self.valid_fraction else "train"

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
