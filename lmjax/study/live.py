"""What a sweep shows while it runs: a table on a terminal, else a line for everything that happens to a cell."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live as RichLive
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lmjax import atomic
from lmjax.config import loads
from lmjax.study.store import Entry
from lmjax.view import clock

GLYPHS = {"completed": ("●", "green"), "running": ("◐", "cyan"), "failed": ("✗", "red"), "waiting": ("·", "dim")}

BETTER = {  # parts of the names of metrics
    "min": ("loss", "nll", "perplexity", "bits_per", "error", "wer", "cer", "calibration", "grad_norm", "seconds"),
    "max": ("accuracy", "f1", "precision", "recall", "bleu", "chrf", "rouge", "exact_match", "auc", "ndcg", "mrr",
            "correlation", "per_second"),
}  # fmt: skip


class Live:
    """Follows the entries of a store; `look` at them as often as you like. metric: "" is the cells' eval.metric."""

    def __init__(self, workspace: Path, console: Console | None = None, metric: str = ""):
        self.workspace, self.console = workspace, console or Console(highlight=False, soft_wrap=True)
        self._screen: RichLive | None = None
        self._began, self._first = time.monotonic(), 0.0
        self._seen: dict[str, tuple[str, int]] = {}
        self._steps: dict[str, int] = {}
        self._metric, self._mode = metric, ""

    @contextlib.contextmanager
    def showing(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Everything between the first look and the last."""
        for entry in entries:
            config = loads(entry.cell.config)
            self._steps[entry.cell.key] = config.steps
            self._metric = self._metric or config.eval.metric
            self._mode = config.eval.mode if self._metric == config.eval.metric else direction(self._metric)
            self._seen[entry.cell.key] = (entry.status, entry.attempts)
        self._began, self._first = time.monotonic(), self._done(entries)
        finished = sum(entry.status == "completed" for entry in entries)
        self.console.print(f"{len(entries)} cells, {finished} finished; {escape(str(self.workspace))}")
        if self.console.is_terminal:
            self._screen = RichLive(self._table(entries), console=self.console, auto_refresh=False)
        with self._screen or contextlib.nullcontext():
            yield
        self._screen = None

    def look(self, entries: Sequence[Entry]) -> None:
        """Show what is new."""
        for entry in entries:
            now, before = (entry.status, entry.attempts), self._seen.get(entry.cell.key)
            if now != before:
                self._seen[entry.cell.key] = now
                self._tell(entry, entries)
        if self._screen:
            self._screen.update(self._table(entries), refresh=True)

    def _tell(self, entry: Entry, entries: Sequence[Entry]) -> None:
        done = sum(other.status == "completed" for other in entries)
        words = [f"[{done}/{len(entries)}]", f"{entry.cell.variant} seed {entry.cell.seed}: {entry.status}"]
        if entry.status == "running" and self._screen:
            return
        if entry.status == "completed" and self._metric in entry.metrics:
            words += [f"{self._metric} {entry.metrics[self._metric]:.4f}", f"in {clock(entry.seconds)}"]
        elif entry.cause:
            words.append(f"({entry.cause})")
        if entry.status != "running" and (left := self._left(entries)) is not None and done < len(entries):
            words.append(f"{clock(left)} left")
        self.console.print(Text("  ".join(words), style="red" if entry.status == "failed" else ""))

    def _table(self, entries: Sequence[Entry]) -> Table:
        """A line a variant: its cells, how far they are, and the mean of what they measured so far."""
        variants = list(dict.fromkeys(entry.cell.variant for entry in entries))
        means = {name: mean(entries, name, self._metric) for name in variants}
        known = [value for value in means.values() if value is not None]
        best = {"min": min, "max": max}[self._mode](known, default=None) if self._mode else None
        left, done = self._left(entries), sum(entry.status == "completed" for entry in entries)
        table = Table(box=None, pad_edge=False, caption_justify="left", caption_style="dim")
        table.caption = f"{done} of {len(entries)} finished, {clock(time.monotonic() - self._began)} so far" + (
            f", {clock(left)} left" if left is not None else ""
        )
        metric = f"{self._metric}{ {'min': ' ↓', 'max': ' ↑', '': ''}[self._mode] }"
        for heading in ("variant", "seeds", "progress", metric):
            table.add_column(heading, justify="right" if heading in ("progress", metric) else "left")
        for name in variants:
            mine = [entry for entry in entries if entry.cell.variant == name]
            seeds = Text.assemble(*[GLYPHS[entry.status] for entry in mine])
            share = self._done(mine) / max(sum(self._steps[entry.cell.key] for entry in mine), 1)
            value = "" if means[name] is None else f"{means[name]:.4f}" + (" ◀ best" if means[name] == best else "")
            table.add_row(name, seeds, f"{share:.0%}", value)
        return table

    def _done(self, entries: Sequence[Entry]) -> float:
        """Steps that were made of these cells."""
        return sum(self._reached(entry) for entry in entries)

    def _reached(self, entry: Entry) -> int:
        whole = self._steps[entry.cell.key]
        if entry.status == "completed":
            return whole
        return min(last_step(self.workspace / entry.cell.folder / "metrics.jsonl"), whole)

    def _left(self, entries: Sequence[Entry]) -> float | None:
        """Seconds to go at the pace so far; None before there is one."""
        done = self._done(entries)
        whole = sum(self._steps[entry.cell.key] for entry in entries if entry.status != "failed")
        if done <= self._first:
            return None
        return (time.monotonic() - self._began) / (done - self._first) * max(whole - done, 0)


def direction(metric: str) -> str:
    """ "min" or "max", whichever is better by the name of a metric; "" of other names."""
    name = metric.rpartition("/")[2].lower()
    found = [mode for mode, parts in BETTER.items() if any(part in name for part in parts)]
    return found[0] if len(found) == 1 else ""


def mean(entries: Sequence[Entry], variant: str, metric: str) -> float | None:
    """The mean of a metric over the finished cells of a variant; None if there are none."""
    values = [entry.metrics[metric] for entry in entries
              if entry.cell.variant == variant and entry.status == "completed" and metric in entry.metrics]  # fmt: skip
    return sum(values) / len(values) if values else None


def last_step(path: Path) -> int:
    """The step of the last whole line of a metrics.jsonl; 0 if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().split(b"\n")[:-1]
        return int(atomic.loads(lines[-1].decode())["step"]) if lines else 0
    except (OSError, ValueError, KeyError):
        return 0
