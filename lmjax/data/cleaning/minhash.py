"""Near-duplicates by MinHash and locality-sensitive hashing over word 5-grams, in NumPy.

Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", 3.4. Candidates share a band of rows; the share of equal rows then estimates their Jaccard similarity.
"""

from __future__ import annotations

import hashlib

import numpy as np

from lmjax.data.cleaning.words import hashes, mix, ngrams, words

SHINGLE = 5  # words; Lee et al. 2022, arXiv:2107.06499, 4.2
ROWS = 128  # hash functions: the estimate's standard error is at most 0.044
RECALL = 0.99  # probability at the threshold that two texts share a band
NEIGHBOURS = 8  # of a text in its bucket that it is compared with in one round, besides the bucket's first
CHUNK = 2048  # shingles hashed at a time
SEED = np.frombuffer(b"".join(hashlib.sha256(b"lmjax/minhash/%d" % i).digest() for i in range(ROWS // 4)), "<u4")
FACTORS, SHIFTS = SEED[:ROWS] | np.uint32(1), SEED[ROWS:]


def signature(text: str) -> np.ndarray:
    """(ROWS,) uint16 of a text's 5-grams; a text of fewer words is one n-gram, one of none is like itself alone."""
    hashed = hashes(words(text))
    if not len(hashed):
        return np.frombuffer(hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * ROWS), "<u2")
    shingles = (ngrams(hashed, min(SHINGLE, len(hashed))) >> np.uint64(32)).astype(np.uint32)
    least = np.full(ROWS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(shingles), CHUNK):
        permuted = FACTORS[:, None] * shingles[start : start + CHUNK]  # modulo 2^32
        permuted += SHIFTS[:, None]
        np.minimum(least, permuted.min(axis=1), out=least)
    return (mix(least.astype(np.uint64)) >> np.uint64(48)).astype(np.uint16)


def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the longest bands that still find RECALL of the pairs at the threshold."""
    for rows in range(ROWS // 2, 0, -1):
        if 1 - (1 - threshold**rows) ** (ROWS // rows) >= RECALL:
            return ROWS // rows, rows
    return ROWS, 1


def similarity(a_nk: np.ndarray, b_nk: np.ndarray) -> np.ndarray:
    """(n,) float: the estimated Jaccard similarity of the texts of two arrays of signatures, pair by pair."""
    return (a_nk == b_nk).mean(axis=1)


def copies(signatures_nk: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool: which texts are at least that similar to one that stands before them and is kept.

    Rounds are repeated on what is kept until one finds nothing, so a big bucket is looked through whole when its texts
    are copies of each other; in one of texts that are not, each is compared with NEIGHBOURS and the first.
    """
    kept = np.arange(len(signatures_nk))
    gone = np.zeros(len(signatures_nk), bool)
    while True:
        pairs = _pairs(signatures_nk[kept], threshold)
        dropped = np.zeros(len(kept), bool)
        for first, second in pairs:  # by second, then first: whether first is kept is known
            if not dropped[first]:
                dropped[second] = True
        if not dropped.any():
            return gone
        gone[kept[dropped]] = True
        kept = kept[~dropped]


def _pairs(signatures_nk: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, in the order of j, that share a band and are similar by the whole signature."""
    count, (amount, rows) = len(signatures_nk), bands(threshold)
    found = [np.zeros(0, np.int64)]
    for band in range(amount):
        keys = ngrams_of_rows(signatures_nk[:, band * rows : (band + 1) * rows])
        order = np.argsort(keys, kind="stable")
        bucket = keys[order]
        starts = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]]) if count else np.zeros(0, np.int64)
        first = np.repeat(starts, np.diff(np.r_[starts, count]))
        candidates = [(order[first], order)]
        for back in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(bucket[back:] == bucket[:-back])
            if not len(same):
                break
            candidates.append((order[same], order[same + back]))
        left, right = (np.concatenate(side) for side in zip(*candidates, strict=True))
        codes = np.unique((right * count + left)[left < right])
        found.append(np.setdiff1d(codes, found[0], assume_unique=True))
        found = [np.union1d(found[0], _similar(signatures_nk, found.pop(), threshold))]
    return list(zip((found[0] % max(count, 1)).tolist(), (found[0] // max(count, 1)).tolist(), strict=True))


def _similar(signatures_nk: np.ndarray, codes: np.ndarray, threshold: float) -> np.ndarray:
    kept, count = [np.zeros(0, np.int64)], len(signatures_nk)
    for start in range(0, len(codes), 1 << 16):  # 32 MiB at a time
        part = codes[start : start + (1 << 16)]
        kept.append(part[similarity(signatures_nk[part % count], signatures_nk[part // count]) >= threshold])
    return np.concatenate(kept)


def ngrams_of_rows(band_nr: np.ndarray) -> np.ndarray:
    """(n,) uint64: a hash of each row."""
    total = np.zeros(len(band_nr), np.uint64)
    for column in band_nr.T:
        total = mix(total + column + np.uint64(1))
    return total
