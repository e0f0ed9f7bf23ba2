"""Per-parameter rules: which decay, which rate, and what is frozen, by regular expression on the path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from lmjax.errors import UserError

REST = "rest"
DEFAULT = {"decay": 1.0, "rate": 1.0, "freeze": False}  # where the config has no rules at all


class Row(NamedTuple):
    """What one parameter gets: decay and rate multiply optim.weight_decay and the scheduled learning rate."""

    path: str
    shape: tuple[int, ...]
    rule: str
    decay: float
    rate: float
    frozen: bool
    optimizer: str  # "frozen", the chosen optimizer, or "adamw" for what Muon leaves
    lowest: float = 1.0  # rate is for the layer nearest the output, and this times it for the one furthest from it


def path_of(keys) -> str:
    """The path of a parameter as rules spell it: "blocks/attention/query"."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def resolve(rules: Mapping[str, Mapping], paths: Sequence[str]) -> dict[str, str]:
    """path -> the name of its rule. Without any rule each parameter is under "default": decay 1, rate 1, not frozen.

    `match` is a regular expression for the whole path; "rest" takes what no other rule matched. Raises UserError for
    a parameter under no rule or under two, and for a rule that matches nothing ("rest" may).
    """
    if not rules:
        return dict.fromkeys(paths, "default")
    matched = {name: _matches(name, rule["match"], paths) for name, rule in rules.items() if rule["match"] != REST}
    rest = [name for name, rule in rules.items() if rule["match"] == REST]
    if len(rest) > 1:
        raise UserError(f"optim.rules: {' and '.join(rest)} both have match={REST!r}; one rule can take the rest")
    found = {}
    for path in paths:
        names = [name for name, hits in matched.items() if path in hits] or rest
        if not names:
            raise UserError(
                f"no rule in optim.rules covers the parameter {path!r}; its neighbours: "
                f"{', '.join(near(path, [p for p in paths if p != path]))}. "
                f"Widen one of {', '.join(rules)} or add a rule with match={REST!r}."
            )
        if len(names) > 1:
            raise UserError(
                f"the parameter {path!r} is matched by {len(names)} rules in optim.rules: "
                + ", ".join(f"{name} ({rules[name]['match']!r})" for name in names)
                + ". Narrow all but one."
            )
        found[path] = names[0]
    return found


def _matches(name: str, pattern: str, paths: Sequence[str]) -> set[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"optim.rules.{name}.match={pattern!r} is no regular expression: {error}") from None
    hits = {path for path in paths if compiled.fullmatch(path)}
    if not hits:
        raise UserError(
            f"the rule optim.rules.{name} matches no parameter: {pattern!r} has to match a whole path. "
            f"Nearest: {', '.join(near(pattern, paths))}."
        )
    return hits


def near(text: str, paths: Sequence[str]) -> list[str]:
    """The three paths most like a path or a pattern."""
    return difflib.get_close_matches(re.sub(r"[^\w/]", "", text), paths, n=3, cutoff=0.0)


def check(rules: Mapping[str, Mapping]) -> None:
    """Raises UserError for a negative multiplier."""
    for name, rule in rules.items():
        for leaf in ("decay", "rate"):
            if not rule[leaf] >= 0:
                raise UserError(f"optim.rules.{name}.{leaf}={rule[leaf]}: must be 0 or more")
