"""Which models and objectives are for which kind of data, so that a misfit is said before anything is compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

from lmjax.errors import UserError


class Fit(NamedTuple):
    """What a kind of data is trained with, and a recipe that does it."""

    model: str
    objective: str
    image: bool
    recipe: str


FITS = {
    "text": Fit("decoder", "next_token", False, "configs/lm.py:tiny"),
    "pairs": Fit("decoder", "next_token", False, "configs/pairs.py:small"),
    "labels": Fit("classifier", "classification", False, "configs/labels.py:small"),
    "images": Fit("decoder", "next_token", True, "configs/images.py:small"),
    "image_labels": Fit("classifier", "classification", True, "configs/images.py:labels"),
}

WITH_IMAGES = {kind for kind, fit in FITS.items() if fit.image}
WITH_LABELS = {kind for kind, fit in FITS.items() if fit.objective == "classification"}


def kind_of(config: Any) -> str:
    """data.kind; runs from before there were kinds are of text."""
    return getattr(config.data, "kind", "text")


def check_kind(config: Any) -> None:
    """UserError unless data.kind, model.kind, model.patch and objective.kind fit each other, with all that does not.

    Models and objectives of the user's own ("package.module:attribute") fit whatever they say they do, and so do names
    that nothing has: `models.build` and `objectives.build` say which there are.
    """
    kind = kind_of(config)
    if kind not in FITS:
        return
    fit, wrong = FITS[kind], []
    known = {
        "model.kind": {fit.model for fit in FITS.values()},
        "objective.kind": {fit.objective for fit in FITS.values()},
    }
    for path, present, wanted in (
        ("model.kind", config.model.kind, fit.model),
        ("objective.kind", config.objective.kind, fit.objective),
    ):
        if present in known[path] and present != wanted:
            wrong.append(f"{path}={present} is not for it, {path}={wanted} is")
    patch = getattr(config.model, "patch", None)
    if fit.image and patch is None:
        wrong.append(
            "model.patch must say into squares of how many pixels a side images are cut, such as model.patch=8"
        )
    if patch is not None and not fit.image:
        wrong.append(f"it has no images, so model.patch={patch} must be none")
    if wrong:
        raise UserError(f"data.kind={kind}: {'; '.join(wrong)} ({fit.recipe} is such a config)")
