"""The leaves of config.data.augment, checked against each other and the kind of the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from lmjax.errors import UserError, unknown

IMAGES = ("images", "image_labels", "image_text_labels")
LABELS = ("labels", "image_labels")
TEXTS = ("text", "pairs", "labels")
LIMITS = {
    "rate": (0, 1, "a share of the words"),
    "area": (0.01, 1, "the smallest share of an image that a crop shows"),
    "degrees": (0, 180, "the largest turn"),
    "zoom": (0, 9, "the largest change of size: 0.2 is up to 1.2 times"),
    "shift": (0, 1, "a share of the sides"),
    "jitter": (0, 1, "the largest change of a factor"),
    "turn": (0, 0.5, "a share of the circle of hues"),
    "fill": (0, 255, "the level of what is outside of an image"),
    "operations": (1, 16, "of rand_augment"),
    "magnitude": (0, 10, "of rand_augment's operations"),
    "alpha": (1e-3, 1e3, "of Beta(alpha, alpha)"),
}


def section(data: Any) -> Any | None:
    """config.data.augment, checked; None when nothing is augmented, and of configs from before there was any.

    UserError for a name that is none, a number out of its range, and what the kind of the data has no use for.
    """
    found = getattr(data, "augment", None)
    if found is None or not (found.text or found.image or found.mix):
        return None
    kind = getattr(data, "kind", "text")
    if found.text:
        from lmjax.augment.text import TEXT

        _known("text", found.text, TEXT)
        _fits("text", found.text, kind, TEXTS, "texts")
        if (mode := getattr(data, "packing", "concat")) != "none":
            raise UserError(
                f"data.packing={mode}: data.augment.text={','.join(found.text)} changes how long texts are, so that each "
                "needs a row of its own: data.packing=none"
            )
    if found.image or found.mix:
        from lmjax.augment.images import IMAGE
        from lmjax.augment.mixing import MIX

        _known("image", found.image, IMAGE)
        _known("mix", found.mix, MIX)
        _fits("image", found.image, kind, IMAGES, "images")
        _fits("mix", found.mix, kind, ("image_labels",), "images with labels")
    for name, (low, high, meaning) in LIMITS.items():
        value = getattr(found, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"data.augment.{name}={value}: from {low} to {high}, {meaning}")
    return found


def bound(table: dict[str, Callable], names: Iterable[str], found: Any) -> list[Callable]:
    """The functions of these names, each with the leaves that it has a keyword for; what is None is left to it."""
    chosen = []
    for name in names:
        keywords = [name for name, p in inspect.signature(table[name]).parameters.items() if p.kind is p.KEYWORD_ONLY]
        options = {key: getattr(found, key) for key in keywords if getattr(found, key, None) is not None}
        chosen.append(partial(table[name], **options))
    return chosen


def _known(leaf: str, names: Iterable[str], table: dict) -> None:
    for name in names:
        if name not in table:
            raise unknown(f"name in data.augment.{leaf}", name, table)


def _fits(leaf: str, names: tuple, kind: str, kinds: tuple[str, ...], what: str) -> None:
    if names and kind not in kinds:
        raise UserError(
            f"data.augment.{leaf}={','.join(names)} is for {what} (data.kind={' or '.join(kinds)}), and data.kind={kind}"
        )
