"""SLURM jobs: what is refused, signals inside a job, and real jobs where a SLURM controller answers (docs/slurm.md)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lmjax.errors import UserError
from lmjax.study import mounts, slurm

SAVES = """
import pathlib, signal, sys, time
def save(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write("saved ")
    time.sleep(0.3)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).write_text("up ")
time.sleep(30)
"""


def answers():
    """Whether a SLURM cluster answers here, and submitit is installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        return False
    return shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


needs_slurm = pytest.mark.skipif(not answers(), reason="no SLURM cluster with submitit here")


def await_text(path, text):
    """Return once the file begins with the text."""
    until = time.monotonic() + 20
    while not (path.exists() and path.read_text().startswith(text)) and time.monotonic() < until:
        time.sleep(0.01)  # between looks at a file that another process writes
    assert path.read_text().startswith(text)


def ended(job):
    """The exit code of a job, when it has ended."""
    until = time.monotonic() + 30
    while job.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return job.poll()


def test_settings_have_their_types_and_unknown_ones_are_named():
    assert slurm.settings(["partition=main", "time=30"]) == {"partition": "main", "time": 30}
    for text, says in {
        "partiton=main": "did you mean 'partition'",
        "time": "write time=VALUE",
        "time=soon": "time is a whole number, 1 or more",
        "cpus_per_task=0": "whole number",
    }.items():
        with pytest.raises(UserError, match=says):
            slurm.settings([text])


def test_a_machine_without_slurm_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on this machine: submit from a login node"):
        slurm.Slurm(tmp_path)


def test_slurms_warning_reaches_a_command_as_one_sigterm_and_its_exit_code_comes_back(tmp_path):
    said = tmp_path / "said"
    command = [sys.executable, "-c", SAVES, str(said)]
    code = f"from lmjax.study.slurm import carry_out; raise SystemExit(carry_out({command!r}, {{}}, '.'))"
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    await_text(said, "up")
    psutil.Process(job.pid).children()[0].send_signal(
        signal.SIGUSR2
    )  # as SLURM does to all processes of a job; the command must not die of it
    job.send_signal(signal.SIGUSR2)
    await_text(said, "up saved")
    job.send_signal(signal.SIGUSR2)
    assert job.wait(timeout=20) == 75
    assert said.read_text() == "up saved " and "nearly over" in job.stderr.read()


def test_the_file_system_of_a_folder_is_that_of_the_innermost_mount():
    lines = "/dev/a / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\ntmp /home/me/a\\040b tmpfs rw 0 0\n"
    found = [mounts.filesystem(Path(at), lines) for at in ("/homes", "/home/me", "/home/me/a b/c", "/home/me/a")]
    assert found == ["ext4", "nfs4", "tmpfs", "nfs4"]
    assert not mounts.shared(Path("/proc"))


@needs_slurm
def test_a_job_runs_with_the_environment_given_and_gives_back_its_exit_code(tmp_path):
    cluster = slurm.Slurm(tmp_path / "jobs", {"time": 5}, interval=0.5)
    command = [sys.executable, "-c", "import os; print('here', os.environ['GIVEN']); raise SystemExit(7)"]
    job = cluster.submit(command, {**os.environ, "GIVEN": "one thing"})
    assert ended(job) == 7 and "here one thing" in job.output()
    assert str(job) == f"SLURM job {job.id}"


@needs_slurm
def test_a_cancelled_job_saves_and_one_that_waits_never_starts(tmp_path):
    cluster = slurm.Slurm(tmp_path / "jobs", {"time": 5, "cpus_per_task": os.cpu_count()}, interval=0.5)
    said, never = tmp_path / "said", tmp_path / "never"
    runs = cluster.submit([sys.executable, "-c", SAVES, str(said)], os.environ)
    waits = cluster.submit([sys.executable, "-c", SAVES, str(never)], os.environ)
    await_text(said, "up")
    assert runs.poll() is None and waits.poll() is None
    waits.cancel()
    runs.cancel()
    assert ended(runs) == 75 and said.read_text() == "up saved "
    assert ended(waits) == slurm.KILLED and not never.exists()


@needs_slurm
def test_what_slurm_refuses_is_told_in_its_words(tmp_path):
    with pytest.raises(UserError, match="time=2 minutes .* nothing would be left"):
        slurm.Slurm(tmp_path, {"time": 2})
    with pytest.raises(UserError, match="SLURM refused a job: invalid partition specified: nowhere"):
        slurm.Slurm(tmp_path, {"partition": "nowhere"}).submit(["true"], {})
