"""Numbers of a table as a reader sees them: as many decimals as their interval lets one believe. For every form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lmjax.study.table import Cell, Estimate, Table

MINUS = "−"


def decimals(table: Table, at: int) -> int:
    """Of the column of metric `at`: two digits of its narrowest interval, from 2 to 6; 4 without intervals."""
    cells = [row.cells[at] for row in table.rows]
    halves = [(one.high - one.low) / 2 for cell in cells for one in (cell.mean, cell.difference) if one is not None]
    halves = [half for half in halves if math.isfinite(half) and half > 0]
    return min(6, max(2, 1 - math.floor(math.log10(min(halves))))) if halves else 4


def number(value: float | None, places: int, *, signed: bool = False) -> str:
    """-0.0123 -> −0.012; "" of none, a dash of what is not a number."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{places}f}"
    return text.replace("-", MINUS)


def interval(one: Estimate | None, places: int, *, signed: bool = False) -> str:
    """[1.93, 1.97]; "" where there is none."""
    if one is None or not (math.isfinite(one.low) and math.isfinite(one.high)):
        return ""
    return f"[{number(one.low, places, signed=signed)}, {number(one.high, places, signed=signed)}]"


def probability(p: float | None) -> str:
    """0.0312 -> 0.031, 1e-9 -> < 0.001."""
    if p is None or math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def heads(table: Table, at: int) -> list[str]:
    """Of the columns of one metric in every form; those that would be empty are left out."""
    return list(_columns(table, at))


def columns(table: Table, cell: Cell, at: int) -> list[str]:
    """The words of a cell under `heads`."""
    return [word(cell) for word in _columns(table, at).values()]


def _columns(table: Table, at: int) -> dict[str, Callable[[Cell], str]]:
    places, cells = decimals(table, at), [row.cells[at] for row in table.rows]
    found: dict[str, Callable[[Cell], str]] = {
        "n": lambda cell: str(cell.n),
        "mean": lambda cell: number(cell.mean.value, places),
        "95 % interval (t)": lambda cell: interval(cell.mean, places),
        "95 % interval (bootstrap)": lambda cell: interval(cell.bootstrap, places),
        "difference": lambda cell: number(cell.difference and cell.difference.value, places, signed=True),
        "95 % interval of it": lambda cell: interval(cell.difference, places, signed=True),
        "effect g": lambda cell: number(cell.effect, 2, signed=True),
        "p": lambda cell: probability(cell.p),
        "p (Holm)": lambda cell: probability(cell.holm),
    }
    return {head: word for head, word in found.items() if any(word(cell).strip("–") for cell in cells)}


def is_seen(cell: Cell) -> bool:
    """Whether the corrected p is below 0.05."""
    return cell.holm is not None and cell.holm < 0.05


def changed(changes: Sequence[tuple[str, object, object]]) -> list[tuple[str, str, str]]:
    """(path, baseline, here) in words."""
    return [(path, shown(old), shown(new)) for path, old, new in changes]


def shown(value: object) -> str:
    return "none" if value is None else "(absent)" if value is ... else str(value)


def aligned(made: Table) -> str:
    """A table as aligned columns: of every metric the mean with its 95 % interval, and the difference with p."""
    rows = [["variant", "n"]]
    for metric in made.metrics:
        rows[0] += [metric, f"- {made.baseline}", "p (Holm)"]
    for row in made.rows:
        rows.append([row.variant, f"{len(row.seeds)}"] + [word for cell in row.cells for word in _words(cell)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([made.question, *lines, *made.notes])


def _words(cell: Cell) -> list[str]:
    """The mean, the difference to the baseline and its corrected p; "" for what there is none of."""
    difference = "" if cell.difference is None else _estimate(cell.difference, "+")
    return [_estimate(cell.mean), difference, "" if cell.holm is None or math.isnan(cell.holm) else f"{cell.holm:.3g}"]


def _estimate(value: Estimate, sign: str = "") -> str:
    """1.2345 [1.2001, 1.2689]; without the interval where too few seeds give none."""
    number = f"{value.value:{sign}.4f}"
    return number if math.isnan(value.low) else f"{number} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
