"""The table of a study: what every variant measured, with intervals, compared with the baseline by seed."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A number and its 95 % interval; NaN where too few seeds give none."""

    value: float
    low: float
    high: float


class Cell(NamedTuple):
    """One metric of one variant, over its seeds.

    `mean` has Student's interval and `bootstrap` the same mean with a bootstrap interval. `difference` is that to the
    baseline over the `pairs` seeds that both have, `effect` is Hedges' g of these differences, `p` is of the paired
    test and `holm` is p corrected for all comparisons of the table. The baseline has none of these.
    """

    metric: str
    values: tuple[float, ...]  # one a seed, in the order of Row.seeds
    mean: Estimate
    bootstrap: Estimate
    deviation: float  # standard deviation over seeds
    pairs: int = 0
    difference: Estimate | None = None
    effect: float | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def n(self) -> int:
        return len(self.values)


class Row(NamedTuple):
    """A variant: its seeds, its cells in the order of Table.metrics, and what it changes, (path, baseline, here)."""

    variant: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    changes: tuple[tuple[str, object, object], ...]
    marks: tuple[str, ...] = ()  # why its numbers should not be trusted, where the user insisted on a table


class Table(NamedTuple):
    """Rows in the order of the study. `notes` stand under it: what varied, what the intervals are, how p was corrected.

    `marks` are the reasons to refuse a table that the user insisted on; none of a sound one.
    """

    study: str
    question: str
    baseline: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    marks: tuple[str, ...] = ()
