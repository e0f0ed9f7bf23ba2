"""The verb `lmjax eval`: its flags, its progress bar, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError
from lmjax.verbs.parsing import add_run, start_jax


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    evaluate = verb("eval", "the metrics of a run's field over its validation split, with intervals, as table and page",
                    run_eval)  # fmt: skip
    add_run(evaluate)
    evaluate.add_argument("--batch", type=int, help="rows at a time; the result does not depend on it")
    evaluate.add_argument(
        "--metrics", metavar="NAMES", help="such as bleu,chrf,rouge,exact_match (default: those of the run's kind)"
    )
    evaluate.add_argument("--json", action="store_true", help="print evaluation.json in place of the table")
    evaluate.add_argument(
        "--beams", type=int, default=1, help="beams of the texts that it writes (default: 1, greedily)"
    )
    evaluate.add_argument("--length-penalty", type=float, default=0.6, metavar="ALPHA",
                          help="of beam search, ((5 + length) / 6)^ALPHA (default: %(default)s)")  # fmt: skip
    evaluate.add_argument("--length", type=int, help="new tokens of a text at most (default: data.length)")
    evaluate.add_argument("--limit", type=int, help="write the first LIMIT texts only (default: all)")


def run_eval(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Evaluate, print, and leave the files of `files.NAMES` in the run directory."""
    for name in ("batch", "beams", "length", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: at least 1")
    start_jax()
    import jax
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from lmjax import atomic, counted, trained
    from lmjax.data import kinds
    from lmjax.evaluation import counts, files
    from lmjax.evaluation.judge import judge
    from lmjax.evaluation.report import Asked, Decoding
    from lmjax.view import View

    first = jax.process_index() == 0
    counts_only, view = counted.is_counted(arguments.run), View(quiet=not first)
    open_run = counted.load if counts_only else trained.load
    loaded = open_run(arguments.run, step=arguments.step, best=arguments.best)
    metrics = tuple(name.strip() for name in (arguments.metrics or "").split(",") if name.strip())
    decoding = Decoding(arguments.beams, arguments.length_penalty, arguments.length, arguments.limit)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
               TimeElapsedColumn())  # fmt: skip
    hidden = arguments.json or not view.console.is_terminal
    with Progress(*columns, console=view.console, transient=True, disable=hidden) as progress:
        tasks: dict[str, object] = {}

        def bar(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done)

        found = (counts.evaluate if counts_only else judge)(loaded, Asked(arguments.batch, metrics, decoding, bar))
    config = loaded.config if counts_only else loaded.program.config
    facts = {"run": Path(arguments.run).name, "step": loaded.step, "kind": kinds.kind_of(config.data), "split": "valid",
             "data": config.data.source}  # fmt: skip
    if not first:
        return 0
    files.write(arguments.run, found, facts)
    if arguments.json:
        print(atomic.dumps(files.as_json(found, facts), indent=1))
        return 0
    view.evaluation(loaded.step, {f"valid/{name}": value for name, value in found.means.items()})
    files.show(view.console, found)
    view.say(f"written: {', '.join(str(arguments.run / name) for name in files.NAMES)}", style="dim")
    return 0
