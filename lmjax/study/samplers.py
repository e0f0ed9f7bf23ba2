"""What a search tries next: a point of its space, drawn at random or by Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

from lmjax.errors import UserError
from lmjax.study.spaces import Draws, rounded

Point = dict[str, object]
FIRST = 8  # trials drawn at random before the estimator has enough to go by


class Seen(NamedTuple):
    """A trial as the sampler may know it: value None while it runs; `step` is how far it was trained."""

    point: Point
    step: int
    value: float | None  # lower is better; inf for one that failed
    whole: bool = False  # trained to its end


def at_random(space: Mapping[str, Draws], seed: int, number: int, seen: list[Seen]) -> Point:
    """Trial `number` is a function of the seed and of its number alone: the draw of `spaces.random`, repeats included."""
    return {path: draws.draw(Random(f"{seed}/{number}/{path}")) for path, draws in space.items()}


def tpe(space: Mapping[str, Draws], seed: int, number: int, seen: list[Seen]) -> Point:
    """Bergstra et al. 2011 through Optuna, given all that is known; the first trials are drawn at random.

    A trial that was stopped at a rung counts by its value there, behind those that were trained further; one that
    still runs keeps others away from its point.
    """
    if number < FIRST:
        return at_random(space, seed, number, seen)
    try:
        import optuna
    except ImportError:
        raise UserError("--sampler=tpe needs Optuna: pip install 'lmjax[search]'; --sampler=random does not") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes = {path: _distribution(optuna, draws) for path, draws in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=_number(seed, number), n_startup_trials=1, multivariate=True,
                                             constant_liar=True)  # fmt: skip
        study = optuna.create_study(sampler=sampler)
        for one in seen:
            study.add_trial(_trial(optuna, one, space, axes))
        asked = study.ask(axes)
    return {path: _value(draws, asked.params[path]) for path, draws in space.items()}


SAMPLERS: dict[str, Callable[[Mapping[str, Draws], int, int, list[Seen]], Point]] = {"random": at_random, "tpe": tpe}


def _distribution(optuna: Any, draws: Draws) -> Any:
    kinds = optuna.distributions
    if draws.kind == "choice":
        return kinds.CategoricalDistribution(range(len(draws.values)))
    if draws.kind.endswith("integers"):
        return kinds.IntDistribution(int(draws.low), int(draws.high), log=draws.kind.startswith("log"))
    return kinds.FloatDistribution(draws.low, draws.high, log=draws.kind.startswith("log"))


def _trial(optuna: Any, one: Seen, space: Mapping[str, Draws], axes: Mapping[str, Any]) -> Any:
    """The trial in Optuna's terms."""
    states = optuna.trial.TrialState
    params = {path: _inner(draws, one.point[path]) for path, draws in space.items()}
    if one.value is None:
        return optuna.trial.create_trial(state=states.RUNNING, params=params, distributions=dict(axes))
    if not math.isfinite(one.value):
        return optuna.trial.create_trial(state=states.PRUNED, params=params, distributions=dict(axes))
    if one.whole:
        return optuna.trial.create_trial(value=one.value, params=params, distributions=dict(axes))
    return optuna.trial.create_trial(state=states.PRUNED, params=params, distributions=dict(axes),
                                     intermediate_values={one.step: one.value})  # fmt: skip


def _inner(draws: Draws, value: object) -> object:
    return draws.values.index(value) if draws.kind == "choice" else value


def _value(draws: Draws, inner: Any) -> object:
    """What the config gets for Optuna's number: six digits, within the limits."""
    if draws.kind == "choice":
        return draws.values[inner]
    return inner if draws.kind.endswith("integers") else min(max(rounded(inner), draws.low), draws.high)


def _number(seed: int, number: int) -> int:
    return Random(f"{seed}/{number}/sampler").randrange(2**32)
