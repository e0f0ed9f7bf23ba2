"""The verbs that write about finished runs: report and card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError
from lmjax.verbs.parsing import add_insisting, insisted

FORMS = ("html", "md", "tex", "csv")


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    one = verb("report", "the report of a study: table, intervals, tests, learning curves, costs, and where each number "
               "is from", run_report)  # fmt: skip
    one.add_argument("study", metavar="STUDY|RUN", nargs="+", help="a study, or the folders of its finished runs")
    one.add_argument("--format", choices=FORMS, default="html", help="(default: %(default)s)")
    one.add_argument(
        "--out", type=Path, metavar="FILE", help="- for standard output (default: report.FORMAT in the workspace)"
    )
    one.add_argument("--workdir", type=Path, help="the workspace of the study (default: runs/STUDY)")
    one.add_argument("--metrics", metavar="NAME,NAME", help="(default: those of the study)")
    one.add_argument("--test", choices=("t", "wilcoxon"), default="t",
                     help="of the paired differences: Student's, or Wilcoxon's signed ranks (default: %(default)s)")  # fmt: skip
    add_insisting(one)
    one = verb(
        "card", "write a model card of a finished run: MODEL_CARD.md and model_card.html in its folder", run_card
    )
    one.add_argument("run", metavar="RUN", type=Path, help="a run directory")


def run_report(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax import atomic
    from lmjax.study import cells, records, report
    from lmjax.study.table import table

    if all((Path(word) / "manifest.json").is_file() for word in arguments.study):
        found = [records.read(word) for word in arguments.study]
        study, _ = cells.study_named(_one_study(found))
        home = arguments.workdir or Path(".")
    elif len(arguments.study) > 1:
        wrong = next(word for word in arguments.study if not (Path(word) / "manifest.json").is_file())
        raise UserError(f"{wrong} is no run directory: name one study, or the folders of finished runs")
    else:
        study, _ = cells.study_named(arguments.study[0])
        home = arguments.workdir or Path("runs") / study.name
        found = records.collect(study, home, unfinished="skip")
        if not found:
            raise UserError(f"{home} has no finished run of {study.name}: `lmjax sweep {study.name}` makes them")
    metrics = None if arguments.metrics is None else [name.strip() for name in arguments.metrics.split(",")]
    if metrics is not None and not all(metrics):
        raise UserError(f"--metrics={arguments.metrics}: name metrics, --metrics={','.join(study.metrics)}")
    out = arguments.out or home / f"report.{arguments.format}"
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: name the file, --out={out / f'report.{arguments.format}'}")
    made = table(study, found, metrics, test=arguments.test, insist=insisted(arguments))
    if str(out) == "-":
        sys.stdout.write(report.render(study, found, made, arguments.format, home=Path(".")).decode())
        return 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(out, report.render(study, found, made, arguments.format, home=out.parent).decode())
    except OSError as error:
        raise UserError(f"no report at {out}: {error}") from None
    print(out)
    return 0


def _one_study(found: list) -> str:
    """The study whose runs these are."""
    from lmjax.study.records import study_of

    names = sorted({study_of(record) for record in found})
    if any(record.variant is None for record in found):
        raise UserError("a run of a config function belongs to no study: `lmjax card RUN` writes about one run")
    if len(names) > 1:
        raise UserError(f"these are runs of several studies: {', '.join(names)}")
    return names[0]


def run_card(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.study import card, records

    record = records.read(arguments.run)
    try:
        print(card.write(record))
    except OSError as error:
        raise UserError(f"no card in {arguments.run}: {error}") from None
    return 0
