"""What a row of a batch is made of, by `data.kind`: the fields that the data, the program and the models agree on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lmjax.data.records import KINDS
from lmjax.errors import UserError, unknown

TRAINABLE = ("text", "pairs", "labels", "images", "image_labels")  # kinds that `fields` knows


class Field(NamedTuple):
    """One array of a row; a batch has it once for every row, in front. letters: of the dimensions that a mesh may shard."""

    shape: tuple[int, ...]
    dtype: type
    letters: str


def fields(data: Any) -> dict[str, Field]:
    """The fields of a row of config.data, by name; t = data.length tokens, s = data.image_size pixels a side.

    text, pairs: `tokens`, `targets` (the next token), `segments` (0: padding), `positions`, `bytes` (of the target,
    in UTF-8) int32 (t,) and the loss `weights` float32 (t,). labels: `tokens`, `segments`, `positions`, one `label`
    int32 () and a weight (). images: `image` uint8 (s, s, 3) and a text row, its caption. image_labels: image and label.
    """
    kind = kind_of(data)
    tokens = Field((data.length,), np.int32, "bt")
    words = dict.fromkeys(("tokens", "segments", "positions"), tokens)
    text = dict.fromkeys(("tokens", "targets", "segments", "positions", "bytes"), tokens)
    text["weights"] = Field((data.length,), np.float32, "bt")
    label = {"label": Field((), np.int32, "b"), "weights": Field((), np.float32, "b")}
    size = getattr(data, "image_size", 0)
    image = {"image": Field((size, size, 3), np.uint8, "b")}
    found = {
        "text": text,
        "pairs": text,
        "labels": words | label,
        "images": image | text,
        "image_labels": image | label,
    }
    if kind not in found:
        raise UserError(f"data.kind={kind} can be read and listed, not trained on yet; {', '.join(TRAINABLE)} can")
    return found[kind]


def kind_of(data: Any) -> str:
    """data.kind; configs from before there were kinds are of text."""
    kind = getattr(data, "kind", "text")
    if kind not in KINDS:
        raise unknown("value of data.kind", kind, KINDS)
    return kind
