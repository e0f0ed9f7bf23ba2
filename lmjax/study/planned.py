"""How many seeds a study needs to see a difference, from the spread that its runs so far show. No JAX in here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmjax.errors import UserError, unknown
from lmjax.experiment import Experiment
from lmjax.study import statistics
from lmjax.study.records import Record
from lmjax.study.table import Table, table


class Needed(NamedTuple):
    """Of one variant and metric: what is known, and how many seeds find the difference with the chance asked for.

    `spread`: standard deviation of the differences to the baseline over `pairs` seeds; `power`: the chance that as many
    find it; `seeds`: enough for one test; `corrected`: at the level of Holm's first step over all comparisons;
    `careful`: likewise with a spread that the true one exceeds one time in five.
    """

    variant: str
    metric: str
    pairs: int
    spread: float
    power: float
    seeds: int
    corrected: int
    careful: int


def needed(
    study: Experiment,
    records: Sequence[Record],
    difference: float,
    metrics: Sequence[str] | None = None,
    target: float = 0.8,
) -> list[Needed]:
    """The seeds that each comparison of a study's table needs; UserError where runs are too few to tell the spread."""
    if not difference > 0:
        raise UserError(f"--difference={difference}: it is a positive number, in the unit of the metric")
    if not 0 < target < 1:
        raise UserError(f"--power={target}: it is between 0 and 1, such as 0.8")
    made = table(study, records, metrics)
    found = list(_spreads(made))
    if not found:
        raise UserError(
            f"{study.name} has no variant with two seeds that {made.baseline} has too, so nothing tells the spread: "
            f"lmjax sweep {study.name} --seeds=3"
        )
    level = 0.05 / len(found)
    return [
        Needed(
            variant,
            metric,
            len(differences_n),
            spread,
            statistics.power(difference, spread, len(differences_n)),
            statistics.seeds_needed(difference, spread, target),
            statistics.seeds_needed(difference, spread, target, level),
            statistics.seeds_needed(difference, statistics.spread_at_most(spread, len(differences_n)), target, level),
        )
        for variant, metric, differences_n, spread in found
    ]


def _spreads(made: Table):
    """Variant, metric, its differences to the baseline and their standard deviation, where there are two or more."""
    rows = {row.variant: row for row in made.rows}
    if made.baseline not in rows:
        raise unknown("baseline among the finished runs", made.baseline, rows)
    base = rows[made.baseline]
    for row in made.rows:
        for number, metric in enumerate(made.metrics):
            other = dict(zip(base.seeds, base.cells[number].values, strict=True))
            pairs = zip(row.seeds, row.cells[number].values, strict=True)
            differences_n = np.array([value - other[seed] for seed, value in pairs if seed in other])
            if row is not base and len(differences_n) > 1:
                yield row.variant, metric, differences_n, float(statistics.deviation(differences_n))


def text(study: Experiment, found: Sequence[Needed], difference: float, target: float) -> str:
    """Aligned columns, and what they mean."""
    rows = [("variant", "metric", "seeds so far", "spread", "power now", "seeds", "corrected", "careful")]
    for one in found:
        rows.append((one.variant, one.metric, f"{one.pairs}", f"{one.spread:.3g}", f"{one.power:.0%}", f"{one.seeds}",
                     f"{one.corrected}", f"{one.careful}"))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    count = len(found)
    return "\n".join([
        f"{study.name}: seeds for a paired t test to find a difference of {difference:g} to {study.baseline}, "
        f"{target:.0%} of the time",
        *lines,
        "spread: standard deviation of the difference between runs of the same seed. seeds: at a level of 5 %. "
        f"corrected: for {count} comparison{'s' if count > 1 else ''} (Holm). careful: should the true spread be as large "
        "as the runs so far allow (80 % bound).",
    ])  # fmt: skip
