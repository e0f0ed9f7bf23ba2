"""An image in a terminal: two pixels a character, one above the other; where there are no colours, shades."""

from __future__ import annotations

import numpy as np
from rich.text import Text

MOST = 64  # characters of a line
SHADES = " .:-=+*#%@"  # from dark to bright
LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B; ITU-R BT.601


def blocks(image: np.ndarray, width: int = MOST) -> Text:
    """An image (h, w, 3) uint8, at most width characters wide, in half blocks of its own colours."""
    small = _fitted(image, width)
    text = Text()
    for y in range(0, len(small) - 1, 2):
        for upper, lower in zip(small[y].tolist(), small[y + 1].tolist(), strict=True):
            text.append("▀", f"{_rgb(upper)} on {_rgb(lower)}")
        text.append("\n")
    text.right_crop(1)
    return text


def shades(image: np.ndarray, width: int = MOST) -> Text:
    """The same in the characters of SHADES, for where there are no colours."""
    small = _fitted(image, width)
    light = (small[0::2].astype(float) + small[1::2]) / 2 @ LUMA
    levels = (light * len(SHADES) / 256).astype(int)
    return Text("\n".join("".join(SHADES[level] for level in line) for line in levels))


def _fitted(image: np.ndarray, width: int) -> np.ndarray:
    """Each pixel the mean of those that it stands for; an even number of lines."""
    wide = max(1, min(width, image.shape[1]))
    high = max(2, 2 * round(image.shape[0] * wide / image.shape[1] / 2))
    rows, columns = (np.linspace(0, n, m + 1).astype(int) for n, m in ((image.shape[0], high), (image.shape[1], wide)))
    made = np.empty((high, wide, 3), np.uint8)
    for y in range(high):
        for x in range(wide):
            top, left = min(rows[y], image.shape[0] - 1), min(columns[x], image.shape[1] - 1)
            piece = image[top : max(rows[y + 1], top + 1), left : max(columns[x + 1], left + 1)]
            made[y, x] = piece.reshape(-1, 3).mean(axis=0).round()
    return made


def _rgb(pixel: list[int]) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"
