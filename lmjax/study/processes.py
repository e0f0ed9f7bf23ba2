"""Commands as processes of this machine: what a search runs its trials with where there is no cluster. No JAX in here."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2), Linux


class Local:
    """Runs commands, each with its share of the cores: `local.submit(command, environment)` gives a `Process`.

    jobs: how many run at a time at most; what they print goes to files in `folder`.
    """

    def __init__(self, folder: Path, jobs: int):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._folder, self._shares = Path(folder), [cores[n::jobs] or cores for n in range(jobs)]
        self._running: dict[int, Process] = {}
        self._number = 0

    def submit(self, command: list[str], environment: Mapping[str, str]) -> Process:
        """Start the command. It gets a SIGTERM when this process ends, however (on Linux)."""
        self._running = {lane: one for lane, one in self._running.items() if one.poll() is None}
        lane = next((lane for lane in range(len(self._shares)) if lane not in self._running), 0)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        log = self._folder / f"{os.getpid()}-{self._number}.txt"
        with open(log, "wb") as file:
            popen = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=_prepare(self._shares[lane], os.getpid()),
            )  # fmt: skip
        self._running[lane] = Process(popen, log)
        return self._running[lane]


class Process:
    """A command that was started: `poll()` is None until it has ended, then its exit code."""

    def __init__(self, popen: subprocess.Popen, log: Path):
        self._popen, self._log, self._told = popen, log, False

    def poll(self) -> int | None:
        return self._popen.poll()

    def cancel(self) -> None:
        """Ask it to save and to end; once, for a second SIGTERM would not let it save."""
        if not self._told and self.poll() is None:
            self._told = True
            self._popen.terminate()

    def output(self) -> str:
        """What it has printed until now."""
        return self._log.read_text(errors="replace")

    def __str__(self) -> str:
        return f"process {self._popen.pid}"


def _prepare(cores: list[int], parent: int) -> Callable[[], None]:
    """What the new process does before the command: keep to its cores, and end with its parent."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(75)  # the parent ended before this could be asked for
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare
