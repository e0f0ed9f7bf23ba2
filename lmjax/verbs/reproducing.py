"""The verbs `lmjax reproduce`, a run made again and compared, and `lmjax invariance`, a loss computed in many ways."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError

DIFFERS = 1


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    one = verb("reproduce", "train a run again from what its folder says, and compare: identical, or which step differs "
               "first and why", run_reproduce)  # fmt: skip
    one.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    one.add_argument("--workdir", type=Path, help="where the new run goes (default: RUN-again; of a bundle runs/...)")
    one.add_argument("--against", type=Path, metavar="RUN", help="train nothing; compare with this run")
    one.add_argument("--code", choices=("here", "recorded"), default="here",
                     help="this lmjax, or the commit in the manifest with its changes (default: %(default)s)")  # fmt: skip
    one.add_argument("--flags", choices=("here", "recorded"), default="recorded",
                     help="XLA's and JAX's variables and the number of CPUs (default: %(default)s)")  # fmt: skip
    one.add_argument("--determinism", choices=("default", "strict"), default="default",
                     help="strict: again with the flags with which GPUs repeat every bit; the time that they cost is "
                     "the difference of both step times")  # fmt: skip
    one = verb("invariance", "the same loss across mesh, microbatches, packing, padding, hosts and evaluation batch: a "
               "table", run_invariance, takes_config=True)  # fmt: skip
    one.add_argument("experiment", metavar="EXPERIMENT")
    one.add_argument("--smoke", action="store_true", help="of its small version")
    one.add_argument("--devices", type=int, default=8, help="of a CPU, to pretend to have (default: %(default)s)")


def run_reproduce(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Exit code 0 when the runs are the same bit for bit, 1 when they are not."""
    from lmjax.study import causes, reproduce

    if not arguments.run.is_dir():
        raise UserError(f"{arguments.run} is no run directory")
    if arguments.against:
        found = reproduce.compare(causes.evidence(arguments.run), causes.evidence(arguments.against))
    else:
        workdir = arguments.workdir or again(arguments.run)
        found = reproduce.reproduce(arguments.run, workdir, code=arguments.code, flags=arguments.flags,
                                    strict=arguments.determinism == "strict")  # fmt: skip
    print("\n".join(found.lines()))
    return 0 if found.parted is None else DIFFERS


def again(run: Path) -> Path:
    """Where a run is made again: beside it, but not in a bundle, to which nothing is added."""
    if (run.absolute().parent.parent / "bundle.json").is_file():
        return Path("runs") / f"{run.absolute().parent.name}-{run.name}-again"
    return run.with_name(f"{run.name}-again")


def run_invariance(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Exit code 0 when every line that could be measured holds, 1 when one does not."""
    import os
    import sys

    from lmjax.verbs.parsing import start_jax
    from lmjax.verbs.training import select

    selected = select(arguments, overrides)
    if "jax" not in sys.modules and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        fake = f"--xla_force_host_platform_device_count={arguments.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fake}".strip()
    start_jax()
    from lmjax.study import invariance

    print(invariance.HEAD)
    holds = True
    for line in invariance.measure(selected.config):
        print(invariance.row(line), flush=True)
        holds = holds and line.holds is not False
    print(invariance.allowed(selected.config))
    return 0 if holds else DIFFERS
