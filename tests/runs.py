"""Small real runs through the command line, in this process or in another, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lmjax.__main__ import main

WORDS = "the of and to in that is was he for it with as his on be at by had not are but from or have an they".split()
SMALL = {
    "steps": 12, "batch": 4, "data.length": 32, "data.valid_fraction": 0.2, "model.depth": 2, "model.width": 32,
    "model.heads": 2, "every.log": 1, "every.eval": 4, "every.save": 3, "eval.sample_length": 0,
    "optim.schedule.warmup": 2,
}  # fmt: skip
ROOT = Path(__file__).parents[1]


def write_text(folder: Path) -> Path:
    """A folder of 40 short documents: a bit over one epoch is 12 steps of 4 x 32 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "text.jsonl", "w") as file:
        for i in range(40):
            words = [WORDS[(7 * i + 3 * j + j * j) % len(WORDS)] for j in range(8 + i % 5)]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return folder


def arguments(text: Path, workdir: Path, changes: dict | None = None, *flags: str) -> list[str]:
    """`train configs/lm.py:tiny` made small, on `text`, into `workdir`."""
    values = {**SMALL, "data.source": text, **(changes or {})}
    overrides = [f"--config.{path}={value}" for path, value in values.items()]
    return ["train", "configs/lm.py:tiny", f"--workdir={workdir}", *overrides, *flags]


def train(text: Path, workdir: Path, changes: dict | None = None, *flags: str) -> int:
    """Train in this process; the exit code."""
    return main(arguments(text, workdir, changes, *flags))


def fake(devices: int) -> str:
    """XLA_FLAGS: those of the tests, and that many devices that share the processor."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


def start(words: list[str], *, devices: int = 1, **env: str) -> subprocess.Popen:
    """The command line in another process, with `devices` fake devices."""
    flags = {"XLA_FLAGS": fake(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "lmjax", *words], cwd=ROOT, env={**os.environ, **flags, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process, when it has ended."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_line(workdir: Path, number: int, process: subprocess.Popen) -> None:
    """Return once metrics.jsonl has that many lines, or the process has ended."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= number):
        time.sleep(0.002)  # between looks at a file that another process writes


def history(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines]


def losses(workdir: Path) -> list[float]:
    """train/loss of every step."""
    return [line["train/loss"] for line in history(workdir) if "train/loss" in line]


def manifest(workdir: Path) -> dict:
    return json.loads((workdir / "manifest.json").read_text())


def parameters(workdir: Path) -> str:
    """The hash of the final parameters."""
    return manifest(workdir)["result"]["params_sha256"]


def events(workdir: Path) -> object:
    """What TensorBoard reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(workdir)).Reload()
