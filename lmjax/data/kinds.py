"""What a row of a batch is made of, by `data.kind`: the fields that the data, the program and the models agree on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lmjax.data import corruptions
from lmjax.data.records import KINDS
from lmjax.errors import UserError, unknown

TRAINABLE = tuple(kind for kind in KINDS if kind != "speech")  # kinds that `fields` knows
SOURCE = ("source", "source_segments", "source_positions")


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
    image_text_labels: all three. tags: tokens, segments, positions, `tags` int32 (t,), the number of each word's tag at its
    first token, and weights (t,), 1 there. numbers: these words, one `value` float32 () and a weight. spans: these words,
    `types` int32 (t,), 1 in the context, `start` and `end` int32 (), the first and last token of the answer, and a weight.
    choices: words and types (n, t), n = data.choices, a label and a weight.

    With data.source_length pairs have `source`, `source_segments` and `source_positions` int32 (data.source_length,),
    and the text row is the target alone. data.corruption adds to or replaces the fields of text: `corrupted_text`.
    """
    kind = kind_of(data)
    tokens = Field((data.length,), np.int32, "bt")
    weights = Field((data.length,), np.float32, "bt")
    words = dict.fromkeys(("tokens", "segments", "positions"), tokens)
    text = dict.fromkeys(("tokens", "targets", "segments", "positions", "bytes"), tokens) | {"weights": weights}
    label = {"label": Field((), np.int32, "b"), "weights": Field((), np.float32, "b")}
    size = getattr(data, "image_size", 0)
    image = {"image": Field((size, size, 3), np.uint8, "b")}
    types, source = {"types": tokens}, _source(data)
    number, place = {"value": Field((), np.float32, "b")}, Field((), np.int32, "b")
    choices = Field((getattr(data, "choices", 0), data.length), np.int32, "bnt")
    weight = {"weights": label["weights"]}
    found = {
        "text": text,
        "pairs": text | source,
        "labels": words | label,
        "images": image | text,
        "image_labels": image | label,
        "image_text_labels": image | words | label,
        "tags": words | {"tags": tokens, "weights": weights},
        "numbers": words | number | weight,
        "spans": words | types | {"start": place, "end": place} | weight,
        "choices": dict.fromkeys((*words, *types), choices) | label,
    }
    if kind not in found:
        raise UserError(f"data.kind={kind} can be read and listed, not trained on yet; {', '.join(TRAINABLE)} can")
    if section := corruptions.section(data):
        return corrupted_text(section.kind, text, source)
    if source and kind != "pairs":
        raise UserError(
            f"data.source_length={data.source_length} is of a source in a row of its own: for data.kind=pairs, or text with "
            f"data.corruption.kind=spans or denoise; data.kind={kind} has none"
        )
    return found[kind]


def corrupted_text(corruption: str, text: dict[str, Field], source: dict[str, Field]) -> dict[str, Field]:
    """The fields of a row of text that is corrupted so, out of those of text and of a source.

    masked: `originals` int32 (t,), the token before corruption at the same position, in place of `targets`; weights
    only where it was chosen. sentences: likewise, with `types` int32 (t,), 0 or 1 for the first or the second text, one
    `label` int32 () and `label_weights` float32 (). spans, denoise: a source, and the text row is what is to be
    written. prefix: `prefix` int32 (t,), 1 for what is seen from both sides. infill: text, rearranged.
    """
    tokens = text["tokens"]
    masked = {"originals" if name == "targets" else name: field for name, field in text.items()}
    pair = {"types": tokens, "label": Field((), np.int32, "b"), "label_weights": Field((), np.float32, "b")}
    return {
        "masked": masked,
        "sentences": masked | pair,
        "spans": text | source,
        "denoise": text | source,
        "prefix": text | {"prefix": tokens},
        "infill": text,
    }[corruption]


def kind_of(data: Any) -> str:
    """data.kind; configs from before there were kinds are of text."""
    kind = getattr(data, "kind", "text")
    if kind not in KINDS:
        raise unknown("value of data.kind", kind, KINDS)
    return kind


def empty(found: dict[str, Field]) -> dict[str, np.ndarray]:
    """A row of padding: zeros, of no weight."""
    return {name: np.zeros(field.shape, field.dtype)[()] for name, field in found.items()}


def _source(data: Any) -> dict[str, Field]:
    length = getattr(data, "source_length", None)  # configs from before there was one have no such leaf
    if length is None:
        return {}
    if length < 2:
        raise UserError(f"data.source_length={length}: at least 2, a token and the end; none: no row of its own")
    return dict.fromkeys(SOURCE, Field((length,), np.int32, "bs"))
