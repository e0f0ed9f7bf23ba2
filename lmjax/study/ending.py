"""What a sweep says when it has ended: what failed and why, and the table of what is finished. No JAX in here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.study.records import EVALUATED, collect
from lmjax.study.sweep import STOPPED, USER_MISTAKE, Outcome
from lmjax.study.table import table
from lmjax.study.wording import aligned
from lmjax.study.worker import MISTAKE


def show(study: Experiment, variants: Sequence[str], seeds: Sequence[int], workspace: Path, outcome: Outcome,
         retries: int) -> int:  # fmt: skip
    """Print how the sweep ended, of a stopped one only how to go on; the exit code, 2 where its table is refused."""
    console = Console(highlight=False, soft_wrap=True)
    done = sum(entry.status == "completed" for entry in outcome.entries)
    if outcome.code == STOPPED:
        console.print(f"stopped, everything saved: {done} of {len(outcome.entries)} cells finished; "
                      "the same command goes on from there")  # fmt: skip
        return outcome.code
    failures(outcome, workspace, retries)
    metrics = [name for name in study.measured() if not name.startswith(EVALUATED)]
    try:
        records = collect(study, workspace, seeds, variants=variants, unfinished="skip")
        if not records:
            return outcome.code
        if metrics:
            console.print(escape(aligned(table(study, records, metrics))))
    except ImportError as error:
        console.print(escape(f"no table: {error}"))
        return outcome.code
    except UserError as error:
        print(f"lmjax: {error}", file=sys.stderr)
        return outcome.code or USER_MISTAKE
    if len(metrics) < len(study.measured()):
        asked = ",".join(name.removeprefix(EVALUATED) for name in study.measured() if name.startswith(EVALUATED))
        console.print(f"next:  lmjax eval RUN --metrics={asked}  of every run, {workspace}/VARIANT/seedN")
    console.print(f"next:  lmjax report {study.name} --workdir={workspace}")
    return outcome.code


def failures(outcome: Outcome, workspace: Path, retries: int) -> None:
    """Say on standard error what failed: cells that failed for the same reason in one line."""
    console, causes = Console(stderr=True, highlight=False, soft_wrap=True), {}
    for entry in outcome.entries:
        if entry.status == "failed":
            causes.setdefault((entry.cause or "").removeprefix(MISTAKE), []).append(entry)
    for cause, failed in causes.items():
        first, more = failed[0], f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        log = workspace / "logs" / f"{first.cell.folder.replace('/', '-')}.txt"
        times = f"{first.failures} time{'s' if first.failures > 1 else ''}"
        console.print(f"failed: {first.cell.folder}{more}, {times}: {escape(cause)}  ({log})", style="red")
    if causes:
        most = max(entry.failures for entry in outcome.entries)
        console.print(f"--retries={max(most, retries + 1)} tries them again")
