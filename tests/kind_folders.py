"""Folders of records of every kind, small and all different, and the configs that read them: for the tests of kinds."""

import csv
import io
from types import SimpleNamespace

import numpy as np
from PIL import Image

from lmjax.data import sources

LEAVES = {
    "tokenizer": "bytes", "vocab": None, "special": (), "columns": None, "length": 48, "valid_fraction": 0.3,
    "limit": None, "packing": "none", "image_size": 8,
}  # fmt: skip
KINDS = ("pairs", "labels", "images", "image_labels")
SIZES = ((8, 8), (20, 9), (7, 30), (16, 16))


def data(source, kind, **leaves):
    return SimpleNamespace(**{**LEAVES, "source": str(source), "kind": kind, **leaves})


def table(folder, columns, rows, name="all.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder


def png(n):
    """A picture unlike the others, of one of four shapes."""
    width, height = SIZES[n % len(SIZES)]
    pixels = np.random.RandomState(n).randint(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder_of(kind, folder, count=60):
    """Records of the kind in a folder of the user's; every text differs."""
    if kind == "pairs":
        rows = [(f"good day, number {n}", f"guten Tag, Nummer {n}, {'ja' * (n % 5)}") for n in range(count)]
        return table(folder, ("source", "target"), rows)
    if kind == "labels":
        return table(folder, ("text", "label"), [(f"text {n} " + "so " * (n % 30), 9 + n % 3) for n in range(count)])
    for n in range(count):
        place = folder / ("red" if n % 3 else "blue") if kind == "image_labels" else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:03d}.png").write_bytes(png(n))
        if kind == "images":
            (place / f"{n:03d}.txt").write_text(f"picture {n} ✓")
    return folder


def records(folder, kind):
    source = sources.open_source(str(folder), kind)
    return [record for piece in source.pieces() for record in source.read(piece)]


def epoch(stream):
    return [stream.row(k) for k in range(int(stream.epoch_rows))]


def both(dataset):
    """All rows of an epoch of training, and of validation."""
    return epoch(dataset.train), [dataset.valid.row(k) for k in range(len(dataset.valid))]
