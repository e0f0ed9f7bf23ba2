"""Learning-rate schedules by name: a warm-up times a shape, functions of the step number alone.

    rate(step) = learning_rate * min(1, (step + 1) / warmup) * shape(step)

The first step has number 0 and already moves the parameters. `end` is the fraction of learning_rate that a decaying
shape reaches at `steps`. "plateau" is the one schedule with a memory: its state lives in the optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import UserError, unknown


class Span(NamedTuple):
    """What a shape may read: x, the fraction of the way from the end of the warm-up to the last step, and the rest."""

    x: jax.Array
    step: jax.Array
    steps: int
    warmup: int
    end: float
    decay: float | None


class Schedule(NamedTuple):
    shape: Callable[[Span], jax.Array | float]
    takes: dict[str, float]  # optional leaves of optim.schedule that it reads, and what they are when not set


def _cooldown(s: Span) -> jax.Array:
    """1, then in a straight line down to `end` over the last `decay` of all steps; Hu et al. 2024, arXiv:2404.06395."""
    start = s.steps * (1 - s.decay)
    return 1 - (1 - s.end) * jnp.clip((s.step - start) / (s.steps - start), 0, 1)


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(lambda s: 1.0, {}),
    "linear": Schedule(lambda s: 1 - (1 - s.end) * s.x, {}),
    "exponential": Schedule(lambda s: s.end**s.x, {}),  # the same factor every step
    "cosine": Schedule(lambda s: s.end + (1 - s.end) * (1 + jnp.cos(jnp.pi * s.x)) / 2, {}),  # arXiv:1608.03983, eq. 5
    "wsd": Schedule(_cooldown, {"decay": 0.2}),
    "inverse_sqrt": Schedule(  # Vaswani et al. 2017, arXiv:1706.03762, section 5.3, as a fraction of its peak
        lambda s: jnp.minimum(1, jnp.sqrt(max(s.warmup, 1) / (s.step + 1))), {}
    ),
    "plateau": Schedule(lambda s: 1.0, {"factor": 0.5, "patience": 10, "window": 100}),
}
OPTIONAL = ("decay", "factor", "patience", "window")


def make(section, learning_rate: float, steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """step -> learning rate, float32; without the factor that a plateau multiplies in."""
    chosen, settings = _check(section)

    def rate(step: jax.Array | int) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        x = jnp.clip((t - section.warmup) / max(steps - section.warmup, 1), 0, 1)
        span = Span(x, t, steps, section.warmup, section.end, settings.get("decay"))
        warm = jnp.minimum(1.0, (t + 1) / max(section.warmup, 1))
        return jnp.asarray(learning_rate * warm * chosen.shape(span), jnp.float32)

    return rate


def make_plateau(section) -> optax.GradientTransformationExtraArgs | None:
    """Optax's reduce_on_plateau on the training loss, or None when the schedule has no memory.

    The loss is averaged over `window` steps; after `patience` averages without a new lowest one (by 0.01 %) the
    factor is multiplied by `factor`, never below `end`.
    """
    if section.name != "plateau":
        return None
    _, settings = _check(section)
    return optax.contrib.reduce_on_plateau(
        factor=settings["factor"],
        patience=settings["patience"],
        accumulation_size=settings["window"],
        min_scale=section.end,
    )


def _check(section) -> tuple[Schedule, dict[str, float]]:
    if section.name not in SCHEDULES:
        raise unknown("schedule (optim.schedule.name)", section.name, SCHEDULES)
    chosen = SCHEDULES[section.name]
    given = {name: section[name] for name in OPTIONAL if name in section and section[name] is not None}
    for name in given:
        if name not in chosen.takes:
            raise UserError(
                f"optim.schedule.{name} is set, but the schedule {section.name!r} does not take it; "
                f"it takes {', '.join(['warmup', 'end', *chosen.takes])}. Set it to none."
            )
    settings = {**chosen.takes, **given}
    legal = {
        "warmup": (section.warmup >= 0, "a number of steps, 0 or more"),
        "end": (0 <= section.end <= 1, "the last learning rate as a fraction of the peak, from 0 to 1"),
        "decay": (0 < settings.get("decay", 1) <= 1, "the fraction of steps that decays, above 0 and at most 1"),
        "factor": (0 < settings.get("factor", 0.5) < 1, "must be between 0 and 1"),
        "patience": (settings.get("patience", 1) >= 1, "a whole number, 1 or more"),
        "window": (settings.get("window", 1) >= 1, "a whole number of steps, 1 or more"),
    }
    for name, (good, meaning) in legal.items():
        if not good:
            raise UserError(f"optim.schedule.{name}={given[name] if name in given else section[name]}: {meaning}")
    if section.name == "exponential" and section.end == 0:
        raise UserError("optim.schedule.end=0: an exponential never reaches 0; set a small fraction such as 0.01")
    return chosen, settings
