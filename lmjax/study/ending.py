"""What a sweep says when it has ended: what failed and why, and the table of what is finished. No JAX in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.study.records import collect
from lmjax.study.sweep import STOPPED, Outcome
from lmjax.study.table import table
from lmjax.study.wording import aligned


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
        console.print(escape(aligned(table(study, records))))
    except (UserError, ImportError) as error:
        console.print(escape(f"no table: {error}"))
        return
    console.print(f"next:  lmjax report {study.name} --workdir={workspace}")
