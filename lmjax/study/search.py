"""Search for the best point of a space: trials are ordinary runs, and the winner is run again with fresh seeds.

The number by which a trial won is the best of many and so too good; what the winner is worth is what its fresh seeds
measure, beside those of the config that the search began with. Nothing is stored but the run directories and the
settings: a search that was killed asks its sampler again and finds in them what it knew. No JAX in here.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from lmjax import atomic
from lmjax.config import config_hash, override, update
from lmjax.errors import UserError, unknown
from lmjax.experiment import Selected
from lmjax.study import halving, trials
from lmjax.study.halving import Course, Job
from lmjax.study.samplers import SAMPLERS, Point, Seen
from lmjax.study.spaces import Draws
from lmjax.study.trials import Executor, Outcome, Runs

STOPPED, FAILED = 75, 1
REPEATS = 1000  # draws of a point that was tried already, before a search gives up finding a new one


class Settings(NamedTuple):
    """What decides how a search goes. factor: of halving, None trains every trial to its end; fresh: seeds after it."""

    trials: int = 20
    sampler: str = "tpe"
    seed: int = 0
    metric: str = ""  # "": the config's eval.metric and eval.mode
    mode: str = ""
    factor: int | None = None
    jobs: int = 1
    fresh: int = 3


class Found(NamedTuple):
    """How a search went: the points by trial, their values by rung (as measured), why some failed, and the winner."""

    points: dict[int, Point]
    rungs: tuple[int, ...]
    values: list[dict[int, float]]
    causes: dict[int, str]
    winner: int | None


def search(
    selected: Selected,
    space: Mapping[str, Draws],
    settings: Settings,
    workspace: Path,
    executor: Executor,
    overrides: Iterable[str] = (),
    say: Callable[[str], None] = print,
) -> int:
    """Carry a search out in `workspace`, from the start or from where it stopped; the exit code."""
    from lmjax.study import search_report

    config = override(selected.config, overrides)
    settings = complete(settings, config, space)
    course = Course(settings.trials, rungs_of(settings, config), settings.factor or 2, settings.jobs)
    lock = trials.take(Path(workspace) / "search.lock")
    try:
        record(workspace, selected, settings, course, space, overrides)
        with signals() as stopped:
            runs = Runs(executor, settings.metric, stopped)
            found = find_winner(selected, config, space, settings, course, Path(workspace), runs, list(overrides), say)
            if found.winner is None:
                search_report.write(workspace, selected, settings, found, {}, [])
                say(f"no trial got to its end: {next(iter(found.causes.values()), 'none measured ' + settings.metric)}")
                return FAILED
            fresh = run_again(selected, config, found.points[found.winner], settings, Path(workspace), runs,
                              list(overrides), say)  # fmt: skip
        say(search_report.write(workspace, selected, settings, found, fresh, list(overrides)))
        return 0
    except trials.Stopped:
        say("stopped, everything saved; the same command goes on from there")
        return STOPPED
    finally:
        os.close(lock)


def find_winner(selected: Selected, config: ConfigDict, space: Mapping[str, Draws], settings: Settings, course: Course,
                workspace: Path, runs: Runs, overrides: list[str], say: Callable[[str], None]) -> Found:  # fmt: skip
    """Run the trials as the samplers ask for them and as halving promotes them."""
    sign = 1 if settings.mode == "min" else -1
    points: dict[int, Point] = {}
    causes: dict[int, str] = {}

    def until(job: Job) -> int | None:
        return None if course.rungs[job.rung] == course.rungs[-1] else course.rungs[job.rung]

    def begin(job: Job, known: halving.Results, running: list[Job]) -> None:
        if job.rung == 0:
            points[job.trial] = new_point(space, settings, job.trial, points, seen(course, points, known))
        words = command(selected, [*overrides, *texts(points[job.trial])])
        runs.begin(workspace / "trials" / f"trial{job.trial}", words, until(job))

    def wait(job: Job) -> float:
        outcome: Outcome = runs.wait(workspace / "trials" / f"trial{job.trial}")
        step = course.rungs[job.rung]
        if math.isfinite(outcome.value):
            say(f"trial {job.trial}, step {step}: {settings.metric} {outcome.value:.5g}   {shown(points[job.trial])}")
        else:
            causes[job.trial] = outcome.cause or f"{settings.metric} is {outcome.value}"
            say(f"trial {job.trial} failed: {causes[job.trial]}   {shown(points[job.trial])}")
        return sign * outcome.value

    say(f"{selected.name}: {course.trials} trials of {', '.join(space)}, {settings.sampler}, "
        f"{settings.mode} {settings.metric} at step {' -> '.join(map(str, course.rungs))}")  # fmt: skip
    known = halving.run(course, begin, wait)
    best = halving.ranked({trial: value for trial, value in known[-1].items() if math.isfinite(value)})
    values = [{trial: sign * value for trial, value in sorted(rung.items())} for rung in known]
    return Found(points, course.rungs, values, causes, best[0] if best else None)


def run_again(selected: Selected, config: ConfigDict, point: Point, settings: Settings, workspace: Path, runs: Runs,
              overrides: list[str], say: Callable[[str], None]) -> dict[str, list[Path]]:  # fmt: skip
    """The folders of the winner's and of the base's runs, by name, with the seeds that the search has not seen."""
    points = {"base": {}, "winner": point}
    if config_hash(update(config, point)) == config_hash(config):
        points = {"base": {}}  # the search found what it began with
    seeds = [seed for seed in range(settings.fresh + 1) if seed != config.seed][: settings.fresh]
    waiting = [(name, seed) for seed in seeds for name in points]
    say(
        f"the winner and the base once more, with the seeds {', '.join(map(str, seeds))}" if seeds else "no fresh seeds"
    )
    under_way: list[tuple[str, int]] = []
    while waiting or under_way:
        while waiting and len(under_way) < settings.jobs:
            name, seed = waiting.pop(0)
            words = command(selected, [*overrides, *texts(points[name]), f"seed={seed}"])
            runs.begin(workspace / name / f"seed{seed}", words)
            under_way.append((name, seed))
        name, seed = under_way.pop(0)
        outcome = runs.wait(workspace / name / f"seed{seed}")
        if not math.isfinite(outcome.value):
            raise UserError(f"{workspace / name / f'seed{seed}'} failed: {outcome.cause or settings.metric}")
        say(f"{name}, seed {seed}: {settings.metric} {outcome.value:.5g}")
    return {name: [workspace / name / f"seed{seed}" for seed in seeds] for name in points}


def new_point(space: Mapping[str, Draws], settings: Settings, trial: int, points: Mapping[int, Point],
              known: list[Seen]) -> Point:  # fmt: skip
    """What the sampler asks for, and not what an earlier trial tried."""
    tried = {repr(point) for point in points.values()}
    for attempt in range(REPEATS):
        ask = SAMPLERS["random" if attempt > 20 else settings.sampler]
        point = ask(space, settings.seed, trial + attempt * settings.trials, known)
        if repr(point) not in tried:
            return point
    raise UserError(f"the space of {', '.join(space)} has about {len(tried)} different points: --trials={len(tried)}")


def seen(course: Course, points: Mapping[int, Point], known: halving.Results) -> list[Seen]:
    """What the sampler may know of the trials so far, each by the highest rung that it has reached."""
    found = []
    for trial, point in sorted(points.items()):
        reached = [rung for rung, values in enumerate(known) if trial in values]
        value = known[reached[-1]][trial] if reached else None
        step = course.rungs[reached[-1]] if reached else 0
        found.append(Seen(point, step, value, bool(reached) and reached[-1] == len(course.rungs) - 1))
    return found


def complete(settings: Settings, config: ConfigDict, space: Mapping[str, Draws]) -> Settings:
    """The settings with the config's metric and mode; UserError for any that cannot be, and for a space that cannot."""
    if settings.sampler not in SAMPLERS:
        raise unknown("sampler", settings.sampler, SAMPLERS)
    for name in ("trials", "jobs"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name}={getattr(settings, name)}: at least 1")
    if settings.factor is not None and settings.factor < 2:
        raise UserError(f"--halving={settings.factor}: the best 1/N go on, with N of 2 or more")
    mode = settings.mode or (config.eval.mode if settings.metric in ("", config.eval.metric) else "min")
    if mode not in ("min", "max"):
        raise unknown("mode", mode, ("min", "max"))
    for path, draws in space.items():
        ends = draws.values if draws.kind == "choice" else (draws.low, draws.high)
        for value in ends:
            if config_hash(override(config, texts({path: value}))) != config_hash(update(config, {path: value})):
                raise UserError(f"{path}={value!r} cannot be written as --config.{path}=VALUE, which a search does")
    if "seed" in space:
        raise UserError("the space sets seed: a search keeps its seed, and takes fresh ones for the winner")
    sizes = [len(d.values) if d.kind == "choice" else d.high - d.low + 1 for d in space.values()
             if d.kind in ("choice", "integers", "log_integers")]  # fmt: skip
    if len(sizes) == len(space) and math.prod(sizes) < settings.trials:
        raise UserError(f"the space has {math.prod(sizes):.0f} points, fewer than --trials={settings.trials}")
    return settings._replace(metric=settings.metric or config.eval.metric, mode=mode)


def rungs_of(settings: Settings, config: ConfigDict) -> tuple[int, ...]:
    """The steps at which halving decides; of a search without it the last alone."""
    if settings.factor is None:
        return (config.steps,)
    every = config.every.eval or config.steps
    found = halving.rungs(config.steps, settings.factor, every)
    if len(found) < 2:
        raise UserError(
            f"--halving={settings.factor}: there is no evaluation by step {config.steps // settings.factor} of "
            f"{config.steps}; evaluate more often: --config.every.eval={max(config.steps // settings.factor**2, 1)}"
        )
    return found


def record(workspace: Path, selected: Selected, settings: Settings, course: Course, space: Mapping[str, Draws],
           overrides: Iterable[str]) -> None:  # fmt: skip
    """Write search.json, or compare with what is there: a search goes on as it was begun."""
    facts = {"experiment": selected.name, **settings._asdict(), "rungs": list(course.rungs),
             "overrides": list(overrides), "config": config_hash(override(selected.config, overrides)),
             "space": {path: repr(draws) for path, draws in space.items()}}  # fmt: skip
    path = Path(workspace) / "search.json"
    if not path.is_file():
        if (workspace / "store.sqlite").exists():
            raise UserError(f"{workspace} is the workspace of a sweep; choose another --workdir")
        atomic.write(path, atomic.dumps(facts, indent=1) + "\n")
        return
    before = atomic.loads(path.read_text())
    for name, value in facts.items():
        if before.get(name) != value and name != "fresh":
            raise UserError(
                f"{workspace} is a search with {name}={before.get(name)!r}, now it is {value!r}: choose another --workdir"
            )


def command(selected: Selected, overrides: list[str]) -> list[str]:
    """The words of `lmjax train` for a run of the experiment."""
    return [selected.name, *(f"--config.{text}" for text in overrides)]


def texts(point: Point) -> list[str]:
    """A point as overrides of the command line: "model.depth=4"."""
    return [f"{path}={_text(value)}" for path, value in point.items()]


def shown(point: Point) -> str:
    """A point for people: learning_rate=0.003 depth=4."""
    return " ".join(f"{path.rpartition('.')[2]}={_text(value)}" for path, value in point.items())


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM and SIGINT end nothing; what it gives says whether one came."""
    came: list[int] = []
    old = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return "none" if value is None else repr(value) if isinstance(value, (bool, int, float)) else str(value)
