"""The verb that says what differs: diff."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    one = verb("diff", "say what differs between two runs or configs, and where each is from", run_diff)
    for name in "ab":
        one.add_argument(name, metavar=name.upper(), help="a run directory, STUDY, STUDY/VARIANT or FILE.py:FUNCTION")
    one.add_argument("--json", action="store_true", help="for programs")


def run_diff(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.study import explain

    found = explain.explain(explain.side(arguments.a), explain.side(arguments.b))
    print(explain.as_json(found) if arguments.json else "\n".join(explain.text(found)))
    return 0
