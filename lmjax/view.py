"""What the user sees while a run goes on: header, progress bar, evaluations, samples, and what to type next."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


def count(number: float) -> str:
    """1234567 -> 1.23M"""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """3725 -> 1:02:05"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Left(ProgressColumn):
    def render(self, task: Any) -> Text:
        return Text(f"{clock(task.fields['left'])} left" if task.fields["left"] is not None else "", style="cyan")


class View:
    """The terminal of one run. On a terminal there is a live bar; elsewhere a plain line at every log step."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._errors = Console(quiet=quiet, highlight=False, soft_wrap=True, stderr=True)
        self._bar: Progress | None = None
        self._task = None
        self._began, self._first, self._last = time.monotonic(), 0, 0

    def say(self, text: str, style: str = "") -> None:
        """A line of plain text."""
        self.console.print(escape(text), style=style)

    def warn(self, text: str) -> None:
        """A warning, on standard error."""
        self._errors.print(f"[bold yellow]warning:[/] {escape(text)}")

    def header(self, title: str, question: str, facts: dict[str, str]) -> None:
        """The name of the run and its facts, a line each."""
        self.console.print(f"[bold]{escape(title)}[/]  [dim]{escape(question)}[/]")
        for name, text in facts.items():
            self.console.print(f"  [cyan]{name:<11}[/] {escape(text)}")

    def start(self, done: int, last: int) -> None:
        """Begin the progress bar at `done` of `last` steps."""
        self._began, self._first, self._last = time.monotonic(), done, last
        if not self.console.is_terminal or self.console.quiet:
            return
        columns = (TextColumn("step {task.completed:.0f}/{task.total:.0f}"), BarColumn(bar_width=24),
                   TextColumn("{task.fields[facts]}"), TimeElapsedColumn(), _Left())  # fmt: skip
        self._bar = Progress(*columns, console=self.console, refresh_per_second=4)
        self._task = self._bar.add_task("", total=last, completed=done, facts="compiling", left=None)
        self._bar.start()

    def step(self, done: int) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.update(self._task, completed=done, left=self._left(done))

    def log(self, done: int, values: dict[str, float]) -> None:
        """What was measured since the last log step."""
        speeds = {"tok/s": "perf/tokens_per_second", "examples/s": "perf/examples_per_second"}
        speed = "  ".join(f"{count(values[name])} {unit}" for unit, name in speeds.items() if name in values)
        facts = f"loss {values['train/loss']:.4f}  {speed}"
        if values.get("perf/mfu") is not None:
            facts += f"  MFU {100 * values['perf/mfu']:.0f}%"
        if self._bar:
            self._bar.update(self._task, completed=done, facts=facts, left=self._left(done))
        else:
            left = self._left(done)
            self.say(f"step {done}/{self._last}  {facts}  {clock(left) + ' left' if left is not None else ''}".rstrip())

    def evaluation(self, done: int, values: dict[str, float]) -> None:
        """The line of one evaluation."""
        shown = "  ".join(f"{name.removeprefix('valid/')} {value:.4f}" for name, value in values.items())
        self.console.print(f"[bold green]valid[/] [green]step {done}[/]  {escape(shown)}")

    def sample(self, done: int, text: str) -> None:
        """Generated text, indented."""
        lines = "\n".join(f"  │ {line}" for line in text.splitlines())
        self.console.print(f"[magenta]sample[/] [dim]step {done}[/]\n{escape(lines)}")

    def shares(self, shares: dict[str, float], most: int = 10) -> None:
        """Labels with their probabilities as bars, the first `most` of them."""
        width = max(map(len, shares))
        for label, share in list(shares.items())[:most]:
            bar = "━" * round(30 * share)
            self.console.print(f"{escape(label):<{width}}  {share:6.1%}  [green]{bar}[/]")
        if len(shares) > most:
            self.say(f"and {len(shares) - most} less likely ones", style="dim")

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _left(self, done: int) -> float | None:
        taken = done - self._first
        return (time.monotonic() - self._began) / taken * (self._last - done) if taken > 0 else None
