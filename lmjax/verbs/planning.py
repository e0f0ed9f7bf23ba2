"""The verb that asks beforehand: plan."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    one = verb("plan", "compile the train step for a topology, here or not, and say what it needs and how fast it can be",
               run_plan, takes_config=True)  # fmt: skip
    one.add_argument("experiment", metavar="EXPERIMENT", nargs="?")
    one.add_argument("--topology", default="cpu", help="v5e:4x4, v4:2x2x1, v5p:4x4x4, v6e:16x16, tpu7x:2x2x1, cpu, cpu:8 "
                     "or gpu (default: cpu)")  # fmt: skip
    one.add_argument("--slices", type=int, default=1, help="so many of that topology, with a network between them")
    one.add_argument("--search", action="store_true", help="try remat policies, microbatches and meshes")
    one.add_argument("--limit", type=int, default=12, help="of --search: compile at most so many (default: 12)")
    one.add_argument(
        "--diff", nargs=2, type=Path, metavar=("RUN_A", "RUN_B"), help="what differs between two runs' programs"
    )
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--hlo", type=Path, metavar="FILE", help="write the compiled program's text there")
    one.add_argument("--plain", action="store_true", help="without the compiler options that suit the chip")


def run_plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.show import _console

    console = _console()
    if arguments.diff:
        return run_diff(arguments, overrides, console)
    if not arguments.experiment:
        raise UserError("plan what? `lmjax plan EXPERIMENT --topology=v5e:4x4`, or `lmjax plan --diff RUN_A RUN_B`")
    from lmjax.config import override
    from lmjax.experiment import find
    from lmjax.plan import table, topology, worker

    selected = find(arguments.experiment)
    config, where = override(selected.config, overrides), topology.parse(arguments.topology, arguments.slices)
    if arguments.search:
        from lmjax.plan import search

        found = search.search(config, where, limit=arguments.limit, say=lambda text: print(text, flush=True)
                              if not arguments.json else None, tuned=not arguments.plain)  # fmt: skip
        print(search.as_json(found), end="") if arguments.json else search.show(selected.name, found, console)
        return 0
    keep = str(arguments.hlo.absolute()) if arguments.hlo else None
    found = worker.ask(config, where, keep=keep, tuned=not arguments.plain)
    print(table.as_json(found), end="") if arguments.json else table.show(selected.name, found, console)
    return 0


def run_diff(arguments: argparse.Namespace, overrides: list[str], console: object) -> int:
    if arguments.experiment or overrides or arguments.search:
        raise UserError("--diff takes two run directories, and no experiment, --config or --search")
    from lmjax.plan import changes

    found = changes.compare(*arguments.diff)
    print(changes.as_json(found), end="") if arguments.json else changes.show(found, console)
    return 0
