"""The report of a study: what its runs measured, cost and changed, as a page, Markdown, LaTeX or CSV. No JAX in here.

A pure function of its inputs: the same runs give the same bytes. Links lead from the report's folder to the manifests.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lmjax.experiment import Experiment
from lmjax.study import costs, drawing
from lmjax.study.records import Record, folder_of
from lmjax.study.table import Table
from lmjax.study.wording import number

Form = Literal["html", "md", "tex", "csv"]
FORMS = ("html", "md", "tex", "csv")
EXCERPT = 400  # characters of a sample
SUSPECT = "These runs have faults, and the table was insisted on"


class Run(NamedTuple):
    """A run as reports list it. link: to its manifest, from the report's folder."""

    variant: str
    seed: int
    link: str
    values: tuple[float, ...]  # of the table's metrics
    step: int
    time: str
    config: str  # the first digits of its hash
    commit: str


class Facts(NamedTuple):
    """All that a report says beside the table, the variants in its order."""

    question: str
    runs: list[Run]
    costs: dict[str, costs.Cost]
    curves: dict[str, dict[str, drawing.Curve]]  # metric -> variant -> curve
    samples: dict[str, str]  # of the first seed's last sample
    marks: tuple[str, ...]


def render(
    study: Experiment, records: Sequence[Record], table: Table, form: Form, *, home: Path | None = None
) -> bytes:
    """The report in one form; home: the folder that it will be in, None: that of VARIANT/seedN."""
    from lmjax.study import latex, markdown, pages

    found = facts(table, records, home)
    clean = table._replace(
        marks=found.marks, rows=tuple(row._replace(marks=_placed(row.marks, records)) for row in table.rows)
    )
    if form == "csv":
        return comma_separated(clean).encode()
    made = {"html": pages.page, "md": markdown.text, "tex": latex.text}[form]
    return made(clean, found).encode()


def facts(table: Table, records: Sequence[Record], home: Path | None) -> Facts:
    """What the runs of the table's rows say."""
    held = {row.variant: [_record(records, row.variant, seed) for seed in row.seeds] for row in table.rows}
    runs = [run(record, table.metrics, home) for some in held.values() for record in some]
    names = list(dict.fromkeys([*table.metrics, "train/loss"]))
    found = {
        name: {variant: curve for variant, some in held.items()
               if (curve := drawing.curve([record.history for record in some], name)) and len(curve.steps) > 1}
        for name in names
    }  # fmt: skip
    samples = {variant: text for variant, some in held.items() if (text := sample(some[0]))}
    return Facts(
        table.question, runs, {variant: costs.mean(some) for variant, some in held.items()},
        {name: some for name, some in found.items() if some}, samples, _placed(table.marks, records),
    )  # fmt: skip


def run(record: Record, metrics: Sequence[str], home: Path | None) -> Run:
    """A line of the list of runs."""
    manifest = record.manifest
    code = (manifest.get("code") or {}).get("lmjax") or {}
    commit = str(code.get("commit", "unknown"))[:10] + ("+" if code.get("dirty") else "")
    return Run(
        str(record.variant), record.seed, link(record, home), tuple(float(record.metrics[name]) for name in metrics),
        int(manifest["result"]["step"]), costs.duration(float(manifest.get("wall_seconds") or 0)),
        str(manifest["config_hash"])[:10], commit,
    )  # fmt: skip


def link(record: Record, home: Path | None) -> str:
    """To the manifest of a run, relative to `home`."""
    if home is None:
        return f"{folder_of(str(record.variant))}/seed{record.seed}/manifest.json"
    return Path(os.path.relpath(record.folder / "manifest.json", home)).as_posix()


def sample(record: Record) -> str:
    """The beginning of the last text that the run wrote while it trained; "" without one."""
    paths = sorted((record.folder / "samples").glob("*.txt"))
    if not paths:
        return ""
    text = paths[-1].read_text("utf-8", errors="replace")
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} …"


def comma_separated(table: Table) -> str:
    """A line for every variant and metric, in full precision; nothing that the clock decides."""
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow(["study", "variant", "metric", "n", "seeds", "values", "mean", "t_low", "t_high", "bootstrap_low",
                  "bootstrap_high", "deviation", "pairs", "difference", "difference_low", "difference_high", "effect",
                  "p", "p_holm", "marks"])  # fmt: skip
    for row in table.rows:
        for cell in row.cells:
            apart = ["", "", ""] if cell.difference is None else [repr(value) for value in cell.difference]
            rest = ["" if value is None else repr(value) for value in (cell.effect, cell.p, cell.holm)]
            out.writerow(
                [table.study, row.variant, cell.metric, cell.n, " ".join(map(str, row.seeds)),
                 " ".join(map(repr, cell.values)), *map(repr, cell.mean), *map(repr, cell.bootstrap[1:]),
                 repr(cell.deviation), cell.pairs, *apart, *rest, "; ".join(row.marks)]
            )  # fmt: skip
    return file.getvalue()


def values(table: Table, one: Run, places: Sequence[int]) -> list[str]:
    """The metrics of a run, one digit more than their means."""
    return [number(value, more + 1) for value, more in zip(one.values, places, strict=True)]


def _record(records: Sequence[Record], variant: str, seed: int) -> Record:
    """The run of a cell; of several, the one whose numbers the table has."""
    found = [record for record in records if record.variant == variant and record.seed == seed]
    return min(found, key=lambda record: str(record.folder))


def _placed(marks: Sequence[str], records: Sequence[Record]) -> tuple[str, ...]:
    """The marks with every run's folder as VARIANT/seedN, wherever the workspace is."""
    for record in sorted(records, key=lambda record: -len(str(record.folder))):
        marks = [mark.replace(str(record.folder), "/".join(record.folder.parts[-2:])) for mark in marks]
    return tuple(marks)
