"""What an evaluation leaves: a table in the terminal, evaluation.json, evaluation.html and worst.md in the run directory."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lmjax import __version__, atomic, seal
from lmjax.evaluate import page
from lmjax.evaluation.report import Evaluation

NAMES = ("evaluation.json", "evaluation.html", "worst.md")
SHOWN_CLASSES = 20  # in the terminal


def as_json(found: Evaluation, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, without the examples; sha256 is of all the rest, for those who take numbers from it."""
    report: dict[str, Any] = {
        **facts,
        "lmjax": __version__,
        "examples": found.examples,
        "unit": found.unit,
        **({"decoding": found.settings} if found.settings else {}),
        "objective": found.means,
        "metrics": {name: one._asdict() for name, one in found.metrics.items()},
        **({"signatures": found.signatures} if found.signatures else {}),
    }
    if found.classification is not None:
        one = found.classification
        bins = {name: getattr(one.calibration, name).tolist() for name in ("confidence", "accuracy", "count")}
        report |= {
            "classes": list(found.names),
            "per_class": one.per_class,
            "confusion": one.confusion_cc.tolist(),
            "calibration": bins,
            "roc": {name: {"false_positives": roc.false_positives.tolist(), "true_positives": roc.true_positives.tolist(),
                           "area": roc.area} for name, roc in one.rocs.items()},
        }  # fmt: skip
    report |= {"per_kind": found.per_kind} if found.per_kind else {}
    return seal.stamped(report)


def write(folder: Path, found: Evaluation, facts: dict[str, Any]) -> None:
    """The three files, each whole or not at all."""
    atomic.write(folder / "evaluation.json", atomic.dumps(as_json(found, facts), indent=1) + "\n")
    atomic.write(folder / "evaluation.html", as_page(found, facts))
    atomic.write(folder / "worst.md", as_markdown(found, facts))


def as_page(found: Evaluation, facts: dict[str, Any]) -> str:
    """The evaluation as one page that needs no other file."""
    plots = per_class = confusion = ""
    if found.classification is not None:
        one = found.classification
        plots = f'<div class="plots">{page.roc_curves(one.rocs) if one.rocs else ""}{page.reliability(one.calibration)}</div>'
        heads = ("class", "precision", "recall", "f1", "roc_auc", "support")
        rows = [[name, *(page.number(scores.get(head, float("nan"))) for head in heads[1:-1]), f"{scores['support']:,}"]
                for name, scores in one.per_class.items()]  # fmt: skip
        per_class, confusion = page.table(heads, rows), page.confusion(one.confusion_cc, found.names)
    if found.per_kind:
        heads = ("kind", "precision", "recall", "f1", "support")
        per_class = page.table(heads, [[name, *(page.number(scores[head]) for head in heads[1:-1]), f"{scores['support']:,}"]
                                       for name, scores in found.per_kind.items()])  # fmt: skip
    examples = [(about, texts, "" if image is None else picture(image)) for about, texts, image in found.worst]
    computed = page.table(("metric", "computed by"), [[name, text] for name, text in found.signatures.items()])
    means = page.table(("objective", "mean"), [[name, page.number(value)] for name, value in found.means.items()])
    return page.page(
        f"Evaluation of {facts['run']}, step {facts['step']}",
        about(found, facts),
        [("Metrics", page.estimates(found.metrics)), ("Objective", means), ("Curves", plots), ("Classes", per_class),
         ("Confusion", confusion), ("Computed by", computed), ("Worst examples", page.examples(examples))],
    )  # fmt: skip


def as_markdown(found: Evaluation, facts: dict[str, Any]) -> str:
    """The worst examples for reading."""
    lines = [f"# The worst of {found.examples:,} {found.unit}", "", about(found, facts), ""]
    for number, one in enumerate(found.worst, start=1):
        lines += [f"## {number}. {one.about}", ""]
        if one.image is not None:
            lines += [f"![]({picture(one.image)})", ""]
        for name, text in one.texts.items():
            quoted = "\n".join(f"    {line}" for line in (text.splitlines() or [""]))
            lines += [f"{name}:", "", quoted, ""]
    return "\n".join(lines)


def about(found: Evaluation, facts: dict[str, Any]) -> str:
    """A sentence on what was evaluated."""
    settings = ", ".join(str(value) if name == "decoding" else f"{name.replace('_', ' ')} {value}"
                         for name, value in found.settings.items())  # fmt: skip
    said = f"{found.examples:,} {found.unit} of the validation split of {facts['data']}, data.kind={facts['kind']}"
    return said + (f"; {settings}" if settings else "") + "."


def show(console: Console, found: Evaluation) -> None:
    """The table of metrics, and that of the classes where there are a few."""
    if found.metrics:
        table = Table("metric", box=None, pad_edge=False, header_style="dim")
        for name in ("value", "95 % interval", "error"):
            table.add_column(name, justify="right")
        for name, one in found.metrics.items():
            table.add_row(name, page.number(one.value), page.interval(one), page.number(one.error))
        console.print(table)
    if found.classification is not None and len(found.names) <= SHOWN_CLASSES:
        table = Table("class", box=None, pad_edge=False, header_style="dim")
        for name in ("precision", "recall", "f1", "support"):
            table.add_column(name, justify="right")
        for name, scores in found.classification.per_class.items():
            table.add_row(
                name, *(f"{scores[score]:.3f}" for score in ("precision", "recall", "f1")), f"{scores['support']:,}"
            )
        console.print()
        console.print(table)
    for text in sorted(set(found.signatures.values())):
        console.print(text, style="dim", markup=False)


def picture(image: np.ndarray) -> str:
    """A uint8 (h, w, 3) image as a data: address of a PNG."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
