"""What several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_run(one: argparse.ArgumentParser) -> None:
    """RUN, and which of its checkpoints."""
    one.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    one.add_argument("--step", type=int, help="the checkpoint of this step (default: the newest)")
    one.add_argument("--best", action="store_true", help="the best checkpoint by the run's eval.metric")


def add_insisting(one: argparse.ArgumentParser) -> None:
    """What makes a table of runs that are refused otherwise."""
    one.add_argument("--mixed-commits", action="store_true", help="take runs of several commits, marked")
    one.add_argument("--insist", action="store_true", help="take runs that no table should be made of, marked")


def insisted(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The kinds of faults that are marks instead."""
    from lmjax.study.checks import KINDS

    return KINDS if arguments.insist else ("code",) if arguments.mixed_commits else ()


def start_jax() -> None:
    """Set the environment, import JAX and join the other processes, if there are any."""
    from lmjax import discover, environment

    environment.start()
    discover.open_rooms()  # a run may name parts of its own from there
    from lmjax.sharding import distributed

    distributed.start()
