"""Tables, curves and a confusion matrix as HTML and SVG, without any script or file beside them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from lmjax.evaluate.curves import Calibration, Roc
from lmjax.evaluate.intervals import Estimate

SIDE, EDGE = 300, 44  # pixels of a plot, and of its margin
COLOURS = ("#3465a4", "#cc5500", "#2e8b57", "#a0307a", "#8a6d00", "#007c8a", "#b03030", "#5b4fb0")
MOST_CURVES, MOST_CLASSES = 8, 40  # of classes that are drawn
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } .about { color: #555; }
table { border-collapse: collapse; margin: .5rem 0; } th { text-align: left; font-weight: 600; }
td, th { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; } figcaption { color: #555; }
.confusion td, .confusion th { padding: .25rem .45rem; border: 1px solid #fff; text-align: right; font-size: 13px; }
.confusion th.column { writing-mode: vertical-rl; transform: rotate(180deg); font-weight: 400; text-align: left; }
.confusion th.row { font-weight: 400; } .example { margin: 1rem 0; border-left: 3px solid #ddd; padding-left: .8rem; }
.example dt { color: #555; font-size: 13px; } .example dd { margin: 0 0 .3rem 0; white-space: pre-wrap; }
.scroll { overflow-x: auto; }
"""


def page(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page of its own: sections are of a heading and HTML; empty ones are left out."""
    parts = "\n".join(f"<h2>{html.escape(heading)}</h2>\n{body}" for heading, body in sections if body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>"
        f'<p class="about">{html.escape(about)}</p>\n{parts}\n</body></html>\n'
    )


def estimates(metrics: Mapping[str, Estimate]) -> str:
    """A row a metric: value, 95 % interval, standard error, examples."""
    rows = [
        [name, number(one.value), interval(one), number(one.error), f"{one.count:,}"] for name, one in metrics.items()
    ]
    return table(("metric", "value", "95 % interval", "standard error", "examples"), rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    if not rows:
        return ""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["", *[' class="number"'] * (len(cells) - 1)]
        return "<tr>" + "".join(f"<{tag}{kind}>{html.escape(str(cell))}</{tag}>"
                                for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"  # fmt: skip

    return "<table>" + line(heads, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def number(value: float) -> str:
    """Four significant digits, at least two behind the point of small numbers; a dash for nan."""
    if value != value:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def interval(one: Estimate) -> str:
    return "–" if one.low != one.low else f"{number(one.low)} to {number(one.high)}"


def roc_curves(rocs: Mapping[str, Roc]) -> str:
    """The curves of at most eight classes, those with the smallest area first."""
    worst = sorted(rocs, key=lambda name: rocs[name].area)[:MOST_CURVES]
    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{_points(*_thinned(rocs[name]))}">'
        f"<title>{html.escape(name)}: {rocs[name].area:.4f}</title></polyline>"
        for name, colour in zip(worst, COLOURS, strict=False)
    )
    legend = "".join(
        f'<text x="{EDGE + SIDE - 6}" y="{EDGE + SIDE - 12 - 15 * i}" fill="{colour}" text-anchor="end">'
        f"{html.escape(name[:24])} {rocs[name].area:.3f}</text>"
        for i, (name, colour) in enumerate(zip(worst, COLOURS, strict=False))
    )
    note = f", the {MOST_CURVES} smallest areas of {len(rocs)}" if len(rocs) > MOST_CURVES else ""
    return _figure(lines + legend, "share of false positives", "share of true positives", f"ROC curves{note}")


def reliability(calibration: Calibration) -> str:
    """How often what was said with a confidence is right, by bins; the area of a dot is its share of the examples."""
    kept = calibration.count > 0
    x, y, count = calibration.confidence[kept], calibration.accuracy[kept], calibration.count[kept]
    dots = "".join(
        f'<circle cx="{_x(a):.1f}" cy="{_y(b):.1f}" r="{2 + 11 * (n / count.sum()) ** 0.5:.1f}" fill="{COLOURS[0]}" '
        f'fill-opacity="0.55"><title>confidence {a:.3f}, right {b:.3f}, {n:,} examples</title></circle>'
        for a, b, n in zip(x, y, count.tolist(), strict=True)
    )
    line = f'<polyline fill="none" stroke="{COLOURS[0]}" points="{_points(x, y)}"/>'
    return _figure(line + dots, "confidence", "share that is right", "calibration")


def confusion(confusion_cc: np.ndarray, names: Sequence[str]) -> str:
    """Rows are true classes, columns guesses; the colour is the share of the row. Of many classes the most frequent."""
    shown = np.sort(np.argsort(-confusion_cc.sum(axis=1), kind="stable")[:MOST_CLASSES])
    total_c = np.maximum(confusion_cc.sum(axis=1), 1)
    heads = "".join(f'<th class="column">{html.escape(names[j][:24])}</th>' for j in shown)
    rows = []
    for i in shown:
        cells = ""
        for j in shown:
            share, count = confusion_cc[i, j] / total_c[i], int(confusion_cc[i, j])
            colour = "46,139,87" if i == j else "204,85,0"
            cells += f'<td style="background:rgba({colour},{0.85 * share:.3f})">{count or ""}</td>'
        rows.append(f'<tr><th class="row">{html.escape(names[i][:32])}</th>{cells}</tr>')
    note = f"<p>The {MOST_CLASSES} most frequent of {len(names)} classes.</p>" if len(names) > MOST_CLASSES else ""
    return (f'{note}<div class="scroll"><table class="confusion"><tr><th></th>{heads}</tr>{"".join(rows)}</table></div>'
            "<p class='about'>Rows: what it is. Columns: what it was taken for.</p>")  # fmt: skip


def examples(worst: Sequence[tuple[str, Mapping[str, str], str]]) -> str:
    """What is to be said of an example, its texts by name, and its image as a link or "" where there is none."""
    parts = []
    for about, texts, image in worst:
        picture = f'<dd><img src="{html.escape(image)}" alt="" style="image-rendering:pixelated" height="96"></dd>'
        shown = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in texts.items())
        parts.append(f'<div class="example">{html.escape(about)}<dl>{picture if image else ""}{shown}</dl></div>')
    return "".join(parts)


def _figure(inside: str, x: str, y: str, caption: str) -> str:
    size, end = SIDE + 2 * EDGE, EDGE + SIDE
    ticks = "".join(
        f'<text x="{_x(at):.0f}" y="{end + 16}" text-anchor="middle">{at:g}</text>'
        f'<text x="{EDGE - 6}" y="{_y(at) + 4:.0f}" text-anchor="end">{at:g}</text>'
        f'<path d="M{EDGE} {_y(at):.1f}H{end}M{_x(at):.1f} {EDGE}V{end}" stroke="#eee"/>'
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<figure><svg width="{size}" height="{size}" viewBox="0 0 {size} {size}" font-family="system-ui, sans-serif" '
        f'font-size="11" fill="#444" role="img">{ticks}<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" '
        f'fill="none" stroke="#999"/><path d="M{EDGE} {end}L{end} {EDGE}" stroke="#bbb" stroke-dasharray="4 4"/>{inside}'
        f'<text x="{EDGE + SIDE / 2}" y="{size - 8}" text-anchor="middle">{x}</text>'
        f'<text x="12" y="{EDGE + SIDE / 2}" text-anchor="middle" transform="rotate(-90 12 {EDGE + SIDE / 2})">{y}</text>'
        f"</svg><figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _thinned(roc: Roc, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a curve, its ends among them."""
    kept = np.unique(np.linspace(0, len(roc.false_positives) - 1, most).astype(int))
    return roc.false_positives[kept], roc.true_positives[kept]


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in zip(x, y, strict=True))


def _x(share: float) -> float:
    return EDGE + SIDE * share


def _y(share: float) -> float:
    return EDGE + SIDE * (1 - share)
