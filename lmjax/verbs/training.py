"""The verbs that run experiments: list, show, train."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmjax import environment
from lmjax.verbs.parsing import start_jax


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    verb("list", "studies, their variants and questions; config functions", run_list)
    show = verb("show", "the resolved config, parameter table, parameters, FLOPs a token and mesh of an experiment",
                run_show, takes_config=True)  # fmt: skip
    train = verb("train", "train an experiment, or go on with it; a finished run is left as it is", run_train,
                 takes_config=True)  # fmt: skip
    for one in (show, train):
        one.add_argument("experiment", metavar="EXPERIMENT")
        one.add_argument("--smoke", action="store_true", help="two steps of a small version: does it run at all?")
    train.add_argument("--workdir", type=Path, help="run directory (default: runs/ and the experiment's name and hash)")
    train.add_argument(
        "--allow-config-change", action="store_true", help="go on with a run although its config changed"
    )
    train.add_argument(
        "--profile", metavar="START:STOP", type=steps_range, help="trace these steps for XProf or Perfetto"
    )
    train.add_argument("--until", metavar="STEP", type=a_step, help="stop after this step, saved, and exit with 75")
    train.add_argument("--measures", metavar="METRIC", help="end at once if the run will not measure this")
    train.add_argument("--determinism", choices=("default", "strict"), default="default",
                       help="strict: the flags with which GPUs repeat every bit; `reproduce` says what they cost")  # fmt: skip
    train.add_argument("--track", metavar="TRACKER", help="also log to wandb or mlflow (extras of the same name)")


def steps_range(text: str) -> tuple[int, int]:
    """10:20 -> (10, 20)"""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP, such as 10:20")
    return int(found[1]), int(found[2])


def a_step(text: str) -> int:
    """A step's number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a step, 1 or more")
    return int(text)


def select(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """The chosen experiment with its overrides applied."""
    from lmjax.config import override
    from lmjax.experiment import find

    selected = find(arguments.experiment)
    config = selected.config
    if arguments.smoke:
        from lmjax.smoke import smoke

        config = smoke(config)
    return selected._replace(config=override(config, overrides))


def run_list(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.show import print_listing

    print_listing()
    return 0


def run_show(arguments: argparse.Namespace, overrides: list[str]) -> int:
    selected = select(arguments, overrides)
    start_jax()
    from lmjax import counted
    from lmjax.show import print_experiment

    (counted.show if selected.config.model.kind in counted.KINDS else print_experiment)(selected)
    return 0


def run_train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    selected = select(arguments, overrides)
    if arguments.determinism == "strict":
        os.environ["XLA_FLAGS"] = environment.strict(os.environ.get("XLA_FLAGS", ""))
    start_jax()
    from lmjax import run

    folder = arguments.workdir or default_folder(selected)
    wanted = (arguments.measures,) if arguments.measures else ()
    return run.train(selected, folder, run.Options(tuple(overrides), arguments.allow_config_change, arguments.profile,
                                                   arguments.track, arguments.until, wanted))  # fmt: skip


def default_folder(selected: Any) -> Path:
    """runs/NAME-HASH: the same experiment with the same config, on whatever mesh, is the same run."""
    import hashlib

    from lmjax.config import flatten

    leaves = sorted(
        (path, repr(leaf))
        for path, leaf in flatten(selected.config).items()
        if not path.startswith(("layout.", "data.workers"))
    )
    name = re.sub(r"[^\w.-]+", "-", selected.name)
    return Path("runs") / f"{name}-{hashlib.sha256(repr(leaves).encode()).hexdigest()[:8]}"
