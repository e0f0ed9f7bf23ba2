"""Spaces over config paths: grid, zip, list and random draws, as the variants of an Experiment. No JAX in here.

    variants=spaces.grid({"optim.learning_rate": (1e-3, 3e-3), "model.depth": (2, 4)})

Every function returns {variant's name: overrides}, so two spaces are put together with `|`, or multiplied by `crossed`.
Where the values of a path have no good names of their own, give them as a dict, {name: value}.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import NamedTuple

from ml_collections import ConfigDict

from lmjax.config import config_hash, update
from lmjax.errors import UserError

Space = dict[str, dict[str, object]]
DIGITS = 6  # significant digits of a drawn number: the last bits of exp and log differ between machines


class Draws(NamedTuple):
    """A distribution over the values of a config path; made by the five functions below."""

    kind: str  # uniform | log_uniform | integers | log_integers | choice
    low: float = 0.0
    high: float = 0.0
    values: tuple = ()

    def draw(self, random: Random) -> object:
        """One value."""
        if self.kind == "choice":
            return self.values[random.randrange(len(self.values))]
        if self.kind == "integers":
            return random.randint(int(self.low), int(self.high))
        share = random.random()
        if self.kind == "uniform":
            return rounded(self.low + share * (self.high - self.low))
        if self.kind == "log_uniform":
            return rounded(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        low, high = math.log(self.low), math.log(self.high + 1)
        return min(int(self.high), math.floor(rounded(math.exp(low + share * (high - low)))))


def uniform(low: float, high: float) -> Draws:
    """A number between low and high."""
    return _numbers("uniform", low, high)


def log_uniform(low: float, high: float) -> Draws:
    """A number between low and high, every factor as likely as every other: learning rates, weight decays."""
    return _numbers("log_uniform", low, high)


def integers(low: int, high: int) -> Draws:
    """A whole number from low to high, both included."""
    return _numbers("integers", low, high)


def log_integers(low: int, high: int) -> Draws:
    """A whole number from low to high, both included, every factor about as likely: widths, batches, vocabularies."""
    return _numbers("log_integers", low, high)


def choice(*values: object) -> Draws:
    """One of the values, each as likely."""
    if not values:
        raise UserError("choice() has no values to choose from: choice('adamw', 'muon')")
    return Draws("choice", values=values)


def grid(axes: Mapping[str, Iterable]) -> Space:
    """Every combination of the values of each path; the last path changes fastest."""
    named = _named(axes, "grid")
    return _space([dict(zip(named, points, strict=True)) for points in itertools.product(*named.values())], "grid")


def zipped(axes: Mapping[str, Iterable]) -> Space:
    """The first value of every path together, then the second of every path, and so on."""
    named = _named(axes, "zipped")
    lengths = {path: len(values) for path, values in named.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise UserError(f"zipped: every path needs as many values as the others; {told}")
    return _space([dict(zip(named, points, strict=True)) for points in zip(*named.values(), strict=True)], "zipped")


def listed(points: Iterable[Mapping[str, object]]) -> Space:
    """These points, each a dict of overrides; named by what they set."""
    points = [dict(point) for point in points]
    if not points or not all(points):
        raise UserError(f"listed: give at least one point, and overrides in each, not {points!r}")
    return _space([{path: (_label(value), value) for path, value in point.items()} for point in points], "listed")


def random(n: int, seed: int, axes: Mapping[str, Draws | Iterable]) -> Space:
    """n different points, "draw0", "draw1", ...; a list of values in the place of a distribution is a choice of them.

    The draw of a path is a function of (seed, number of the draw, path) alone: with a larger n the first n points stay
    what they are, and with one path more the others keep their values.
    """
    draws = distributions(axes)
    if type(n) is not int or n < 1:
        raise UserError(f"random: n={n!r}; draw at least one point")
    points, seen = {}, set()
    for attempt in range(1000 * n):
        point = {path: one.draw(Random(f"{seed}/{attempt}/{path}")) for path, one in draws.items()}
        if repr(point) not in seen:
            seen.add(repr(point))
            points[f"draw{len(points)}"] = point
        if len(points) == n:
            return points
    raise UserError(f"random: the space of {', '.join(draws)} has about {len(points)} different points, not n={n}")


def crossed(*spaces: Mapping[str, Mapping[str, object]]) -> Space:
    """Every point of each space with every point of the others: names joined by __, overrides together."""
    if not spaces or not all(spaces):
        raise UserError("crossed: give spaces that hold at least one point each")
    product = {}
    for points in itertools.product(*(space.items() for space in spaces)):
        merged: dict[str, object] = {}
        for name, overrides in points:
            if twice := merged.keys() & overrides.keys():
                raise UserError(f"crossed: {min(twice)} is set by {name!r} and by a space before it")
            merged |= overrides
        product["__".join(name for name, _ in points)] = merged
    return product


def beyond(base: Callable[[], ConfigDict], space: Mapping[str, Mapping[str, object]]) -> Space:
    """The space without the point that is the base itself, which a study runs in any case."""
    config = base()
    own = config_hash(config)
    return {name: dict(point) for name, point in space.items() if config_hash(update(config, point)) != own}


def distributions(axes: Mapping[str, Draws | Iterable]) -> dict[str, Draws]:
    """Every path with its distribution; a list or dict of values is a choice of them."""
    if not isinstance(axes, Mapping) or not axes:
        raise UserError(f"a space is a dict, config path -> values or distribution, not {axes!r}")
    named = _named({path: values for path, values in axes.items() if not isinstance(values, Draws)}, "random")
    chosen = {path: choice(*(value for _, value in values)) for path, values in named.items()}
    return {path: chosen.get(path, values) for path, values in axes.items()}


def rounded(number: float) -> float:
    """The number with six significant digits."""
    return float(f"{number:.{DIGITS}g}")


def _numbers(kind: str, low: float, high: float) -> Draws:
    """The distribution, or UserError for limits that it cannot have."""
    whole = kind.endswith("integers")
    if any(isinstance(limit, bool) or not isinstance(limit, int if whole else (int, float)) for limit in (low, high)):
        raise UserError(f"{kind}({low!r}, {high!r}): the limits are {'whole ' if whole else ''}numbers")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{kind}({low!r}, {high!r}): the lower limit comes first, and both are finite")
    if kind.startswith("log") and low <= 0:
        raise UserError(f"{kind}({low!r}, {high!r}): the lower limit is above 0")
    return Draws(kind, low, high)


def _named(axes: Mapping[str, Iterable], what: str) -> dict[str, list[tuple[str, object]]]:
    """Every path with its values as (label, value)."""
    if not isinstance(axes, Mapping) or (not axes and what != "random"):
        raise UserError(f"{what}: a space is a dict, config path -> values, not {axes!r}")
    named = {}
    for path, values in axes.items():
        if isinstance(values, Draws):
            raise UserError(f"{what}: {path} has a distribution ({values.kind}); only random and search draw from one")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"{what}: {path} takes several values, such as [{values!r}], not {values!r}")
        pairs = values.items() if isinstance(values, Mapping) else [(_label(value), value) for value in values]
        named[path] = [(str(label), value) for label, value in pairs]
        if not named[path]:
            raise UserError(f"{what}: {path} has no values")
    return named


def _space(points: list[dict[str, tuple[str, object]]], what: str) -> Space:
    """Points with labels to named variants; UserError where two get the same name."""
    keys = _short({path for point in points for path in point})
    space: Space = {}
    for point in points:
        name = "__".join(_legal(f"{keys[path]}-{label}") for path, (label, _) in point.items())
        if name in space:
            raise UserError(f"{what}: two points are called {name!r}; give values as a dict, name -> value")
        space[name] = {path: value for path, (_, value) in point.items()}
    return space


def _short(paths: set[str]) -> dict[str, str]:
    """Every path's end, with as many names in front as make it the only one: optim.learning_rate -> learning_rate."""
    short = {}
    for path in paths:
        parts = path.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        others = [f".{other}" for other in paths - {path}]
        short[path] = next(end for end in ends if end == path or not any(o.endswith(f".{end}") for o in others))
    return short


def _label(value: object) -> str:
    """A value in a variant's name: 0.001, 2, muon, 4-8, none."""
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return "-".join(map(_label, value)) or "empty"
    if isinstance(value, (Mapping, ConfigDict)):
        raise UserError(f"{value!r} has no short name: give the values as a dict, name -> value")
    return repr(value) if isinstance(value, (bool, int, float)) else str(value)


def _legal(text: str) -> str:
    """The text with the characters that a variant's name may have."""
    return re.sub(r"[^\w.-]+", "-", text)
