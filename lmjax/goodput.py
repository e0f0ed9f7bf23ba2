"""goodput.json: where the time of a run went, session by session, and which share of it was steps that count.

{"goodput": share, "seconds": {kind: total}, "steps", "lost_steps", "sessions": [...]}, and a session is {"from_step",
"steps", "seconds": {kind: seconds}, "lost_steps", "lost_seconds"}. The kinds are `KINDS`; together they are the time of
the session's main thread, from the beginning of `lmjax train` (its imports not counted) to its end. Lost are steps that
a session took after its last checkpoint before it was killed, which the next one takes again: counted by chain.jsonl,
at the session's mean time of a step. What a killed session did since its last checkpoint, or half a minute, is
estimated in the same way. Goodput is the time of steps that were not lost over the time of all sessions; the time
between two sessions, which belongs to the cluster, is not in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmjax import atomic
from lmjax.history import History

NAME = "goodput.json"
KINDS = ("start", "compile", "data", "step", "evaluation", "save", "other")
EVERY = 30.0  # seconds between two writes that nothing else asks for


class Account:
    """The account of one session. It is written from `open` on; in a process other than the first of several, never."""

    def __init__(self):
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.steps, self.whole = 0, {}
        self._kinds, self._since = ["start"], time.monotonic()
        self._path: Path | None = None
        self._before: list[dict[str, Any]] = []
        self._first, self._written = 0, self._since

    def open(self, folder: Path, first: int, warn: Callable[[str], None]) -> None:
        """Go on with the account of the run in `folder` after step `first`; before its chain.jsonl is cut there."""
        self._path, self._first = folder / NAME, first
        try:
            self._before = atomic.loads(self._path.read_text())["sessions"]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            warn(f"{self._path} cannot be read ({error}): the account of the run's time begins again")
        lines = History(folder / "chain.jsonl").read()
        self._before = lost(self._before, lines[-1]["step"] if lines else 0, first)
        self.write()

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Count what happens inside as `kind`, except for what that counts as another."""
        self._mark()
        self._kinds.append(kind)
        try:
            yield
        finally:
            self._mark()
            self._kinds.pop()

    def become(self, kind: str) -> None:
        """Count as `kind` from now on."""
        self._mark()
        self._kinds[-1] = kind

    def waited(self, seconds: float) -> None:
        """So much of the time since the last call was no step, but waiting for data."""
        self.seconds["step"] -= seconds
        self.seconds["data"] += seconds

    def write(self, *, now: bool = True) -> None:
        """Write the file; with now=False only if the last time is a while ago."""
        if self._path is None or not (now or time.monotonic() - self._written >= EVERY):
            return
        self._mark()
        self._written = self._since
        session = {"from_step": self._first, "steps": self.steps, "lost_steps": 0, "lost_seconds": 0.0,
                   "seconds": {kind: round(seconds, 3) for kind, seconds in self.seconds.items()}}  # fmt: skip
        self.whole = summed([*self._before, session])
        atomic.write(self._path, atomic.dumps(self.whole, indent=1) + "\n")

    def line(self) -> str:
        """The whole run's account in a line."""
        whole = self.whole
        seconds = whole["seconds"]
        rest = ", ".join(f"{kind} {seconds[kind]:.1f}" for kind in KINDS if kind != "step" and seconds[kind] >= 0.05)
        again = f"; {whole['lost_steps']} steps lost and taken again" if whole["lost_steps"] else ""
        return f"goodput {whole['goodput']:.1%} of {sum(seconds.values()):.1f} s  ({rest} s{again})"

    def _mark(self) -> None:
        now = time.monotonic()
        self.seconds[self._kinds[-1]] += now - self._since
        self._since = now


def lost(sessions: list[dict[str, Any]], reached: int, first: int) -> list[dict[str, Any]]:
    """The sessions of a run that had come to step `reached` and goes on from `first`, with what of each is lost."""
    if not sessions:
        return []
    last = sessions[-1]
    mean = last["seconds"]["step"] / last["steps"] if last["steps"] else 0.0
    unwritten = max(reached - last["from_step"] - last["steps"], 0)
    seconds = last["seconds"] | {"step": round(last["seconds"]["step"] + unwritten * mean, 3)}
    sessions = [*sessions[:-1], {**last, "steps": last["steps"] + unwritten, "seconds": seconds}]
    return [_without(session, first) for session in sessions]


def _without(session: dict[str, Any], first: int) -> dict[str, Any]:
    steps, end = session["steps"], session["from_step"] + session["steps"]
    count = max(session["lost_steps"], min(end - first, steps), 0)
    return {
        **session,
        "lost_steps": count,
        "lost_seconds": round(session["seconds"]["step"] * count / max(steps, 1), 3),
    }


def summed(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """The account of a run from those of its sessions."""
    seconds = {kind: round(sum(one["seconds"][kind] for one in sessions), 3) for kind in KINDS}
    kept, whole = seconds["step"] - sum(one["lost_seconds"] for one in sessions), sum(seconds.values())
    return {
        "goodput": round(kept / whole, 4) if whole else 0.0,
        "seconds": seconds,
        "steps": sum(one["steps"] for one in sessions),
        "lost_steps": sum(one["lost_steps"] for one in sessions),
        "sessions": sessions,
    }
