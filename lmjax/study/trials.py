"""Runs that a search has under way: started, gone on with after a kill, waited for; what they measured is read from
their run directories, so a search that was killed finds all of it again. No JAX in here."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lmjax import atomic
from lmjax.errors import UserError, unknown
from lmjax.history import History

DEATHS = 10  # of processes, one after the other, before a trial that does not get on has failed
LOOK = 0.05  # seconds between looks at the processes


class Stopped(Exception):
    """A signal asked the search to end; everything is saved."""


class Handle(Protocol):
    def poll(self) -> int | None: ...
    def cancel(self) -> None: ...
    def output(self) -> str: ...


class Executor(Protocol):
    """Where commands run: `processes.Local` or `slurm.Slurm`."""

    def submit(self, command: list[str], environment: Mapping[str, str]) -> Handle: ...


class Outcome(NamedTuple):
    """The metric at the step asked for; NaN for a run that failed, and why."""

    value: float
    cause: str = ""


@dataclass
class Task:
    """A run to be trained to a step: `until`, or to its end."""

    folder: Path
    command: list[str]
    until: int | None
    process: Handle | None = None
    outcome: Outcome | None = None
    deaths: int = 0
    saved: int = 0


class Runs:
    """Begin runs and wait for them; `stop()` says whether a signal asked to end."""

    def __init__(self, executor: Executor, metric: str, stop: Any):
        self._executor, self._metric, self._stop = executor, metric, stop
        self._tasks: dict[Path, Task] = {}

    def begin(self, folder: Path, words: list[str], until: int | None = None) -> None:
        """Train `lmjax train WORDS` in `folder`, up to a step or to its end."""
        stop_at = [f"--until={until}"] if until else []
        command = [sys.executable, "-m", "lmjax", "train", *words, f"--workdir={folder}", f"--measures={self._metric}",
                   *stop_at]  # fmt: skip
        self._tasks[folder] = Task(folder, command, until)
        self._advance(self._tasks[folder])

    def wait(self, folder: Path) -> Outcome:
        """What the run in `folder` measured, when it is there; the others go on meanwhile."""
        while True:
            try:
                for task in self._tasks.values():
                    self._advance(task)
            except UserError:
                self._save_all()
                raise
            if outcome := self._tasks[folder].outcome:
                del self._tasks[folder]
                return outcome
            if self._stop():
                self._save_all()
                raise Stopped
            time.sleep(LOOK)

    def _advance(self, task: Task) -> None:
        """Look at a task and do what comes next."""
        if task.outcome is not None:
            return
        if task.process is None:
            task.outcome = measured(task.folder, task.until, self._metric)
            if task.outcome is None and not locked(task.folder) and not self._stop():
                task.process = self._executor.submit(task.command, os.environ)
            return
        code = task.process.poll()
        if code is None:
            return
        process, task.process = task.process, None
        task.outcome = measured(task.folder, task.until, self._metric)
        if task.outcome is not None or self._stop() or locked(task.folder):
            return
        saved = facts(task.folder).get("saved") or 0
        task.deaths, task.saved = (0 if saved > task.saved else task.deaths + 1), saved
        if code != 75 and code >= 0:  # neither stopped nor killed
            lines = [line for line in process.output().splitlines() if "lmjax: " in line]
            cause = lines[-1].partition("lmjax: ")[2] if lines else f"exit code {code}"
            if cause.startswith("unknown metric"):  # nor does any other trial measure it
                raise UserError(cause)
            task.outcome = Outcome(math.nan, cause)
        elif task.deaths >= DEATHS:
            task.outcome = Outcome(math.nan, f"{DEATHS} processes were killed, and none got beyond step {saved}")

    def _save_all(self) -> None:
        running = [task.process for task in self._tasks.values() if task.process]
        for process in running:
            process.cancel()
        while any(process.poll() is None for process in running):
            time.sleep(LOOK)


def measured(folder: Path, until: int | None, metric: str) -> Outcome | None:
    """What a run measured at step `until`, or at its end; None while it is not there, with its checkpoint."""
    manifest = facts(folder)
    status, cause = manifest.get("status"), str(manifest.get("cause") or "")
    if until is not None and (status == "completed" or (manifest.get("saved") or 0) >= until):
        lines = History(folder / "metrics.jsonl").read()
        values = [line[metric] for line in lines if line["step"] == until and metric in line]
        if values:
            return Outcome(float(values[-1]))
        if any(line["step"] == until for line in lines):
            _check(metric, lines)
            return Outcome(math.nan, f"there is no {metric} at step {until}")
    if status == "completed":  # to its end, or early, by its own patience
        found = manifest["result"]["metrics"]
        _check(metric, [found])
        return Outcome(float(found[metric]), cause)
    return Outcome(math.nan, cause) if status == "failed" else None


def _check(metric: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """UserError for a metric that a run never measured: no trial of this search will."""
    legal = sorted({name for line in lines for name in line if name != "step"})
    if metric not in legal:
        raise unknown("metric", metric, legal)


def facts(folder: Path) -> dict[str, Any]:
    """The manifest of a run, {} before there is one."""
    path = folder / "manifest.json"
    return atomic.loads(path.read_text()) if path.is_file() else {}


def locked(folder: Path) -> bool:
    """Whether a process trains in `folder`: one of a search that was killed, perhaps."""
    return held(folder / "lock")


def held(path: Path) -> bool:
    """Whether some process holds the lock on a file."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
    return False


def take(path: Path) -> int:
    """Lock a file until the descriptor that is returned is closed; UserError if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            f"another search runs in {path.parent} already: wait for it, or choose another --workdir"
        ) from None
    return descriptor
