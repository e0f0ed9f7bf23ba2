"""A worker of a sweep: a process that claims cells of a store and trains them, one after the other, until none is left.

    python -m lmjax.study.worker WORKSPACE [--keys=FILE] [--retries=N] [--metrics=NAME,NAME]

Every cell is an ordinary run: `lmjax train` with the cell's name, overrides and --workdir goes on with it. JAX is
imported and started once for all of them, for as long as the code in the repository is what this process has loaded.
SIGTERM and SIGINT save the run, give the cell back and exit with 75. After a cell that failed the worker ends: what
comes next begins in a fresh process. A metric of the study that a cell will not measure ends the worker before the cell's
first step, with 64.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax import atomic, discover, environment, source
from lmjax.errors import Unmeasured, UserError
from lmjax.study.checks import names_own_parts
from lmjax.study.store import Cell, Lease, Status, Store

STOPPED, UNMEASURED = 75, 64
MISTAKE = "UserError: "  # what the cause of a failure begins with that is the user's
BEFORE = "stopped before its first step"
STOPS = (signal.SIGTERM, signal.SIGINT)
BEAT = 15.0  # seconds between signs of life


class Signals:
    """SIGTERM and SIGINT: `received` says whether one came, also while the run has its own handlers and saves.

    Outside a run's steps there is nothing to save: it is a KeyboardInterrupt.
    """

    def __init__(self):
        self._came = False
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # the number of every signal, whoever handles it
        for number in STOPS:
            signal.signal(number, self._handle)

    def received(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._came = self._came or bool(set(os.read(self._read, 4096)) & set(STOPS))
        return self._came

    def _handle(self, number: int, frame: Any) -> None:
        if not self._came:  # the second changes nothing: this process is on its way out
            self._came = True
            raise KeyboardInterrupt


def work(workspace: Path, keys: Sequence[str] | None, retries: int, metrics: Sequence[str] = ()) -> int:
    """Claim and train until nothing is left, a cell has failed or the code has changed (0), or a signal says stop (75).

    64 where a cell would not measure all of `metrics`: nothing has begun then.
    """
    signals, lease, store, code = Signals(), Lease(workspace), Store(workspace), source.code()
    own = os.dup(2)  # where the sweep reads what its workers say; cells have logs of their own
    threading.Thread(target=beat, args=(lease,), daemon=True).start()
    try:
        if store.claimable(keys, retries):
            try:
                start()  # before a cell is claimed: whoever ends this process until then has not touched one
            except Exception:  # a signal's KeyboardInterrupt inside of C++ comes out as whatever that code raises
                if not signals.received():
                    raise
        while not signals.received() and (cell := store.claim(lease.name, keys, retries)):
            log_into(workspace, cell)
            try:
                status, cause, values = train(workspace, cell, tuple(metrics))
            except Unmeasured as error:
                store.finish(cell.key, lease.name, "waiting", str(error))
                os.dup2(own, 2)
                print(f"lmjax: {error}", file=sys.stderr, flush=True)
                return UNMEASURED
            except KeyboardInterrupt:
                status, cause, values = "waiting", BEFORE, {}
            if status == "failed" and signals.received():  # raised inside of C++ it has become another error
                status, cause = "waiting", BEFORE
            store.finish(cell.key, lease.name, status, cause, values)
            if status == "failed":
                return 0
            if status == "waiting":
                return STOPPED
            forget()
            if source.code() != code:  # the next manifest would name what this process has not loaded
                return 0
        return STOPPED if signals.received() else 0
    except KeyboardInterrupt:  # between two cells
        return STOPPED
    finally:
        store.close()
        lease.release()


def beat(lease: Lease) -> None:
    """Signs of life for sweeps on other machines, for as long as this process is there."""
    while True:
        time.sleep(BEAT)
        lease.beat()


def train(workspace: Path, cell: Cell, wanted: tuple[str, ...] = ()) -> tuple[Status, str | None, dict[str, float]]:
    """Run one cell from wherever it is: what became of it, why, and its last metrics."""
    from lmjax import run
    from lmjax.config import loads
    from lmjax.experiment import Selected

    folder = workspace / cell.folder
    try:
        selected = Selected(cell.experiment, cell.question, loads(cell.config), Path(cell.source))
        if names_own_parts(selected.config):
            wanted = ()  # which of its metrics an objective of one's own gives in evaluation alone, only running it tells
        code = run.train(selected, folder, run.Options(cell.overrides, wanted=wanted))
    except Unmeasured:
        raise
    except UserError as error:
        print(f"lmjax: {error}", file=sys.stderr, flush=True)
        return "failed", f"{MISTAKE}{error}", {}
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0][:500], {}
    facts = manifest(folder)
    if code == 0:
        return "completed", facts.get("cause"), (facts.get("result") or {}).get("metrics") or {}
    if code == STOPPED:
        return "waiting", f"stopped by {facts.get('cause')}", {}
    return "failed", facts.get("cause") or f"exit code {code}", {}


def start() -> None:
    """Set the environment and import JAX and all that trains, as `lmjax train` does: once, for all cells."""
    environment.start()
    discover.open_rooms()  # a run may name parts of its own from there
    importlib.import_module("lmjax.sharding.distributed").start()
    importlib.import_module("lmjax.run")


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
    parser.add_argument("--metrics", default="", help="names that every cell must measure, with commas")
    chosen = parser.parse_args(words)
    keys = chosen.keys.read_text().split() if chosen.keys else None
    return work(chosen.workspace, keys, chosen.retries, [name for name in chosen.metrics.split(",") if name])


if __name__ == "__main__":
    sys.exit(main())
