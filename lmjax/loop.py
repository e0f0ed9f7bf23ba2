"""The training loop: steps, and pauses for what needs a settled state. There is no machine learning in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Hooks(NamedTuple):
    """What happens around the steps. `done` counts finished steps: 1 after the first."""

    before: Callable[[int], None]  # (done), just before the step that follows
    record: Callable[[int, Any], None]  # (done, that step's metrics on the host): every step once, in order
    pauses: Callable[[int], bool]  # (done): is there something to do with the state now?
    pause: Callable[[int, Any], str]  # (done, state): evaluate, save, ...; why to stop, or ""


class Ending(NamedTuple):
    """The state after `done` steps, and why there are no more: "" after the last one, or what `pause` said."""

    state: Any
    done: int
    reason: str


def run(step: Callable, state: Any, batches: Iterator, *, first: int, last: int, hooks: Hooks) -> Ending:
    """Run steps `first + 1 .. last`.

    The metrics of a step are fetched while the next one runs. Nothing may move between host and device in a step.
    """
    waiting = None
    for done in range(first + 1, last + 1):
        hooks.before(done - 1)
        batch = next(batches)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, batch)
        if waiting is not None:
            hooks.record(done - 1, jax.device_get(waiting))
        waiting = metrics
        if not (hooks.pauses(done) or done == last):
            continue
        hooks.record(done, jax.device_get(waiting))
        waiting = None
        reason = hooks.pause(done, state)
        if reason:
            return Ending(state, done, reason)
    return Ending(state, last, "")


def due(done: int, every: int | None, last: int) -> bool:
    """After every `every` steps and after the last one; None or 0: never before the last."""
    return done == last or (bool(every) and done % every == 0)
