"""Words and n-grams of words as 64-bit hashes: the same on every machine, in NumPy where texts are long."""

from __future__ import annotations

import functools
import hashlib
import re

import numpy as np

# A word is a run of letters and digits; each sign of Chinese and Japanese, which write no spaces, is one by itself.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]|[^\W_\u3040-\u30ff\u3400-\u9fff]+"
)
FACTOR = np.uint64(0x9E3779B97F4A7C15)


@functools.lru_cache(maxsize=1 << 18)
def word_hash(word: str) -> int:
    """The first 8 bytes of a word's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def hashes(found: list[str]) -> np.ndarray:
    """(n,) uint64, one a word."""
    return np.fromiter(map(word_hash, found), np.uint64, len(found))


def ngrams(hashes_n: np.ndarray, n: int) -> np.ndarray:
    """(max(0, len - n + 1),) uint64: the hash of each run of n words, in which their order counts."""
    count = len(hashes_n) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = hashes_n[:count].copy()
    for i in range(1, n):
        total *= FACTOR  # modulo 2^64
        total += hashes_n[i : i + count]
    return mix(total)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that spreads every bit over all of them (splitmix64's finalizer; Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
