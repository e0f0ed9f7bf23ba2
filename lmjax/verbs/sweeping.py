"""The verb that runs a whole study: sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError

CODES = """\
exit codes:
  0   every cell is finished, and the table stands
  1   cells failed, --retries included; the others are finished
  2   a mistake of yours, and what it is: in the command, in the study, or in every cell that failed
  75  stopped by SIGINT or SIGTERM, everything saved: the same command goes on
"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    one = verb("sweep", "run every variant of a study with every seed; the same command goes on where it stopped",
               run_sweep, takes_config=True)  # fmt: skip
    one.epilog = CODES
    one.add_argument("study", metavar="STUDY")
    one.add_argument("--seeds", metavar="N", help="how many, 5, or which, 0,3,7 (default: the study's)")
    one.add_argument("--variants", nargs="+", metavar="VARIANT", help="only these; the base is called base")
    one.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, each on its share of the cores")
    one.add_argument("--retries", type=int, default=0, metavar="N", help="try a failed cell so often again")
    one.add_argument("--workdir", type=Path, help="the workspace (default: runs/STUDY)")
    one.add_argument("--slurm", action="append", metavar="NAME=VALUE",
                     help="run the workers as SLURM jobs: --slurm=partition=gpu --slurm=time=60")  # fmt: skip
    one.add_argument("--smoke", action="store_true", help="two steps of a small version of every cell")


def run_sweep(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax import environment
    from lmjax.study import cells, ending, slurm, sweep

    for name, least in (("jobs", 1), ("retries", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}={getattr(arguments, name)}: it is a number from {least}")
    study, source = cells.study_named(arguments.study)
    seeds = cells.seeds_of(study, arguments.seeds)
    variants = cells.variants_of(study, arguments.variants)
    chosen = cells.cells_of(study, source, variants=variants, seeds=seeds, overrides=overrides, small=arguments.smoke)
    workspace = arguments.workdir or Path("runs") / (study.name + ("-smoke" if arguments.smoke else ""))
    if warning := cells.other_code(chosen, workspace):
        print(f"warning: {warning}", file=sys.stderr)
    environment.prepare()  # the workers share one compilation cache
    given = arguments.slurm and slurm.Slurm(workspace / "slurm", slurm.settings(arguments.slurm))
    outcome = sweep.sweep(study.name, chosen, workspace, jobs=arguments.jobs, retries=arguments.retries,
                          metrics=study.measured(), executor=given)  # fmt: skip
    return ending.show(study, variants, seeds, workspace, outcome, arguments.retries)
