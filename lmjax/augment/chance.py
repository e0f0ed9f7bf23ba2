"""Random numbers that a name decides: the same on every machine and with every version of NumPy."""

from __future__ import annotations

import hashlib
import math

import numpy as np


class Chance:
    """A stream of Philox's raw output (which NumPy keeps as it is) whose key is the hash of the names."""

    def __init__(self, *names: object):
        digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
        self._philox = np.random.Philox(key=np.frombuffer(digest[:16], "<u8"))

    def units(self, n: int) -> np.ndarray:
        """(n,) float64 from 0 to below 1."""
        return (self._philox.random_raw(n) >> np.uint64(11)) * 2.0**-53

    def below(self, n: int) -> int:
        """0 to n - 1."""
        return int(self._philox.random_raw()) * n >> 64

    def round(self, x: float) -> int:
        """x rounded up or down, so that it is x on average."""
        return math.floor(x + float(self.units(1)[0]))

    def some(self, n: int, count: int) -> list[int]:
        """`count` different ones of 0 to n - 1 (all, when there are not so many), in any order."""
        return np.argsort(self._philox.random_raw(n), kind="stable")[:count].tolist() if n else []
