"""The verb that says how many seeds a study needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    one = verb("seeds", "how many seeds a study needs to see a difference, by its finished runs", run_seeds)
    one.add_argument("study", metavar="STUDY")
    one.add_argument("--difference", type=float, required=True, help="the smallest that matters, in the metric's unit")
    one.add_argument("--power", type=float, default=0.8, help="the chance to find it (default: 0.8)")
    one.add_argument("--metric", action="append", help="such as valid/nll (default: those of the study)")
    one.add_argument("--workdir", type=Path, help="the workspace of its sweep (default: runs/STUDY)")


def run_seeds(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.experiment import study
    from lmjax.study import planned, records

    found = study(arguments.study)
    workspace = arguments.workdir or Path("runs") / found.name
    held = records.collect(found, workspace, unfinished="skip")
    needed = planned.needed(found, held, arguments.difference, arguments.metric, arguments.power)
    print(planned.text(found, needed, arguments.difference, arguments.power))
    return 0
