"""The leaves of config.data.clean, read and checked. Every rule is off unless its leaf says otherwise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lmjax.data.cleaning import scripts
from lmjax.errors import UserError, unknown

CHOICES = {
    "bad": ("error", "drop"),
    "unicode": ("none", "nfc", "nfkc"),
    "outliers": ("none", "std", "iqr"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to clean. Lengths are in characters and words of all text fields of a record together."""

    bad: str = "error"
    unicode: str = "none"
    html: bool = False
    boilerplate: bool = False
    pii: bool = False
    min_chars: int | None = None
    max_chars: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    symbols: float | None = None
    repetition: bool = False
    scripts: tuple[str, ...] = ()
    script_share: float = 0.8
    outliers: str = "none"
    exact_duplicates: bool = False
    near_duplicates: float | None = None
    balance: float | None = None
    contamination: int | None = None
    contamination_share: float = 0.5
    contamination_limit: float = 0.0

    @property
    def needs_all(self) -> bool:
        """Whether a rule is on that decides about a record by the other records."""
        return (
            self.outliers != "none"
            or self.exact_duplicates
            or self.near_duplicates is not None
            or self.balance is not None
        )


def defaults() -> dict:
    """Every leaf and its default; None stands for an optional leaf that is not set."""
    return {leaf.name: leaf.default for leaf in dataclasses.fields(Settings)}


def settings(data: Any) -> Settings:
    """The checked settings of config.data (or of any object with a `clean` section); the defaults when it has none."""
    section = getattr(data, "clean", None)
    if section is None:
        return Settings()
    given = section if isinstance(section, dict) else {name: getattr(section, name) for name in _names(section)}
    for name in given:
        if name not in defaults():
            raise unknown("leaf of data.clean", name, defaults())
    return checked(Settings(**given))


def key(chosen: Settings) -> dict:
    """The leaves that differ from their defaults, as plain JSON: {} when nothing is cleaned. Part of a build's key.

    The limit on contamination is in it too: a build that passed under another limit is another build.
    """
    usual = defaults()
    said = {name: value for name, value in dataclasses.asdict(chosen).items() if value != usual[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


def checked(chosen: Settings) -> Settings:
    """The same settings; UserError names the leaf that has no meaning."""
    for name, legal in CHOICES.items():
        if getattr(chosen, name) not in legal:
            raise unknown(f"value of data.clean.{name}", getattr(chosen, name), legal)
    for what in ("chars", "words"):
        low, high = getattr(chosen, f"min_{what}"), getattr(chosen, f"max_{what}")
        for name, value in ((f"min_{what}", low), (f"max_{what}", high)):
            if value is not None and value < 1:
                raise UserError(f"data.clean.{name}={value}: at least 1, or none")
        if low is not None and high is not None and low > high:
            raise UserError(f"data.clean.min_{what}={low} is above data.clean.max_{what}={high}: nothing would be left")
    for name in chosen.scripts:
        if name not in scripts.NAMES:
            raise unknown("script in data.clean.scripts", name, scripts.NAMES)
    _within(chosen, "symbols", 0, 1e9)
    _within(chosen, "script_share", 0, 1)
    _within(chosen, "near_duplicates", 0.3, 1, "a Jaccard similarity, such as 0.8")
    _within(chosen, "balance", 1, 1e9, "times the records of the rarest label, such as 1 or 10")
    _within(chosen, "contamination", 3, 1000, "words of an n-gram, such as 13")
    _within(chosen, "contamination_share", 0, 1)
    _within(chosen, "contamination_limit", 0, 1)
    return chosen


def _within(chosen: Settings, name: str, low: float, high: float, meaning: str = "") -> None:
    value = getattr(chosen, name)
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        bound = f"at least {low:g}" if high >= 1e9 else f"between {low:g} and {high:g}"
        raise UserError(f"data.clean.{name}={value}: {bound}{f' ({meaning})' if meaning else ''}")


def _names(section: Any) -> list[str]:
    return list(section.keys()) if hasattr(section, "keys") else list(vars(section))
