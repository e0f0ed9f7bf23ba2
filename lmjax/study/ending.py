"""What a sweep says when it has ended: what failed and why, and the table of what is finished. No JAX in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.study.records import collect
from lmjax.study.sweep import STOPPED, Outcome
from lmjax.study.table import Cell, Estimate, Table, table


def show(study: Experiment, variants: Sequence[str], seeds: Sequence[int], workspace: Path, outcome: Outcome,
         retries: int) -> None:  # fmt: skip
    """Print how the sweep ended. Of a stopped one only how to go on."""
    console = Console(highlight=False, soft_wrap=True)
    done = sum(entry.status == "completed" for entry in outcome.entries)
    if outcome.code == STOPPED:
        console.print(f"stopped, everything saved: {done} of {len(outcome.entries)} cells finished; "
                      "the same command goes on from there")  # fmt: skip
        return
    for entry in outcome.entries:
        if entry.status == "failed":
            log = workspace / "logs" / f"{entry.cell.folder.replace('/', '-')}.txt"
            console.print(f"failed: {entry.cell.folder}, {entry.failures} times: {escape(entry.cause or '')}  ({log})",
                          style="red")  # fmt: skip
    if any(entry.status == "failed" for entry in outcome.entries):
        most = max(entry.failures for entry in outcome.entries)
        console.print(f"--retries={max(most, retries + 1)} tries them again")
    try:
        records = collect(study, workspace, seeds, variants=variants, unfinished="skip")
        console.print(escape(text(table(study, records))))
    except (UserError, ImportError) as error:
        console.print(escape(f"no table: {error}"))
        return
    console.print(f"next:  lmjax report {study.name} --workdir={workspace}")


def text(made: Table) -> str:
    """A table as aligned columns: of every metric the mean with its 95 % interval, and the difference with p."""
    rows = [["variant", "n"]]
    for metric in made.metrics:
        rows[0] += [metric, f"- {made.baseline}", "p (Holm)"]
    for row in made.rows:
        rows.append([row.variant, f"{len(row.seeds)}"] + [word for cell in row.cells for word in words(cell)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([made.question, *lines, *made.notes])


def words(cell: Cell) -> list[str]:
    """The mean, the difference to the baseline and its corrected p; "" for what there is none of."""
    difference = "" if cell.difference is None else estimate(cell.difference, "+")
    return [estimate(cell.mean), difference, "" if cell.holm is None or math.isnan(cell.holm) else f"{cell.holm:.3g}"]


def estimate(value: Estimate, sign: str = "") -> str:
    """1.2345 [1.2001, 1.2689]; without the interval where too few seeds give none."""
    number = f"{value.value:{sign}.4f}"
    return number if math.isnan(value.low) else f"{number} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
