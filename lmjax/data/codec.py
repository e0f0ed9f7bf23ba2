"""Records of several arrays as bytes: a table of sizes, then the arrays one after the other, little-endian."""

from __future__ import annotations

import numpy as np

SIZES = np.dtype("<u4")


def pack(parts: list[bytes | np.ndarray]) -> bytes:
    """One record of these parts."""
    raw = [part if isinstance(part, bytes) else part.tobytes() for part in parts]
    return np.array([len(part) for part in raw], SIZES).tobytes() + b"".join(raw)


def unpack(record: bytes, count: int) -> list[memoryview]:
    """The `count` parts of a record that `pack` made."""
    ends = SIZES.itemsize * count + np.cumsum(np.frombuffer(record, SIZES, count), dtype=np.int64)
    starts = [SIZES.itemsize * count, *ends[:-1].tolist()]
    view = memoryview(record)
    return [view[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
