"""Choosing a part by name from a dict in sight, or anyone's own by "package.module:attribute"."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from lmjax.errors import UserError, unknown


def pick(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or for "package.module:attribute" that object; `what` is for the message.

    A file of the user's own `experiments/` or `configs/` is a module too: "experiments.focal:loss".
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise unknown(what, name, table, hint='Or your own, as "package.module:attribute".')
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} {name!r}: {module} cannot be imported ({error})") from error
    if not hasattr(found, attribute):
        raise unknown(f"attribute of {module} in {what}", attribute, [key for key in vars(found) if key[0] != "_"])
    return getattr(found, attribute)


def takes(part: Callable, options: Mapping[str, Any], what: str, section: str) -> dict[str, Any]:
    """The options that `part` has a keyword for; one that is set (not None, 0 or False) and that it lacks is an error."""
    import inspect

    keywords = inspect.signature(part).parameters
    extra = [name for name, value in options.items() if name not in keywords and value]
    if extra:
        known = ", ".join(name for name in options if name in keywords) or "none of them"
        raise UserError(f"{section}.{extra[0]}={options[extra[0]]!r}: {what} does not take it; it takes {known}")
    return {name: value for name, value in options.items() if name in keywords}
