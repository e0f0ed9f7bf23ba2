"""What is kept of a record of each kind: a few fields of fixed size, its head, and then the ids of its texts."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lmjax.data import corruptions, kinds, marks, shapes, sources
from lmjax.data.records import KINDS, Record
from lmjax.data.tokenizers.offsets import covered, offsets
from lmjax.errors import UserError

# The fields that are tokenized.
TEXTS = ("text", "source", "target", "caption", "words", "question", "context", "choices")
UNSEEN = ("label", "tags", "value", "answer", "start")  # those that a model is not given
LONGEST = 8  # times its shorter side that is scaled of an image's longer one, which may be a thread of 65,535 pixels
SEP = "sep"  # the special token between the two texts of a pair


NOTHING = np.zeros(0, np.int32)
LABEL = [("label", "<i4")]
HEADS = {"labels": LABEL, "image_labels": LABEL, "image_text_labels": LABEL, "choices": LABEL,
         "numbers": [("value", "<f4")], "spans": [("start", "<i4"), ("end", "<i4")]}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A kind of records as shards keep them. image_size: pixels a side, choices: how many; 0 where there are none."""

    kind: str = "text"
    image_size: int = 0
    choices: int = 0

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The fields that are tokenized, in their order."""
        return tuple(name for name in KINDS[self.kind] if name in TEXTS)

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether its records have a label by name, or one for each word."""
        return self.kind != "choices" and bool({"label", "tags"} & set(KINDS[self.kind]))

    @functools.cached_property
    def marks(self) -> int:
        """Special tokens of a record: <doc>, and a <sep> before each of its further texts."""
        return 1 + self.choices if self.choices else max(1, len(self.texts))

    @functools.cached_property
    def head(self) -> np.dtype:
        """Of the fields of fixed size, which stand in front of the ids; of no bytes for text and pairs."""
        image = [("image", "u1", (self.image_size, self.image_size, 3))] if self.image_size else []
        return np.dtype(image + HEADS.get(self.kind, []))

    @functools.cached_property
    def tail(self) -> np.dtype:
        """Of what stands behind the ids, for each of them: 1 + the number of its tag, 0 where none counts."""
        return np.dtype("<u2" if self.kind == "tags" else [])

    @property
    def key(self) -> dict:
        """What names it in the key of prepared data: nothing for text, whose keys are older than kinds."""
        if self.kind == "text":
            return {}
        numbers = {"image_size": self.image_size, "choices": self.choices}
        return {"kind": self.kind} | {name: number for name, number in numbers.items() if number}

    def identity(self, record: Record) -> str | bytes:
        """What decides its split: what a model is given of it, so that no input is on both sides."""
        return record["context" if self.kind == "spans" else KINDS[self.kind][0]]

    def size(self, record: Record) -> int:
        """Bytes of its texts (in UTF-8) and its image file; 0 when one of them is empty."""
        if self.kind == "text":
            return sources.utf8(record["text"])
        sizes = [_size(value) for name, value in record.items() if name not in UNSEEN]
        return sum(sizes) if all(sizes) else 0

    def text_bytes(self, records: Sequence[Record]) -> int:
        """Bytes of UTF-8 that the ids of these are to stand for."""
        if self.kind == "text":
            return sources.utf8("".join([record["text"] for record in records]))
        return sum(_size(passage) for record in records for passage in self.passages(record))

    def pieces(self, record: Record) -> list[str]:
        """Its texts, in the order in which they are tokenized; of words each, with the space before it."""
        if self.kind == "tags":
            return shapes.spoken(record["words"])
        if self.kind == "choices":
            return [record["question"], *shapes.items(record["choices"])]
        return [record[name] for name in self.texts]

    def passages(self, record: Record) -> list[str]:
        """Its texts, words put together."""
        pieces = self.pieces(record)
        return ["".join(pieces)] if self.kind == "tags" else pieces

    def words(self, record: Record) -> str:
        """Its texts as one."""
        return "\n".join(self.passages(record))

    def labels(self, record: Record) -> list[str]:
        """The names of its label, or of those of its words."""
        return shapes.items(record["tags"]) if self.kind == "tags" else [record["label"]]

    def misfit(self, record: Record) -> shapes.Wrong | None:
        """Why it is none of those that config.data asks for; None when it is one."""
        if self.choices and (count := len(shapes.items(record["choices"]))) != self.choices:
            return "other number of choices", f"it has {count} choices, and data.choices={self.choices}"
        return None

    def encode(self, records: Sequence[Record], tokenizer: Any) -> Iterator[tuple[np.ndarray, list[int]]]:
        """(n,) ids of each: <doc> text, or <doc> source <sep> target; and how many are of each of its pieces. No ids where
        there is no text."""
        if not self.texts:
            yield from ((np.zeros(0, np.int64), []) for _ in records)
            return
        if len(self.texts) == 1 and self.kind != "tags":
            encoded = list(tokenizer.encode_batch([record[self.texts[0]] for record in records]))
            sizes = list(map(len, encoded))
            ends = np.cumsum(sizes)
            ids, start = np.insert(np.concatenate(encoded), ends - sizes, tokenizer.doc), 0
            for size, end in zip(sizes, (ends + np.arange(1, 1 + len(sizes))).tolist(), strict=True):
                yield ids[start:end], [size]
                start = end
            return
        doc, sep = np.array([tokenizer.doc], np.int32), NOTHING
        if len(self.texts) > 1:
            sep = np.array([tokenizer.special(SEP)], np.int32)
        pieces = [self.pieces(record) for record in records]
        encoded = tokenizer.encode_batch([piece for some in pieces for piece in some])
        for some in pieces:
            parts = [next(encoded) for _ in some]
            if len(sep) and any((part == sep[0]).any() for part in parts):
                raise UserError(f"a text holds the tokenizer's mark between source and target (id {sep[0]}) as a word")
            marked = [
                part for mark, ids in zip([doc, *[sep] * len(parts)], parts, strict=False) for part in (mark, ids)
            ]
            yield np.concatenate(marked), [len(part) for part in parts]

    def fixed(self, record: Record, labels: Mapping[str, int], sizes: Sequence[int], tokenizer: Any) -> bytes:
        """Its head. labels: the number of each; sizes: how many ids its pieces have."""
        if not self.head.itemsize:
            return b""
        made = np.zeros((), self.head)
        if self.image_size:
            made["image"] = pixels(record["image"], self.image_size)
        if self.kind == "spans":
            made["start"], made["end"] = answer(record, sizes[0], tokenizer)
        elif self.kind in ("numbers", "choices"):
            name = self.head.names[-1]
            made[name] = float(record[name]) if name == "value" else int(record[name])
        elif self.labelled and "label" in self.head.names:
            made["label"] = labels[record["label"]]
        return made.tobytes()

    def behind(self, record: Record, labels: Mapping[str, int], sizes: Sequence[int]) -> bytes:
        """Its tail: the tag of a word at its first id."""
        if not self.tail.itemsize:
            return b""
        made, at = np.zeros(1 + sum(sizes), self.tail), 1
        for label, size in zip(self.labels(record), sizes, strict=True):
            if size:  # a word that the tokenizer drops has no place for its tag
                made[at] = 1 + labels[label]
            at += size
        return made.tobytes()


def of_manifest(manifest: Mapping) -> Form:
    """The form of prepared data, by what its manifest says."""
    return Form(manifest.get("kind", "text"), manifest.get("image_size", 0), manifest.get("choices", 0))


def form(data: Any) -> Form:
    """The form of config.data. UserError for a kind that is not trained on, and for a size that is none."""
    kind, found = kinds.kind_of(data), kinds.fields(data)
    size = data.image_size if "image" in found else 0
    if "image" in found and not 1 <= size <= 4096:
        raise UserError(f"data.image_size={size}: from 1 to 4096 pixels a side")
    choices = data.choices if kind == "choices" else 0
    if kind == "choices" and choices < 2:
        raise UserError(f"data.choices={choices}: at least 2, how many a record has")
    return Form(kind, size, choices)


def answer(record: Record, question: int, tokenizer: Any) -> tuple[int, int]:
    """The first and the last id of `<doc> question <sep> context` that the answer is in; the <doc> twice for no answer.

    question: ids that the question has.
    """
    start, said = int(record["start"]), record["answer"]
    lead = len(said) - len(said.lstrip())
    found = (
        covered(offsets(tokenizer, record["context"]), start + lead, start + lead + len(said.strip())) if said else None
    )
    return (found[0] + question + 2, found[1] + question + 2) if found else (0, 0)


def completed(data: Any, form: Form) -> Any:
    """config.data with the special tokens that the kind and the corruption need."""
    special = tuple(getattr(data, "special", None) or ())
    needed = (SEP,) if len(form.texts) > 1 else corruptions.special(data)
    needed = marks.SPECIAL if marks.bert(data, form.kind) else needed
    if not set(needed) - set(special):
        return data
    return changed(data, special=(*special, *(name for name in needed if name not in special)))


def changed(data: Any, **values: Any) -> Any:
    """config.data with other values."""
    leaves = dict(data.items()) if hasattr(data, "items") else vars(data)
    return SimpleNamespace(**{**leaves, **values})


def check_tokenizer(tokenizer: Any, form: Form, data: Any) -> None:
    """UserError when its mark between source and target is the one between documents."""
    if len(form.texts) > 1 and tokenizer.special(SEP) == tokenizer.doc and not marks.bert(data, form.kind):
        bert = ", or say --config.data.marks=cls" if form.kind in marks.KINDS else ""
        raise UserError(
            f"data.tokenizer={data.tokenizer} has one mark (id {tokenizer.doc}) for what stands between documents and "
            f"between source and target; data.kind={form.kind} needs two: take a tokenizer with an end of text as well{bert}"
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
