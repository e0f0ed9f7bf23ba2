"""The worker's half of the benchmarks: what it is asked to do, on which tokens, and how it answers.

The parent (contest.py) starts `python some_worker.py '{"kind": "train", ...}'`. The worker builds its model, does one
unit of work (a train step, a generation), and from then on answers each line on stdin with one line of JSON:
    go N     N units of work, blocking until the last result is ready -> {"seconds": ..., "cpu": ..., ...}
    check    an untimed check of the results, where the worker has one -> {...}
This file needs NumPy alone, so that it runs in every contender's environment.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

START = 0  # the first token of every prompt: some generators want a start of document there

# Libraries print to stdout whatever they like: the answers get a descriptor of their own, the rest goes to stderr.
_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def job() -> dict:
    """The parent's orders: `kind` ("train" or "generate"), the model's sizes, the optimizer, `batch`, `seed`."""
    return json.loads(sys.argv[1])


def train_batches(job: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (tokens_bt, targets_bt) int32 batches that a run goes through again and again.

    Random tokens hold nothing to learn, but a few fixed batches can be learnt by heart: the loss of a contender
    whose optimizer works falls below ln(vocabulary), and falls alike for all of them.
    """
    random = np.random.default_rng(job["seed"])
    stream_bt = random.integers(0, job["vocab"], (job["batches"], job["batch"], job["length"] + 1), dtype=np.int32)
    return [(row[:, :-1].copy(), row[:, 1:].copy()) for row in stream_bt]


def prompts(job: dict) -> np.ndarray:
    """Random prompt ids after START, int32 (batch, prompt)."""
    random = np.random.default_rng(job["seed"])
    prompts_bt = random.integers(1, job["vocab"], (job["batch"], job["prompt"]), dtype=np.int32)
    prompts_bt[:, 0] = START
    return prompts_bt


def greedy_share(job: dict, tokens_bt: np.ndarray, forward: Callable) -> dict:
    """The share of the new tokens that one uncached forward pass would have chosen as well: 1 but for rounding ties.

    tokens_bt: prompt and continuation; forward(tokens_bt) -> logits_btv, one row of the batch at a time.
    """
    expected = (job["batch"], job["prompt"] + job["new"])
    assert tokens_bt.shape == expected, f"generated {tokens_bt.shape}, expected {expected}"
    assert (tokens_bt[:, : job["prompt"]] == prompts(job)).all(), "the prompt was changed"
    best_bt = np.concatenate([np.asarray(forward(row_t[None])).argmax(-1) for row_t in tokens_bt])
    return {"greedy": float((best_bt[:, job["prompt"] - 1 : -1] == tokens_bt[:, job["prompt"] :]).mean())}


def serve(work: Callable[[int], dict], *, parameters: int, packages: list[str], check: Callable[[], dict] = dict):
    """Does the first unit of work, says so, then answers until stdin closes.

    work(n) does n units, blocks until they are finished and returns what it wants reported (e.g. {"loss": mean}).
    """
    first = work(1)
    versions = {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages}
    answer(first | {"parameters": parameters, "versions": versions})
    for line in sys.stdin:
        command, *count = line.split()
        if command == "check":
            answer(check())
            continue
        assert command == "go", f"unknown command {line!r}"
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(int(count[0]))
        answer({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu} | result)


def answer(result: dict) -> None:
    """Writes one line of JSON, with the process's peak resident memory so far in MiB."""
    print(json.dumps(result | {"peak_mib": peak_mib()}), file=_answers, flush=True)


def peak_mib() -> float:
    """VmHWM: the most memory this process ever had resident, in MiB; child processes do not count."""
    with open("/proc/self/status") as status:
        kib = next(line for line in status if line.startswith("VmHWM")).split()[1]
    return int(kib) / 1024
