"""Asynchronous successive halving on a clock of its own, so that the same results always give the same search. No JAX.

Li et al. 2020, arXiv:1810.05934, algorithm 2: whoever is free promotes a trial that is among the best 1/factor at its
rung, or else begins a new trial. Who is free when is decided by steps, not seconds: a trial that trains for k steps
ends k ticks after it began. What is known when a trial is chosen is then the same on a slow and on a busy machine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple


class Job(NamedTuple):
    """Train a trial up to a rung, from the rung below."""

    trial: int
    rung: int


class Course(NamedTuple):
    """How the search goes: rungs are steps in ascending order, the last is the whole run; jobs run at a time."""

    trials: int
    rungs: tuple[int, ...]
    factor: int
    jobs: int


Results = list[dict[int, float]]  # by rung: trial -> value, lower is better, inf for one that failed


def rungs(steps: int, factor: int, every: int) -> tuple[int, ...]:
    """steps, and steps divided by factor again and again, each a multiple of `every`, where there is an evaluation."""
    found, budget = [steps], steps / factor
    while budget >= every:
        found.append(round(budget / every) * every)
        budget /= factor
    return tuple(sorted(rung for rung in set(found) if rung <= steps))


def run(course: Course, begin: Callable[[Job, Results, list[Job]], None], wait: Callable[[Job], float]) -> Results:
    """Carry the search out: `begin` starts a job, told what is known and what runs; `wait` gives its value."""
    known: Results = [{} for _ in course.rungs]
    promoted: set[Job] = set()
    running: list[
        tuple[int, int, Job]
    ] = []  # when it ends, in ticks; the number of the job, so that ties have an order
    clock = begun = trials = 0
    while True:
        while len(running) < course.jobs:
            job = _promotion(course, known, promoted)
            if job is None and trials < course.trials:
                job = Job(trials, 0)
            if job is None and not running and not any(map(math.isfinite, known[-1].values())):
                job = _best_so_far(known, promoted)  # too few trials for one to get to the end: the best goes on
            if job is None:
                break
            promoted.add(job)
            trials += job.rung == 0
            begin(job, known, [other for _, _, other in running])
            below = course.rungs[job.rung - 1] if job.rung else 0
            heapq.heappush(running, (clock + course.rungs[job.rung] - below, begun, job))
            begun += 1
        if not running:
            return known
        clock, _, job = heapq.heappop(running)
        value = wait(job)
        known[job.rung][job.trial] = value if math.isfinite(value) else math.inf


def ranked(values: dict[int, float]) -> list[int]:
    """The trials from the best to the worst, of equal ones the earlier first."""
    return sorted(values, key=lambda trial: (values[trial], trial))


def _promotion(course: Course, known: Results, promoted: set[Job]) -> Job | None:
    """The best trial that may go one rung up, from the highest rung that has one."""
    for rung in reversed(range(len(course.rungs) - 1)):
        for trial in ranked(known[rung])[: len(known[rung]) // course.factor]:
            if math.isfinite(known[rung][trial]) and Job(trial, rung + 1) not in promoted:
                return Job(trial, rung + 1)
    return None


def _best_so_far(known: Results, promoted: set[Job]) -> Job | None:
    for rung in reversed(range(len(known) - 1)):
        for trial in ranked(known[rung]):
            if math.isfinite(known[rung][trial]) and Job(trial, rung + 1) not in promoted:
                return Job(trial, rung + 1)
    return None
