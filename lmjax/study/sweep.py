"""A sweep: workers for the cells of a study until all are finished, have failed, or someone says stop. No JAX in here.

The sweep itself decides nothing: workers claim cells from the store, so it can be killed at any moment, as they can.
Its workers are told to save and stop when it is gone (on Linux; elsewhere they go on until nothing is left).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmjax.errors import UserError
from lmjax.study.live import Live
from lmjax.study.processes import Local
from lmjax.study.store import Cell, Entry, Store
from lmjax.study.trials import Executor, Handle
from lmjax.study.worker import MISTAKE, UNMEASURED

DONE, FAILED, USER_MISTAKE, STOPPED = 0, 1, 2, 75
LOOK = 0.25  # seconds between two looks at the workers
BROKEN = 5  # workers in a row that end at once, with nothing done, before the sweep gives up


class Outcome(NamedTuple):
    """How a sweep ended: its exit code and the store's entries of its cells."""

    code: int
    entries: list[Any]


def sweep(study: str, cells: Sequence[Cell], workspace: Path, *, jobs: int = 1, retries: int = 0,
          metrics: Sequence[str] = (), executor: Executor | None = None, live: Live | None = None) -> Outcome:  # fmt: skip
    """Run the cells in `workspace` with `jobs` workers at a time. Cells that are finished there are left alone.

    `executor` starts the workers: processes of this machine, each with its share of the cores, or SLURM jobs.
    UserError, before a cell trains, where it would not measure all of `metrics`; the first is shown while it goes on.

    0: all are finished; 1: some failed more than `retries` times; 2: some did, and each by a mistake of the user's;
    75: stopped by SIGINT or SIGTERM, all saved. Cells that another sweep is running are waited for.
    """
    if (Path(workspace) / "search.json").exists():
        raise UserError(f"{workspace} is the workspace of a search; choose another --workdir")
    store = Store(workspace)
    try:
        store.add(study, cells)
        keys = [cell.key for cell in cells]
        live = live or Live(workspace, metric=next(iter(metrics), ""))
        with keys_file(workspace, keys) as file, catching() as stop, live.showing(store.entries(keys)):
            executor = executor or Local(workspace / "logs", jobs)
            crew = Crew(store, keys, file, jobs, retries, executor, metrics)
            while not stop.received:
                entries = store.entries(keys)
                live.look(entries)
                if not crew.step():
                    break
                time.sleep(LOOK)
            crew.dismiss(stop)
            if crew.unmeasured:
                raise UserError(crew.unmeasured)
            if crew.broken >= BROKEN:
                raise UserError(f"{BROKEN} workers ended before they had begun a cell; the last: {crew.last_words}")
            entries = store.entries(keys)
            live.look(entries)
        if stop.received:
            return Outcome(STOPPED, entries)
        return Outcome(ended(entries), entries)
    finally:
        store.close()


def ended(entries: Sequence[Entry]) -> int:
    """The exit code of a sweep after which nothing is left to do."""
    if all(entry.status == "completed" for entry in entries):
        return DONE
    failed = [entry for entry in entries if entry.status == "failed"]
    return USER_MISTAKE if failed and all((entry.cause or "").startswith(MISTAKE) for entry in failed) else FAILED


class Crew:
    """The workers of one sweep."""

    def __init__(self, store: Store, keys: Sequence[str], file: Path, jobs: int, retries: int, executor: Executor,
                 metrics: Sequence[str] = ()):  # fmt: skip
        self.store, self.keys, self.jobs, self.retries, self.executor = store, keys, jobs, retries, executor
        self.command = [sys.executable, "-m", "lmjax.study.worker", str(store.workspace.resolve()),
                        f"--keys={file.resolve()}", f"--retries={retries}", f"--metrics={','.join(metrics)}"]  # fmt: skip
        self.workers: dict[int, tuple[Handle, int]] = {}  # slot -> the worker, and the attempts made when it began
        self.broken, self.last_words = 0, ""
        self.unmeasured = ""  # what a worker said of a metric of the study

    def step(self) -> bool:
        """Let go of workers that ended and start those that are needed; False when nothing is left to do or to await."""
        entries = self.store.entries(self.keys)
        attempts = sum(entry.attempts for entry in entries)
        for slot, (worker, before) in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[slot]
            if code == UNMEASURED:
                said = [line for line in worker.output().splitlines() if line.startswith("lmjax: ")]
                self.unmeasured = "".join(said[-1:]).removeprefix("lmjax: ") or "a metric of the study is not measured"
                return False
            self.broken = self.broken + 1 if code not in (0, STOPPED) and attempts == before else 0
            if self.broken:
                self.last_words = f"{worker}, exit code {code}: {worker.output().strip()[-1000:]}"
        claimable = self.store.claimable(self.keys, self.retries)
        if self.broken >= BROKEN:
            return False
        idle = sum(before == attempts for _, before in self.workers.values())  # those that have not begun yet
        for slot in range(self.jobs):
            if slot not in self.workers and claimable > idle:
                env = os.environ | {"PYTHONPATH": os.pathsep.join(paths())}
                self.workers[slot] = (self.executor.submit(self.command, env), attempts)
                idle += 1
        return bool(self.workers) or claimable > 0 or any(entry.status == "running" for entry in entries)

    def dismiss(self, stop: Stop) -> None:
        """Ask the workers to save and stop, and wait for them until a second signal: then they are left behind."""
        for worker, _ in self.workers.values():
            worker.cancel()
        while stop.count < 2 and any(worker.poll() is None for worker, _ in self.workers.values()):
            time.sleep(LOOK)


class Stop:
    """The signals that were received so far."""

    def __init__(self):
        self.received, self.count = "", 0

    def handle(self, number: int, frame: Any) -> None:
        self.received, self.count = signal.Signals(number).name, self.count + 1


@contextlib.contextmanager
def catching() -> Iterator[Stop]:
    """SIGTERM and SIGINT are noted inside, and not obeyed."""
    stop = Stop()
    old = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def keys_file(workspace: Path, keys: Sequence[str]) -> Iterator[Path]:
    """A file that tells the workers of this sweep which cells are theirs to take."""
    path = workspace / "workers" / f"{os.getpid()}-{secrets.token_hex(4)}.keys"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}\n" for key in keys))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def paths() -> list[str]:
    """PYTHONPATH of the workers: as here, and the folder that lmjax was imported from."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys([*filter(None, known), str(Path(__file__).resolve().parents[2])]))
