"""Runs contenders, each in a process of its own, turn by turn on the same cores.

Neighbours, clocks and caches make one run on a small machine 20 % faster or slower than the next; a ratio between two
contenders that took turns within seconds of each other moves far less. So every contender is started once, warmed up,
and then all of them work in short turns, round after round, while the others sleep on stdin.
The worker's half of the conversation is peers/protocol.py; what becomes of the numbers is standings.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from standings import report

PEERS = Path(__file__).resolve().parent / "peers"


class Contender(NamedTuple):
    """environment: the name that --python gives an interpreter to; orders: what this contender adds to the job."""

    environment: str
    script: str
    orders: dict = {}


CONTENDERS = {
    "torch-eager": Contender("torch", "torch_worker.py"),
    "torch-compile": Contender("torch", "torch_worker.py", {"compile": True}),
    "hugging-face": Contender("torch", "hugging_face_worker.py"),
    "keras-hub": Contender("keras-hub", "keras_hub_worker.py"),
    "levanter": Contender("levanter", "levanter_worker.py"),
    "lmjax": Contender("lmjax", "lmjax_worker.py"),
}

# The GPT-2 block model and the optimizer that all contenders build. Norms and biases are spared weight decay.
MODEL = {"length": 256, "depth": 6, "width": 384, "heads": 6, "mlp": 1536}
ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.1, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "clip": 1.0}


class Worker(NamedTuple):
    """A running contender; `first` is its first answer, "first_seconds" from the process's start included."""

    process: subprocess.Popen
    errors: Path
    first: dict


class WorkerFailed(RuntimeError):
    """A contender that could not start, died or fell silent; the message ends with the tail of its stderr."""


def arguments(description: str, names: list[str], *, count: int) -> argparse.ArgumentParser:
    """The options that every contest has; `count` is the default number of units in a turn."""
    parser = argparse.ArgumentParser(description=description)
    environments = ", ".join(sorted({CONTENDERS[name].environment for name in names}))
    add = parser.add_argument
    add("--contenders", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    add("--python", action="append", default=[], metavar="NAME=PATH",
        help=f"interpreter of an environment ({environments}); default: the one that runs this")  # fmt: skip
    add("--rounds", type=int, default=7, help="timed turns of each contender (default: %(default)s)")
    add("--count", type=int, default=count, help="train steps or generations in a turn (default: %(default)s)")
    add("--warmup", type=int, default=2, help="untimed turns before the first round (default: %(default)s)")
    add("--cores", type=int, default=2, help="cores that everybody shares (default: %(default)s)")
    add("--warm-start", action=argparse.BooleanOptionalAction, default=True,
        help="start everybody again afterwards, to time the first result with warm compilation caches")  # fmt: skip
    add("--timeout", type=float, default=900, help="seconds of silence after which a contender is out")
    add("--json", type=Path, help="write every measurement to this file")
    return parser


def interpreters(options: argparse.Namespace) -> dict[str, str]:
    """{"torch": "/path/to/python", ...}; an environment that --python does not name uses this interpreter."""
    legal = sorted({contender.environment for contender in CONTENDERS.values()})
    chosen = dict.fromkeys(legal, sys.executable)
    for pair in options.python:
        name, _, path = pair.partition("=")
        if name not in legal or not os.access(path, os.X_OK):
            sys.exit(f"--python {pair}: expected NAME=PATH, NAME one of {', '.join(legal)} and PATH an interpreter")
        chosen[name] = path
    return chosen


def start(name: str, job: dict, options: argparse.Namespace, folder: Path) -> Worker:
    """Starts a contender and waits for its first result. Compilation caches are its own and lie in `folder`."""
    contender, errors, caches = CONTENDERS[name], folder / f"{name}.stderr", str(folder / name)
    python, orders = options.pythons[contender.environment], json.dumps(job | contender.orders)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": caches, "TORCHINDUCTOR_CACHE_DIR": caches}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with errors.open("w") as stderr:
        began = time.perf_counter()
        script = str(PEERS / contender.script)
        worker = Worker(subprocess.Popen([python, script, orders], stderr=stderr, env=environment, **pipes), errors, {})
    first = answer(worker, options.timeout)
    return worker._replace(first=first | {"first_seconds": time.perf_counter() - began})


def ask(worker: Worker, request: str, timeout: float) -> dict:
    """The worker's answer to one line."""
    try:
        print(request, file=worker.process.stdin, flush=True)
    except BrokenPipeError:
        pass  # it died; answer() says how
    return answer(worker, timeout)


def answer(worker: Worker, timeout: float) -> dict:
    """The worker's next line. It says one line for each that it reads, so nothing waits in the pipe's buffer."""
    readable, _, _ = select.select([worker.process.stdout], [], [], timeout)
    line = worker.process.stdout.readline() if readable else ""
    if not line:
        stop(worker)
        cause = "died" if readable else f"said nothing for {timeout:.0f} s"
        raise WorkerFailed(f"{cause}:\n" + "\n".join(worker.errors.read_text(errors="replace").splitlines()[-12:]))
    return json.loads(line)


def stop(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    worker.process.stdin.close()
    worker.process.stdout.close()


def race(job: dict, options: argparse.Namespace, console: Console) -> dict:
    """One contest: {"job": ..., "contenders": {name: see `measured`}, "failed": {name: reason}}."""
    workers, failed, found = {}, {}, {}

    def attempt(name: str, action: Callable[..., dict | Worker], *arguments: Any) -> dict | Worker | None:
        """What `action(*arguments)` gives; a contender that fails is out, and the others go on."""
        try:
            return action(*arguments)
        except WorkerFailed as problem:
            failed[name] = str(problem)
            workers.pop(name, None)
            console.print(f"[red]{name} failed[/]: {escape(str(problem))}", highlight=False)

    waiting = console.status("starting", refresh_per_second=1)
    with tempfile.TemporaryDirectory(prefix="contest-") as text, waiting as status:
        folder = Path(text)
        try:
            for name in options.contenders:
                status.update(f"{name}: first result")
                if worker := attempt(name, start, name, job, options, folder):
                    workers[name] = worker
                    console.print(f"  {name}: first result after {worker.first['first_seconds']:.1f} s")
            turns, checks = take_turns(workers, attempt, options, status)
        finally:
            for worker in workers.values():
                stop(worker)
        for name, worker in list(workers.items()):
            found[name] = measured(job, options, worker.first, turns[name], checks[name])
            if options.warm_start:
                status.update(f"{name}: first result with warm caches")
                if again := attempt(name, start, name, job, options, folder):
                    found[name]["first_seconds_warm"] = again.first["first_seconds"]
                    stop(again)
    return {"job": job, "contenders": found, "failed": failed}


def take_turns(workers: dict, attempt: Callable, options: argparse.Namespace, status) -> tuple[dict, dict]:
    """({name: one answer a round}, {name: the answer to check}); who begins a round rotates."""
    go = f"go {options.count}"
    turns, checks = {name: [] for name in workers}, {}
    for name, worker in list(workers.items()):
        status.update(f"{name}: warm-up")
        for request in ["check", *[go] * options.warmup]:
            if name in workers and (result := attempt(name, ask, worker, request, options.timeout)):
                checks.setdefault(name, result)
    for number in range(options.rounds):
        names = list(workers)
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            status.update(f"round {number + 1} of {options.rounds}: {name}")
            busy = busy_seconds()
            if result := attempt(name, ask, workers[name], go, options.timeout):
                turns[name].append(result | {"busy": busy_seconds() - busy})
    return turns, checks


def measured(job: dict, options: argparse.Namespace, first: dict, turns: list[dict], check: dict) -> dict:
    """tokens_per_second, cpu_seconds, others: one a round; others: the share of the cores that strangers used then."""
    tokens = options.count * job["batch"] * (job["length"] if job["kind"] == "train" else job["new"])
    return check | {
        "tokens_per_second": [tokens / turn["seconds"] for turn in turns],
        "others": [max(0.0, turn["busy"] - turn["cpu"]) / turn["seconds"] / options.cores for turn in turns],
        "cpu_seconds": [turn["cpu"] for turn in turns],
        "losses": [turn["loss"] for turn in [first, *turns] if "loss" in turn],
        "first_seconds": first["first_seconds"],
        "first_seconds_warm": None,
        "peak_mib": turns[-1]["peak_mib"],
        "parameters": first["parameters"],
        "versions": first["versions"],
    }


def busy_seconds() -> float:
    """CPU seconds that all processes have used on the cores we may run on."""
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = [[int(field) for field in fields[:7]] for name, *fields in lines if name in ours]
    return sum(sum(core) - core[3] - core[4] for core in ticks) / os.sysconf("SC_CLK_TCK")  # less idle and iowait


def run_all(options: argparse.Namespace, contests: list[tuple[str, dict]]) -> int:
    """Runs (title, job) one after the other, prints each, writes the file; 1 if a contender failed or is not alike."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # the workers inherit it
    options.pythons = interpreters(options)
    settings = {"rounds": options.rounds, "count": options.count, "warmup": options.warmup, "cores": options.cores}
    console, results, fine = Console(width=None if sys.stdout.isatty() else 120), {}, True
    for title, job in contests:
        console.rule(title, align="left")
        results[title] = race(job, options, console)
        fine &= report(results[title], console) and not results[title]["failed"]
        if options.json:
            found = {"cpu": cpu_name(), "kernel": platform.release(), "settings": settings, "contests": results}
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if fine else 1


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
