"""The scripts of a text, by its letters alone: no model, the same answer everywhere, fast enough to count all of it.

Ranges are blocks of the Unicode Standard 16.0 (Blocks.txt), several to a script; letters of no listed block are
"other". What has no case for counting (digits, punctuation, spaces, symbols) belongs to no script.
"""

from __future__ import annotations

import functools

import numpy as np

BLOCKS = {
    "latin": ((0x41, 0x5B), (0x61, 0x7B), (0xAA, 0xAB), (0xBA, 0xBB), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x2B0))
    + ((0x1D00, 0x1D80), (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA722, 0xA800), (0xFB00, 0xFB07), (0xFF21, 0xFF5B)),
    "greek": ((0x370, 0x400), (0x1F00, 0x2000)),
    "cyrillic": ((0x400, 0x530), (0x1C80, 0x1C90), (0x2DE0, 0x2E00), (0xA640, 0xA6A0)),
    "armenian": ((0x530, 0x590),),
    "hebrew": ((0x590, 0x600), (0xFB1D, 0xFB50)),
    "arabic": ((0x620, 0x660), (0x66E, 0x6F0), (0x6FA, 0x700), (0x750, 0x780), (0x8A0, 0x900))
    + ((0xFB50, 0xFE00), (0xFE70, 0xFEFF)),
    "devanagari": ((0x900, 0x964), (0xA8E0, 0xA900)),
    "bengali": ((0x980, 0x9E6),),
    "gurmukhi": ((0xA00, 0xA66),),
    "gujarati": ((0xA80, 0xAE6),),
    "tamil": ((0xB80, 0xBE6),),
    "telugu": ((0xC00, 0xC66),),
    "kannada": ((0xC80, 0xCE6),),
    "malayalam": ((0xD00, 0xD66),),
    "sinhala": ((0xD80, 0xDE6),),
    "thai": ((0xE01, 0xE3B), (0xE40, 0xE50)),
    "lao": ((0xE80, 0xED0),),
    "tibetan": ((0xF40, 0xFC0),),
    "burmese": ((0x1000, 0x1040), (0x1050, 0x10A0)),
    "georgian": ((0x10A0, 0x1100), (0x1C90, 0x1CC0), (0x2D00, 0x2D30)),
    "hangul": ((0x1100, 0x1200), (0x3130, 0x3190), (0xA960, 0xA980), (0xAC00, 0xD800)),
    "ethiopic": ((0x1200, 0x1360), (0x1380, 0x13A0)),
    "khmer": ((0x1780, 0x17D4),),
    "mongolian": ((0x1820, 0x18B0),),
    "kana": ((0x3041, 0x30A0), (0x30A1, 0x30FB), (0x30FC, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0)),
    "han": ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x32000)),
}
NAMES = (*BLOCKS, "other")


def counts(text: str) -> dict[str, int]:
    """Letters of each script that is there, in the order of NAMES."""
    if text.isascii():
        raw = np.frombuffer(text.encode(), np.uint8)
        latin = int(np.count_nonzero((raw | 32) - 97 < 26))
        return {"latin": latin} if latin else {}
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    found = np.bincount(_table()[points], minlength=len(NAMES) + 1)[1:]
    return {name: int(count) for name, count in zip(NAMES, found, strict=True) if count}


def share(text: str, wanted: tuple[str, ...]) -> float:
    """The share of a text's letters that are in the wanted scripts; 0 when it has no letters."""
    found = counts(text)
    total = sum(found.values())
    return sum(found.get(name, 0) for name in wanted) / total if total else 0.0


@functools.cache
def _table() -> np.ndarray:
    """(0x110000,) uint8: 0 for no letter, else 1 + the script's place in NAMES."""
    letters = "".join(map(chr, range(0xD800))) + "".join(map(chr, range(0xE000, 0x32000)))
    isalpha = np.zeros(0x110000, bool)
    isalpha[: len(letters) + 0x800][np.r_[0:0xD800, 0xE000:0x32000]] = [letter.isalpha() for letter in letters]
    table = np.where(isalpha, len(NAMES), 0).astype(np.uint8)
    for place, ranges in enumerate(BLOCKS.values(), start=1):
        for start, stop in ranges:
            table[start:stop] = place
    return table
