"""search.md and trials.csv of a search: every trial, the winner, and what the winner is worth with fresh seeds."""

from __future__ import annotations

import csv
import io
import math
from functools import partial
from pathlib import Path

from lmjax import atomic
from lmjax.config import override
from lmjax.experiment import Experiment, Selected
from lmjax.study import records, trials
from lmjax.study.checks import KINDS
from lmjax.study.search import Found, Settings, shown, texts


def write(workspace: Path, selected: Selected, settings: Settings, found: Found, fresh: dict[str, list[Path]],
          overrides: list[str]) -> str:  # fmt: skip
    """Write both files into the workspace; what a person should read of them."""
    workspace = Path(workspace)
    atomic.write(workspace / "trials.csv", trials_csv(settings, found))
    end = conclusion(selected, settings, found, fresh, overrides)
    lines = [f"# Search: {selected.name}", "", selected.question, "", *how(settings, found), "", *end, "",
             "## Trials", "", *evaluated_alike(workspace, found), *trials_table(settings, found)]  # fmt: skip
    atomic.write(workspace / "search.md", "\n".join(lines) + "\n")
    return "\n".join([*end, "", f"{workspace / 'search.md'}, {workspace / 'trials.csv'}"])


def how(settings: Settings, found: Found) -> list[str]:
    """What was done."""
    lines = [f"{len(found.points)} trials, {settings.sampler} (seed {settings.seed}), {settings.jobs} at a time; "
             f"the best has the {'lowest' if settings.mode == 'min' else 'highest'} {settings.metric}."]  # fmt: skip
    if len(found.rungs) > 1:
        counts = ", ".join(
            f"{len(values)} to step {rung}" for values, rung in zip(found.values, found.rungs, strict=True)
        )
        lines.append(f"Asynchronous halving by {settings.factor}: {counts}.")
    return lines


def conclusion(selected: Selected, settings: Settings, found: Found, fresh: dict[str, list[Path]],
               overrides: list[str]) -> list[str]:  # fmt: skip
    """The winner, and the comparison with the base by fresh seeds."""
    if found.winner is None:
        return ["No trial got to its end."]
    point, value = found.points[found.winner], found.values[-1][found.winner]
    lines = [
        f"Winner: trial {found.winner}, {settings.metric} {value:.5g} with the search's own seed: the best of "
        f"{len(found.points)}, and so better than it will be again.",
        "",
        f"    lmjax train {selected.name} {' '.join(f'--config.{text}' for text in [*overrides, *texts(point)])}",
        "",
    ]
    if "winner" not in fresh:
        return [*lines, "It is the config that the search began with."]
    if not fresh["winner"]:
        return [*lines, "It was not run again with fresh seeds (--seeds=0)."]
    return [*lines, *compared(selected, settings, point, fresh, overrides)]


def compared(selected: Selected, settings: Settings, point: dict[str, object], fresh: dict[str, list[Path]],
             overrides: list[str]) -> list[str]:  # fmt: skip
    """Means over the fresh seeds and the paired difference, from the run directories."""
    from lmjax.study import table

    runs = [records.read(folder)._replace(variant=name) for name, folders in fresh.items() for folder in folders]
    study = Experiment(
        name=records.study_of(runs[0]), question=selected.question, base=partial(override, selected.config, overrides),
        variants={"winner": point}, metrics=(settings.metric,),
    )  # fmt: skip
    made = table.table(study, runs, (settings.metric,), insist=KINDS)
    seeds = ", ".join(map(str, made.rows[0].seeds))
    lines = [f"With fresh seeds ({seeds}), which the search has not seen:", "",
             f"| | {settings.metric} | 95 % interval |", "|---|---|---|"]  # fmt: skip
    for row in made.rows:
        mean = row.cells[0].mean
        interval = f"{mean.low:.5g} to {mean.high:.5g}" if math.isfinite(mean.low) else "none: one seed"
        lines.append(f"| {row.variant} | {mean.value:.5g} | {interval} |")
    cell = made.rows[-1].cells[0]
    if cell.difference and math.isfinite(cell.difference.low):
        d = cell.difference
        p = "" if cell.p is None or math.isnan(cell.p) else f", p = {cell.p:.2g}"
        said = f"{d.value:+.3g} ({d.low:+.3g} to {d.high:+.3g}{p})"
        lines += ["", f"Winner minus base, paired by seed: {said}."]
    return lines + [line for mark in made.marks for line in ("", f"Not comparable as it stands: {mark}")]


def evaluated_alike(workspace: Path, found: Found) -> list[str]:
    """A warning where the trials were measured on different data: a space over the tokenizer or the split does that."""
    data = [
        trials.facts(workspace / "trials" / f"trial{trial}").get("data", {}).get("fingerprint")
        for trial in found.points
    ]
    if len(set(filter(None, data))) < 2:
        return []
    return ["The trials were not all evaluated on the same data: only a metric that does not depend on it compares them, "
            "such as bits per byte.", ""]  # fmt: skip


def trials_table(settings: Settings, found: Found) -> list[str]:
    """Every trial, the furthest and best first."""
    lines = [f"| trial | steps | {settings.metric} | |", "|---|---|---|---|"]
    for trial, step, value, cause in ordered(settings, found):
        said = cause or f"{value:.5g}"
        lines.append(f"| {trial} | {step} | {said} | {shown(found.points[trial])} |")
    return lines


def ordered(settings: Settings, found: Found) -> list[tuple[int, int, float, str]]:
    """(trial, steps that it was trained for, value there, cause of its failure), best first."""
    rows, sign = [], 1 if settings.mode == "min" else -1
    for trial in found.points:
        reached = [n for n, values in enumerate(found.values) if trial in values and math.isfinite(values[trial])]
        step = found.rungs[reached[-1]] if reached else 0
        value = found.values[reached[-1]][trial] if reached else math.nan
        rows.append((trial, step, value, found.causes.get(trial, "")))
    return sorted(rows, key=lambda row: (bool(row[3]), -row[1], sign * row[2] if row[1] else 0.0, row[0]))


def trials_csv(settings: Settings, found: Found) -> str:
    """A row a trial by number: its point, how far it got, the metric at every rung."""
    text = io.StringIO()
    paths = list(next(iter(found.points.values()), {}))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *paths, *(f"{settings.metric} at {rung}" for rung in found.rungs), "failed"])
    for trial, point in sorted(found.points.items()):
        values = [rung.get(trial, "") for rung in found.values]
        shown_values = [repr(value) if isinstance(value, float) and math.isfinite(value) else "" for value in values]
        writer.writerow([trial, *point.values(), *shown_values, found.causes.get(trial, "")])
    return text.getvalue()
