"""The verb that searches a space: search."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmjax.errors import UserError, unknown

EXAMPLE = """\
The space is a dict in the study's own file, or in another one, FILE.py:NAME:

  from lmjax.study import spaces
  space = {"optim.learning_rate": spaces.log_uniform(1e-4, 1e-2), "model.depth": [2, 4, 8]}

  lmjax search positions/rope --space=space --trials=30 --halving --jobs=2
"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    one = verb("search", "search a space of configs; the winner is run again with fresh seeds", run_search,
               takes_config=True)  # fmt: skip
    one.epilog = EXAMPLE
    one.add_argument("experiment", metavar="EXPERIMENT", help="a study, one of its variants, or a config function")
    one.add_argument("--space", required=True, help="NAME in the study's file, or FILE.py:NAME")
    one.add_argument("--trials", type=int, default=20)
    one.add_argument("--sampler", default="tpe", help="tpe (Optuna; the default) or random")
    one.add_argument("--halving", type=int, nargs="?", const=3, metavar="N",
                     help="stop trials early: the best 1/N at each rung go on from their checkpoint (default N: 3)")  # fmt: skip
    one.add_argument("--metric", default="", help="default: the config's eval.metric")
    one.add_argument("--mode", default="", help="min or max; default: the config's eval.mode")
    one.add_argument("--seeds", type=int, default=3, help="fresh seeds for the winner and the base (default: 3)")
    one.add_argument("--sampler-seed", type=int, default=0, help="another course of the same search")
    one.add_argument("--jobs", type=int, default=1, help="trials at a time; the course of a search depends on it")
    one.add_argument("--workdir", type=Path, help="default: runs/EXPERIMENT-search")
    one.add_argument("--slurm", action="append", metavar="NAME=VALUE",
                     help="run the trials as SLURM jobs: --slurm=partition=gpu --slurm=time=60")  # fmt: skip


def run_search(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.experiment import find
    from lmjax.study import processes, slurm
    from lmjax.study.search import Settings, search
    from lmjax.study.spaces import distributions

    selected = find(arguments.experiment)._replace(name=arguments.experiment)  # as `lmjax train` finds it
    space = distributions(find_space(arguments.space, selected.source_file))
    name = re.sub(r"[^\w.-]+", "-", arguments.experiment)
    workspace = arguments.workdir or Path("runs") / f"{name}-search"
    settings = Settings(arguments.trials, arguments.sampler, arguments.sampler_seed, arguments.metric, arguments.mode,
                        arguments.halving, arguments.jobs, arguments.seeds)  # fmt: skip
    if arguments.slurm is None:
        executor: Any = processes.Local(workspace / "logs", max(arguments.jobs, 1))
    else:
        executor = slurm.Slurm(workspace / "slurm", slurm.settings(arguments.slurm))
    return search(selected, space, settings, workspace, executor, overrides)


def find_space(text: str, source: Path) -> Any:
    """The dict called NAME in the file of the experiment, or in FILE.py of "FILE.py:NAME"."""
    from lmjax.discover import ROOMS, load

    path, _, name = text.rpartition(":")
    file = Path(path) if path else source
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--space={text}: {file} is no Python file; write --space=FILE.py:NAME")
    room = file.parent.name if not path and file.parent.name in ROOMS else ""
    module = load(f"{room}.{file.stem}" if room else f"lmjax_space_{file.stem}", file)
    spaces = [key for key, value in vars(module).items() if isinstance(value, dict) and not key.startswith("_")]
    if name not in spaces:
        raise unknown(f"space in {file}", name, spaces)
    return getattr(module, name)
