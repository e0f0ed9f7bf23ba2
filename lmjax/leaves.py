"""Leaves of a config: which values can be one, and how a value or a command-line text becomes one of its type."""

from __future__ import annotations

import ast
import math
from decimal import Decimal, InvalidOperation

from ml_collections import ConfigDict

from lmjax.errors import UserError

KINDS = {kind.__name__: kind for kind in (bool, int, float, str, tuple)}
MEANING = {
    bool: ("true or false", "true"),
    int: ("an integer", "4"),
    float: ("a number", "0.1"),
    str: ("a string", "text"),
    tuple: ("a tuple", "a,b"),
}
ANY = tuple(MEANING)  # the kind of an optional leaf that came from JSON without its type
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def checked(value, where: str, none: bool = False):
    """The value, if it can be a leaf; a list as a tuple."""
    if value is None and not none:
        raise UserError(f"{where} is None, so its type is unknown: write optional(int), optional(str), ...")
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, ConfigDict)) for item in value):
            raise UserError(f"{where} is a tuple of dicts, which no override could reach: use a section of named dicts")
        return tuple(checked(item, where) for item in value)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise UserError(f"{where} is {value!r} of type {type(value).__name__}; a leaf is one of {', '.join(KINDS)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}: a number must be finite")
    return value


def cast(kind, value, present):
    """A Python value as a leaf of that kind; ValueError if it is of another type."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in (int, float) and is_number and math.isfinite(value) and (kind is float or value == int(value)):
        return kind(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is tuple and isinstance(value, str):
        return read(tuple, value, present)
    if kind is tuple and isinstance(value, (list, tuple)):
        item_kind = _item_kind(present)
        return tuple(cast(item_kind, item, None) if item_kind else checked(item, "an item") for item in value)
    if kind == ANY:
        return checked(value, "the value")
    raise ValueError


def read(kind, text: str, present):
    """A command-line text as a leaf of that kind; ValueError if it does not spell one."""
    if kind is str:
        return text
    text = text.strip()
    if kind is bool and text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if kind is int:
        number = Decimal(text)  # exact for 1e23, which float is not
        if number.is_finite() and number.adjusted() < 30 and number == int(number):  # not the digits of 1e999999999
            return int(number)
    if kind is float:
        return cast(float, float(text), None)
    if kind is tuple:
        return cast(tuple, _read_items(text, _item_kind(present)), present)
    if kind == ANY:
        return _guess(text)
    raise ValueError


def _read_items(text: str, item_kind: type | None) -> tuple:
    """The items of a,b or (a,b) or ('a', 'b') or (); without an item kind, numbers are numbers and words strings."""
    if text[:1] in ("(", "[", "'", '"'):
        try:
            value = ast.literal_eval(text)
            return tuple(value) if isinstance(value, (list, tuple)) else (value,)
        except (ValueError, SyntaxError):
            text = text.strip("()[]")  # names without quotes
    items = [item.strip() for item in text.removesuffix(",").split(",")] if text.strip() else []
    return tuple(read(item_kind, item, None) if item_kind else _guess(item) for item in items)


def _item_kind(present: tuple | None) -> type | None:
    """The one type of a tuple's items, or None when it has none or several."""
    kinds = {type(item) for item in present or ()}
    return kinds.pop() if len(kinds) == 1 else None


def _guess(text: str):
    """A leaf whose type nothing says: a number or a boolean if it spells one, else the text."""
    for kind in (int, float):
        try:
            return read(kind, text, None)
        except (ValueError, InvalidOperation):
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
