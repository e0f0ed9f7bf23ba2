"""A worker of a sweep: a process that claims cells of a store and trains them, one after the other, until none is left.

    python -m lmjax.study.worker WORKSPACE [--keys=FILE] [--retries=N] [--cores=0,1] [--leash]

Every cell is an ordinary run: `lmjax train` with the cell's name, overrides and --workdir goes on with it. JAX is
imported and started once for all of them. SIGTERM and SIGINT save the run, give the cell back and exit with 75; with
--leash the end of standard input does, that is the death of the process that holds its other end. After a cell that
failed the worker ends: what comes next begins in a fresh process.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax import atomic
from lmjax.errors import UserError
from lmjax.study.store import Cell, Lease, Status, Store

STOPPED = 75
BEAT = 15.0  # seconds between signs of life


class Leash:
    """Whether to stop. A thread gives signs of life and waits for the end of standard input; signals are the other way.

    While `lmjax train` has its own handlers, the run is saved and comes back as stopped.
    """

    def __init__(self, lease: Lease, *, held: bool):
        self.pulled, self._lease, self._held = False, lease, held
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        threading.Thread(target=self._watch, daemon=True).start()

    def _handle(self, number: int, frame: Any) -> None:
        self.pulled = True
        raise KeyboardInterrupt  # before the first step of a session there is nothing to save

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([0] if self._held else [], [], [], BEAT)
            self._lease.beat()
            if ready and not os.read(0, 1024):
                self.pulled = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


def work(workspace: Path, keys: Sequence[str] | None, retries: int, *, held: bool) -> int:
    """Claim and train until nothing is left (0), a cell has failed (0), or a signal or the leash says stop (75)."""
    lease = Lease(workspace)
    leash = Leash(lease, held=held)
    store = Store(workspace)
    started = False
    try:
        while not leash.pulled and (cell := store.claim(lease.name, keys, retries)):
            log_into(workspace, cell)
            try:
                if not started:
                    from lmjax.verbs.parsing import start_jax

                    start_jax()
                    started = True
                status, cause, metrics = train(workspace, cell)
            except KeyboardInterrupt:
                status, cause, metrics = "waiting", "stopped before its first step", {}
            store.finish(cell.key, lease.name, status, cause, metrics)
            if status == "failed":
                return 0
            if status == "waiting":
                return STOPPED
            forget()
        return STOPPED if leash.pulled else 0
    except KeyboardInterrupt:  # between two cells
        return STOPPED
    finally:
        store.close()
        lease.release()


def train(workspace: Path, cell: Cell) -> tuple[Status, str | None, dict[str, float]]:
    """Run one cell from wherever it is: what became of it, why, and its last metrics."""
    from lmjax import run
    from lmjax.config import loads
    from lmjax.experiment import Selected

    folder = workspace / cell.folder
    selected = Selected(cell.experiment, cell.question, loads(cell.config), Path(cell.source))
    try:
        code = run.train(selected, folder, run.Options(cell.overrides))
    except UserError as error:
        print(f"lmjax: {error}", file=sys.stderr, flush=True)
        return "failed", str(error), {}
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0][:500], {}
    facts = manifest(folder)
    if code == run.DONE:
        return "completed", facts.get("cause"), (facts.get("result") or {}).get("metrics") or {}
    if code == run.PREEMPTED_EXIT:
        return "waiting", f"stopped by {facts.get('cause')}", {}
    return "failed", facts.get("cause") or f"exit code {code}", {}


def manifest(folder: Path) -> dict:
    """The manifest of a run, {} before there is one."""
    path = folder / "manifest.json"
    return atomic.loads(path.read_text()) if path.is_file() else {}


def forget() -> None:
    """Let go of the programs of the last cell, or two hundred cells would fill the memory."""
    import jax

    jax.clear_caches()
    gc.collect()


def log_into(workspace: Path, cell: Cell) -> None:
    """Send what this process prints to logs/VARIANT-seedN.txt, behind what earlier attempts printed."""
    path = workspace / "logs" / f"{cell.folder.replace('/', '-')}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def main(words: Sequence[str] | None = None) -> int:
    """The command line of a worker; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lmjax.study.worker", allow_abbrev=False)
    parser.add_argument("workspace", type=Path)
    parser.add_argument(
        "--keys", type=Path, help="a file with the keys of the cells to take, a line each; default: all"
    )
    parser.add_argument("--retries", type=int, default=0, help="take cells that failed at most so often")
    parser.add_argument("--cores", help="run on these cores only: 0,1")
    parser.add_argument("--leash", action="store_true", help="stop at the end of standard input")
    chosen = parser.parse_args(words)
    if chosen.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in chosen.cores.split(",")})  # XLA makes a thread for each
    keys = chosen.keys.read_text().split() if chosen.keys else None
    return work(chosen.workspace, keys, chosen.retries, held=chosen.leash)


if __name__ == "__main__":
    sys.exit(main())
