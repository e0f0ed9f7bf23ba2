"""The leaves of config.data.corruption, checked against each other and the rest of the data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lmjax.data.corruptions import spans
from lmjax.errors import UserError, unknown

KINDS = ("masked", "sentences", "spans", "denoise", "prefix", "infill")
TWO_ROWS = ("spans", "denoise")  # what is read and what is written have a row each
ORDERS = ("next", "order")


@dataclasses.dataclass(frozen=True)
class Settings:
    """config.data.corruption with its defaults; what they mean stands in configs/base.py."""

    kind: str = "none"
    rate: float = 0.15
    hidden: float = 0.8
    random: float = 0.1
    whole_word: bool = False
    span: float = 3.0
    delete: float = 0.0
    permute: bool = False
    pair: str = "next"
    suffix_first: float = 0.5
    pieces: int = 1


def section(data: Any) -> Settings | None:
    """config.data.corruption; None where nothing is corrupted, and of configs from before there was any.

    UserError for a kind or a number that is none, and for what does not go with the rest of config.data.
    """
    found = getattr(data, "corruption", None)
    if found is None or found.kind == "none":
        return None
    if found.kind not in KINDS:
        raise unknown("value of data.corruption.kind", found.kind, ("none", *KINDS))
    names = [field.name for field in dataclasses.fields(Settings)]
    leaves = Settings(**{name: getattr(found, name) for name in names if hasattr(found, name)})
    said = f"data.corruption.kind={leaves.kind}"
    if (kind := getattr(data, "kind", "text")) != "text":
        raise UserError(f"{said} is for texts (data.kind=text), and data.kind={kind}")
    _check(leaves, said)
    source_length = getattr(data, "source_length", None)
    if leaves.kind in TWO_ROWS and source_length is None:
        raise UserError(f"{said} writes what it reads into two rows: data.source_length says how long the first is, such "
                        f"as --config.data.source_length={data.length}")  # fmt: skip
    if leaves.kind == "denoise" and source_length < data.length:
        raise UserError(
            f"{said}: the source can be as long as the text, so data.source_length={source_length} is at least "
            f"data.length={data.length}"
        )
    if leaves.kind == "sentences" and (mode := getattr(data, "packing", "concat")) != "none":
        raise UserError(f"data.packing={mode}: {said} has two parts of one document in a row: data.packing=none")
    if "mask" in (getattr(getattr(data, "augment", None), "text", None) or ()):
        raise UserError(f"data.augment.text has mask, and {said} hides tokens itself: leave one out")
    grow = getattr(getattr(data, "curriculum", None), "start_length", None)
    if grow is not None and leaves.kind != "masked":
        raise UserError(f"data.curriculum.start_length={grow} cuts texts into segments, which {said} does not know of")
    return leaves


def special(data: Any) -> tuple[str, ...]:
    """Names of the special tokens that config.data's corruption puts into texts."""
    found = section(data)
    if found is None:
        return ()
    names = {"masked": ("mask",), "sentences": ("mask", "cls", "sep"), "denoise": ("mask",), "prefix": (),
             "infill": ("prefix", "suffix", "middle")}  # fmt: skip
    if found.kind == "spans":
        return tuple(f"sentinel{i}" for i in range(spans.most(text_length(data), found.rate, found.span)))
    return names[found.kind]


def text_length(data: Any) -> int:
    """Tokens of text that a row is made of, where that is not data.length: what is put in takes room."""
    found = section(data)
    if found is None:
        return data.length
    if found.kind == "spans":
        return spans.raw_length(data.source_length, data.length, found.rate, found.span)
    taken = {"infill": 3 * found.pieces, "sentences": 3, "denoise": 1}.get(found.kind, 0)
    if data.length - taken < 2:
        raise UserError(f"data.length={data.length}: data.corruption.kind={found.kind} takes {taken} tokens of a row")
    return data.length - taken


def _check(leaves: Settings, said: str) -> None:
    for name in ("hidden", "random", "delete", "suffix_first"):
        if not 0 <= getattr(leaves, name) <= 1:
            raise UserError(f"data.corruption.{name}={getattr(leaves, name)}: a share, from 0 to 1")
    if not 0 < leaves.rate <= 1 or (leaves.rate == 1 and leaves.kind == "spans"):
        raise UserError(f"data.corruption.rate={leaves.rate}: a share of the tokens, above 0 and below 1")
    if leaves.hidden + leaves.random > 1 + 1e-9:
        raise UserError(
            f"data.corruption.hidden={leaves.hidden} and data.corruption.random={leaves.random} are shares of the chosen "
            "tokens, and together more than all of them"
        )
    if not (math.isfinite(leaves.span) and leaves.span >= 1):
        raise UserError(f"data.corruption.span={leaves.span}: the mean length of a span, at least 1 token")
    if leaves.pair not in ORDERS:
        raise unknown("value of data.corruption.pair", leaves.pair, ORDERS)
    if leaves.pieces < 1:
        raise UserError(f"data.corruption.pieces={leaves.pieces}: {said} rearranges at least 1 text of a row")
