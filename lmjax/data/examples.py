"""What is kept of a record of each kind: a few fields of fixed size, its head, and then the ids of its texts."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lmjax.data import corruptions, kinds, sources
from lmjax.data.records import KINDS, Record
from lmjax.errors import UserError

TEXTS = ("text", "source", "target", "caption")  # the fields that are tokenized
LONGEST = 8  # times its shorter side that is scaled of an image's longer one, which may be a thread of 65,535 pixels
SEP = "sep"  # the special token between the two texts of a pair


@dataclass(frozen=True)
class Form:
    """A kind of records as shards keep them. image_size: pixels a side, 0 where there is no image."""

    kind: str = "text"
    image_size: int = 0

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The fields that are tokenized, in their order."""
        return tuple(name for name in KINDS[self.kind] if name in TEXTS)

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether its records have a label."""
        return "label" in KINDS[self.kind]

    @functools.cached_property
    def head(self) -> np.dtype:
        """Of the fields of fixed size, which stand in front of the ids; of no bytes for text and pairs."""
        image = [("image", "u1", (self.image_size, self.image_size, 3))] if self.image_size else []
        return np.dtype(image + ([("label", "<i4")] if self.labelled else []))

    @property
    def key(self) -> dict:
        """What names it in the key of prepared data: nothing for text, whose keys are older than kinds."""
        if self.kind == "text":
            return {}
        return {"kind": self.kind} | ({"image_size": self.image_size} if self.image_size else {})

    def identity(self, record: Record) -> str | bytes:
        """What decides its split: what a model is given of it, so that no input is on both sides."""
        return record[KINDS[self.kind][0]]

    def size(self, record: Record) -> int:
        """Bytes of its texts (in UTF-8) and its image file; 0 when one of them is empty."""
        sizes = [_size(value) for name, value in record.items() if name != "label"]
        return sum(sizes) if all(sizes) else 0

    def text_bytes(self, record: Record) -> int:
        """Bytes of UTF-8 that its ids are to stand for."""
        return sum(_size(record[name]) for name in self.texts)

    def words(self, record: Record) -> str:
        """Its texts as one."""
        return "\n".join(record[name] for name in self.texts)

    def encode(self, records: Sequence[Record], tokenizer: Any) -> Iterator[np.ndarray]:
        """(n,) ids of each: <doc> text, or <doc> source <sep> target; none where there is no text."""
        if not self.texts:
            yield from (np.zeros(0, np.int64) for _ in records)
            return
        names = [tokenizer.doc, tokenizer.special(SEP)] if len(self.texts) > 1 else [tokenizer.doc]
        marks = [np.array([name], np.int32) for name in names]
        encoded = tokenizer.encode_batch([record[name] for record in records for name in self.texts])
        for _ in records:
            parts = [part for mark in marks for part in (mark, next(encoded))]
            if len(marks) > 1 and any((part == marks[1][0]).any() for part in parts[1::2]):
                raise UserError(
                    f"a text holds the tokenizer's mark between source and target (id {marks[1][0]}) as a word"
                )
            yield np.concatenate(parts)

    def fixed(self, record: Record, labels: Mapping[str, int]) -> bytes:
        """Its head. labels: the number of each."""
        if not self.head.itemsize:
            return b""
        made = np.zeros((), self.head)
        if self.image_size:
            made["image"] = pixels(record["image"], self.image_size)
        if self.labelled:
            made["label"] = labels[record["label"]]
        return made.tobytes()


def of_manifest(manifest: Mapping) -> Form:
    """The form of prepared data, by what its manifest says."""
    return Form(manifest.get("kind", "text"), manifest.get("image_size", 0))


def form(data: Any) -> Form:
    """The form of config.data. UserError for a kind that is not trained on, and for a size that is none."""
    kind, found = kinds.kind_of(data), kinds.fields(data)
    size = data.image_size if "image" in found else 0
    if "image" in found and not 1 <= size <= 4096:
        raise UserError(f"data.image_size={size}: from 1 to 4096 pixels a side")
    return Form(kind, size)


def completed(data: Any, form: Form) -> Any:
    """config.data with the special tokens that the kind and the corruption need."""
    special = tuple(getattr(data, "special", None) or ())
    needed = (SEP,) if len(form.texts) > 1 else corruptions.special(data)
    if not set(needed) - set(special):
        return data
    return changed(data, special=(*special, *(name for name in needed if name not in special)))


def changed(data: Any, **values: Any) -> Any:
    """config.data with other values."""
    leaves = dict(data.items()) if hasattr(data, "items") else vars(data)
    return SimpleNamespace(**{**leaves, **values})


def check_tokenizer(tokenizer: Any, form: Form, data: Any) -> None:
    """UserError when its mark between source and target is the one between documents."""
    if len(form.texts) > 1 and tokenizer.special(SEP) == tokenizer.doc:
        raise UserError(
            f"data.tokenizer={data.tokenizer} has one mark (id {tokenizer.doc}) for what stands between documents and "
            "between source and target; data.kind=pairs needs two: take a tokenizer with an end of text as well"
        )


def pixels(raw: bytes, size: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB of an image file: transparency on white, the shorter side scaled to size, the middle."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(raw)) as opened:
        ImageOps.exif_transpose(opened, in_place=True)  # as a viewer shows it
        image = opened if opened.mode == "RGB" else _on_white(opened)
        image = _middle(image, LONGEST * min(image.size))
        width, height = image.size
        scale = size / min(width, height)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(scaled, Image.Resampling.BILINEAR) if scaled != image.size else image
        left, top = ((side - size) // 2 for side in scaled)
        return np.asarray(image.crop((left, top, left + size, top + size)), np.uint8)


def _middle(image: Any, most: int) -> Any:
    """At most so many pixels of each side, from the middle."""
    sides = [min(side, most) for side in image.size]
    left, top = ((side - kept) // 2 for side, kept in zip(image.size, sides, strict=True))
    return image if tuple(sides) == image.size else image.crop((left, top, left + sides[0], top + sides[1]))


def _on_white(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole).convert("RGB")


def _size(value: str | bytes) -> int:
    return len(value) if isinstance(value, bytes) else sources.utf8(value)
