"""The table of a study: what every variant measured, with intervals, compared with the baseline by seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from lmjax.errors import UserError, unknown
from lmjax.experiment import Experiment
from lmjax.study import statistics, varied
from lmjax.study.checks import Fault, Kind, changes, faults, reference_of
from lmjax.study.records import EVALUATED, Record


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


def table(
    study: Experiment,
    records: Sequence[Record],
    metrics: Sequence[str] | None = None,
    *,
    test: statistics.Test = "t",
    insist: Collection[Kind] = (),
) -> Table:
    """The table of `records`, of any order; metrics None: those of the study.

    UserError that names every fault of the runs (`checks.faults`); those of the kinds in `insist` are marks instead.
    """
    found = faults(study, records)
    refuse(study, found, insist)
    metrics = tuple(study.measured() if metrics is None else metrics)
    runs = runs_of(study, records)
    reference = reference_of(study, [record for held in runs.values() for record in held])
    if reference is None:
        raise UserError(f"{study.name} has no finished run: `lmjax sweep {study.name}` makes them")
    for metric in metrics:
        if metric not in reference.metrics:
            hint = f"`lmjax eval {reference.folder} --metrics=NAMES` measures {EVALUATED}NAME of its last step."
            raise unknown(f"metric of {study.name}", metric, sorted(reference.metrics), hint)
    rows = [
        row(variant, held, runs.get(study.baseline), metrics, reference, test, found) for variant, held in runs.items()
    ]
    rows = corrected(rows)
    said = varied.notes(study, [record for held in runs.values() for record in held], reference)
    said += varied.judged(metrics, [record for held in runs.values() for record in held])
    said += explained(rows, study.baseline, test)
    marks = tuple(fault.message for fault in found)
    return Table(study.name, study.question, study.baseline, metrics, tuple(rows), tuple(said), marks)


def refuse(study: Experiment, found: Sequence[Fault], insist: Collection[Kind]) -> None:
    """UserError that names the faults of runs that no table is made of, unless all are of the kinds in `insist`."""
    wrong = [fault for fault in found if fault.kind not in insist]
    if not wrong:
        return
    lines = [f"  {fault.message}" for fault in wrong[:12]]
    lines += [f"  and {len(wrong) - 12} more"] if len(wrong) > 12 else []
    flag = "--mixed-commits" if all(fault.kind == "code" for fault in wrong) else "--insist"
    raise UserError(f"no table of {study.name} from these runs (lmjax report {flag} makes one, marked):\n"
                    + "\n".join(lines))  # fmt: skip


def runs_of(study: Experiment, records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each variant that has any, in the order of the study, each by seed; of a seed, one."""
    runs: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: str(record.folder)):
        if record.manifest.get("experiment", "").partition("/")[0] == study.name:
            runs.setdefault(str(record.variant), {}).setdefault(record.seed, record)
    return {name: [runs[name][seed] for seed in sorted(runs[name])] for name in study.names() if name in runs}


def row(
    variant: str,
    held: Sequence[Record],
    baseline: Sequence[Record] | None,
    metrics: Sequence[str],
    reference: Record,
    test: statistics.Test,
    found: Sequence[Fault],
) -> Row:
    """A variant's row, its p not yet corrected."""
    cells = tuple(cell(metric, held, None if baseline is held else baseline, test) for metric in metrics)
    marks = tuple(fault.message for fault in found if variant in fault.variants)
    return Row(variant, tuple(record.seed for record in held), cells, tuple(changes(reference, held[0])), marks)


def cell(metric: str, held: Sequence[Record], baseline: Sequence[Record] | None, test: statistics.Test) -> Cell:
    """One metric of one variant, compared with the baseline's runs of the same seeds; None: it is the baseline."""
    values_n = np.array([value(record, metric) for record in held])
    mean, resampled = statistics.student(values_n), statistics.bootstrap(values_n)
    made = Cell(
        metric, tuple(values_n.tolist()), _estimate(mean), _estimate(resampled), float(statistics.deviation(values_n))
    )
    if baseline is None:
        return made
    other = {record.seed: value(record, metric) for record in baseline}
    differences_n = np.array([value(record, metric) - other[record.seed] for record in held if record.seed in other])
    if not len(differences_n):
        return made
    return made._replace(
        pairs=len(differences_n),
        difference=_estimate(statistics.student(differences_n)),
        effect=float(statistics.effect(differences_n)),
        p=float(statistics.paired(differences_n, test)),
    )


def value(record: Record, metric: str) -> float:
    """The last value of a metric; UserError if the run has none."""
    if metric not in record.metrics and metric.startswith(EVALUATED):
        raise UserError(f"{record.folder} has no {metric} of its last step: `lmjax eval {record.folder} "
                        f"--metrics={metric.removeprefix(EVALUATED)}` measures it")  # fmt: skip
    if metric not in record.metrics:
        raise UserError(f"{record.folder} has no {metric}; it has {', '.join(sorted(record.metrics))}")
    return float(record.metrics[metric])


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with Holm's correction over all their comparisons."""
    p = [one.p for row in rows for one in row.cells if one.p is not None]
    left = iter(statistics.holm(p).tolist())
    return [
        row._replace(cells=tuple(one if one.p is None else one._replace(holm=next(left)) for one in row.cells))
        for row in rows
    ]


def explained(rows: Sequence[Row], baseline: str, test: statistics.Test) -> list[str]:
    """What the intervals, differences and p of these rows are."""
    cells = [one for row in rows for one in row.cells]
    said = []
    if any(one.n > 1 for one in cells):
        said.append("Means with 95 % intervals over seeds: Student's t, and the bootstrap-t of "
                    f"{statistics.RESAMPLES:,} resamples from {statistics.LEAST_FOR_BOOTSTRAP} seeds on.")  # fmt: skip
    compared = [one for one in cells if one.p is not None and math.isfinite(one.p)]
    if compared:
        pairs = min(one.pairs for one in compared)
        name = "paired t test" if test == "t" else "Wilcoxon signed-rank test"
        said.append(
            f"Differences to {baseline} are paired by seed; p is of a {name}, corrected by Holm for the "
            f"{len(compared)} comparison{'s' if len(compared) > 1 else ''} of this table; the effect is Hedges' g of the "
            "paired differences."
        )
        if test == "wilcoxon" and 2 ** (1 - pairs) > 0.05:
            said.append(f"Of {pairs} pairs Wilcoxon's p is never below {2.0 ** (1 - pairs):.2g}.")
    if any(one.n == 1 for one in cells):
        said.append("A single seed has no interval and no test.")
    for row in rows:
        for one in row.cells:
            if not all(map(math.isfinite, one.values)):
                said.append(f"{row.variant}: {one.metric} is not finite with every seed, so it has no mean.")
            elif one.n > 1 and one.deviation == 0:
                said.append(f"{row.variant}: {one.metric} is the same with every seed, so its interval has no width.")
    return said


def _estimate(interval: statistics.Interval) -> Estimate:
    return Estimate(*(float(bound) for bound in interval))
