"""Commands as SLURM jobs through submitit: what `lmjax sweep` runs its cells with on a cluster. No JAX in here.

A job runs one command in the environment of the one who submits it; the folder of the study is on a file system that
both see. A job that reaches its time limit is told before: the command gets a SIGTERM, saves and exits with 75, and
who waits for it can submit it again. Of SLURM it takes sbatch, squeue, scancel and srun; no accounting.
"""

from __future__ import annotations

import getpass
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmjax.errors import UserError, unknown

KILLED = -signal.SIGKILL  # what a job that left the queue without a word has returned, as a local process would
TEXT = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "gres", "mem", "job_name", "setup")
WHOLE = ("time", "cpus_per_task", "gpus_per_node", "signal_delay_s")  # minutes, cores, GPUs, seconds
MINUTE = 60  # by which SLURM may warn early (sbatch --signal)
DEFAULTS = {"time": 60, "cpus_per_task": 1, "signal_delay_s": 120, "job_name": "lmjax"}


class Slurm:
    """Submits commands: `slurm.submit(command, environment)` gives a `Job`, which is polled like a process.

    folder is for submitit's files and the jobs' output, settings are of `settings`; the queue is looked at every
    `interval` seconds at most, however many jobs there are.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None, interval: float = 10.0):
        if missing := [name for name in ("sbatch", "squeue", "scancel", "srun") if not shutil.which(name)]:
            raise UserError(f"there is no {missing[0]} on this machine: submit from a login node of a SLURM cluster")
        try:
            import submitit
        except ImportError:
            raise UserError("SLURM jobs need submitit: pip install 'lmjax[slurm]'") from None
        chosen: dict[str, Any] = {**DEFAULTS, **(settings or {})}
        if chosen["time"] * 60 < chosen["signal_delay_s"] + 2 * MINUTE:
            raise UserError(
                f"SLURM jobs of time={chosen['time']} minutes would save signal_delay_s={chosen['signal_delay_s']} seconds "
                "before their end, and SLURM may say so a minute early: nothing would be left to train in"
            )
        if "setup" in chosen:
            chosen["setup"] = [chosen["setup"]]
        self._executor = submitit.SlurmExecutor(folder=Path(folder).absolute() / "%j")
        self._executor.update_parameters(**chosen)
        self._failure = submitit.core.utils.FailedJobError
        self.queue = Queue(interval)

    def submit(self, command: list[str], environment: Mapping[str, str]) -> Job:
        """A job that runs the command; UserError with SLURM's own words where it refuses it (no such partition)."""
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of submitit: that no accounting answers
                return Job(self._executor.submit(carry_out, command, changed, os.getcwd()), self.queue)
        except self._failure as error:
            said = [line.rpartition("error: ")[2].strip() for line in str(error).splitlines() if "error" in line]
            raise UserError(f"SLURM refused a job: {'; '.join(dict.fromkeys(said)) or error}") from None


class Job:
    """A submitted command: `poll()` is None until it has ended, then its exit code."""

    def __init__(self, job: Any, queue: Queue):
        self.id, self._job, self._queue = str(job.job_id), job, queue
        self._code: int | None = None
        self._since, self._missed = time.monotonic(), 0.0

    def poll(self) -> int | None:
        """The exit code of the command; KILLED where the job is gone and nothing says how it ended."""
        if self._code is None and (code := self._result()) is not None:
            self._code = code
        if self._code is None and not self._queue.holds(self.id, self._since):
            self._missed = self._missed or time.monotonic()  # its last file may still be on its way through NFS
            if time.monotonic() - self._missed > self._queue.interval:
                self._code = KILLED
        return self._code

    def cancel(self) -> None:
        """A job that waits is taken from the queue; one that runs gets a SIGTERM, with all the time it needs to save."""
        for words in (["--state=PENDING"], ["--state=RUNNING", "--signal=TERM"]):
            subprocess.run(["scancel", *words, self.id], check=False, capture_output=True)

    def output(self) -> str:
        """What the command has written until now, standard error last."""
        paths = self._job.paths
        return "".join(path.read_text(errors="replace") for path in (paths.stdout, paths.stderr) if path.exists())

    def __str__(self) -> str:
        return f"SLURM job {self.id}"

    def _result(self) -> int | None:
        try:
            outcome, value = pickle.loads(self._job.paths.result_pickle.read_bytes())
        except (FileNotFoundError, EOFError, pickle.UnpicklingError):
            return None
        return value if outcome == "success" else 1


class Queue:
    """The ids of the user's jobs that wait or run, as squeue told them at most `interval` seconds ago."""

    def __init__(self, interval: float):
        self.interval = interval
        self._ids: set[str] = set()
        self._asked = self._tried = float("-inf")

    def holds(self, job: str, since: float) -> bool:
        """Whether a job submitted at that time (of the monotonic clock) is there; yes, while squeue does not answer."""
        if time.monotonic() - self._tried >= self.interval:
            self._ask()
        return job in self._ids or since >= self._asked

    def _ask(self) -> None:
        began = self._tried = time.monotonic()
        command = ["squeue", "--noheader", "--format=%A", f"--user={getpass.getuser()}"]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode == 0:  # else the controller is away, and its jobs are not
            self._ids, self._asked = set(answer.stdout.split()), began


def settings(texts: Iterable[str]) -> dict[str, object]:
    """["partition=main", "time=30"] as settings of `Slurm`; UserError names what is legal."""
    chosen: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in (*TEXT, *WHOLE):
            raise unknown("SLURM setting", name, (*TEXT, *WHOLE))
        if not equals or not value:
            raise UserError(f"SLURM setting {text!r} has no value: write {name}=VALUE")
        if name in WHOLE and not (value.isdecimal() and int(value) > 0):
            raise UserError(f"SLURM setting {text!r}: {name} is a whole number, 1 or more")
        chosen[name] = int(value) if name in WHOLE else value
    return chosen


def carry_out(command: list[str], environment: Mapping[str, str], folder: str) -> int:
    """Inside a job: run the command, and give it a SIGTERM when SLURM says that the time is nearly over.

    SLURM sends every signal to all processes of a job. So the command has SIGUSR2, the warning, ignored, and gets no
    SIGTERM of ours when SLURM has sent one: a second would stop it before it has saved.
    """
    warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    signal.signal(warning, signal.SIG_IGN)  # what a process ignores, its children ignore
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, start_new_session=True)
    told: list[int] = []

    def tell(number: int, frame: Any) -> None:
        if not told and process.poll() is None:
            told.append(number)
            print(f"lmjax: the job's time is nearly over: saving ({signal.Signals(number).name})", file=sys.stderr)
            process.terminate()

    signal.signal(warning, tell)
    return process.wait()
