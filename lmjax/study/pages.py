"""A study's report as one HTML page: style and figures are in it, so that it needs no other file and no network."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from lmjax.study import costs, drawing, report
from lmjax.study.table import Table
from lmjax.study.wording import changed, columns, decimals, heads, is_seen

DESK, PHONE = 860, 360  # widths for which every figure is drawn
escaped = functools.partial(html.escape, quote=True)


def page(table: Table, facts: report.Facts) -> str:
    """The page."""
    style = (Path(__file__).parent / "report.css").read_text("utf-8")
    title = escaped(f"{table.study}: {table.question}")
    seeds = sorted({len(row.seeds) for row in table.rows})
    several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    what = f"{_count(len(table.rows), 'variant')}, {several} seed{'' if seeds == [1] else 's'} each, "
    body = [
        f'<p class="study">{escaped(table.study)}</p>\n<h1>{escaped(table.question)}</h1>\n',
        f'<p class="quiet">{what}{_count(len(facts.runs), "run")}.</p>\n',
        warning(table),
        *(measured(table, at) for at in range(len(table.metrics))),
        f'<ul class="notes">\n{"".join(f"<li>{escaped(note)}</li>{chr(10)}" for note in table.notes)}</ul>\n',
        learning(facts),
        differences(table),
        spent(table, facts),
        samples(facts),
        runs(table, facts),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n<meta name="viewport" '
        f'content="width=device-width, initial-scale=1">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        f"{''.join(body)}</main>\n</body>\n</html>\n"
    )


def warning(table: Table) -> str:
    """Why not to trust the page, where somebody insisted on it."""
    if not table.marks:
        return ""
    items = "".join(f"<li>{escaped(mark)}</li>" for mark in table.marks)
    return f'<div class="warn" role="alert"><strong>{report.SUSPECT}:</strong><ul>{items}</ul></div>\n'


def measured(table: Table, at: int) -> str:
    """A figure and the table of one metric."""
    cells = {row.variant: row.cells[at] for row in table.rows}
    bars = [drawing.Bar(name, *one.mean, one.values) for name, one in cells.items()]
    caption = f"{table.metrics[at]}: means with 95 % intervals (Student's t), and each seed as a dot."
    figure = _figure(lambda width: drawing.intervals(bars, width=width, title=table.metrics[at], zero=False), caption)
    apart = [drawing.Bar(name, *one.difference, ()) for name, one in cells.items() if one.difference is not None]
    if any(math.isfinite(bar.low) for bar in apart):
        said = f"Difference to {table.baseline}, paired by seed"
        figure += _figure(lambda width: drawing.intervals(apart, width=width, title=said, zero=True),
                          f"{said}, with 95 % intervals not corrected for the number of comparisons.")  # fmt: skip
    rows, names = [], heads(table, at)
    for row in table.rows:
        to, inner = f"#{_anchor(row.variant)}", ""
        for head, word in zip(names, columns(table, row.cells[at], at), strict=True):
            bold = head == "mean" and is_seen(row.cells[at])
            kind = " class=seen" if bold else " class=ci" if "interval" in head else ""
            inner += f"<td{kind}>{_linked(word, to)}</td>"
        star = ' <abbr title="marked: see above">*</abbr>' if row.marks else ""
        rows.append(f'<tr><th scope="row">{escaped(row.variant)}{star}</th>{inner}</tr>\n')
    seen = any(is_seen(one) for one in cells.values())
    under = '<p class="quiet">Bold: p (Holm) below 0.05.</p>\n' if seen else ""
    return f"<h2>{escaped(table.metrics[at])}</h2>\n{_table(['variant', *names], rows)}{under}{figure}"


def learning(facts: report.Facts) -> str:
    """The learning curves of every variant, a figure for each metric."""
    made = []
    for metric, found in facts.curves.items():
        legend = "".join(f'<li class="{drawing.look(i)}">{escaped(name)}</li>' for i, name in enumerate(found))
        caption = (
            f"{metric}: mean over seeds, with a band from the lowest seed to the highest. The first tenth of the steps may "
            "run out of the picture."
        )
        made.append(f'<ul class="legend">{legend}</ul>\n' + _figure(
            lambda width, found=found, metric=metric: drawing.curves(found, width=width, title=metric), caption))  # fmt: skip
    return f"<h2>Learning curves</h2>\n{''.join(made)}" if made else ""


def differences(table: Table) -> str:
    """What each variant changes in the baseline's config."""
    rows = [
        f'<tr><th scope="row">{escaped(row.variant)}</th><td><code>{escaped(path)}</code></td><td>{escaped(old)}</td>'
        f"<td>{escaped(new)}</td></tr>\n"
        for row in table.rows for path, old, new in changed(row.changes)
    ]  # fmt: skip
    if not rows:
        return ""
    return "<h2>What each variant changes</h2>\n" + _table(
        ["variant", "leaf", table.baseline, "variant’s"], rows, "texts"
    )


def spent(table: Table, facts: report.Facts) -> str:
    """Parameters, FLOPs, time and energy of a run of each variant."""
    said = {variant: costs.said(one) for variant, one in facts.costs.items()}
    rows = [
        f'<tr><th scope="row">{escaped(variant)}</th>'
        + "".join(f"<td>{_linked(word, f'#{_anchor(variant)}')}</td>" for word in words.values()) + "</tr>\n"
        for variant, words in said.items()
    ]  # fmt: skip
    names = ["variant", *next(iter(said.values()))]
    return f'<h2>Cost of a run</h2>\n{_table(names, rows)}<p class="quiet">{escaped(costs.NOTE)}</p>\n'


def samples(facts: report.Facts) -> str:
    if not facts.samples:
        return ""
    each = "".join(f"<figure><figcaption>{escaped(name)}</figcaption><blockquote dir=auto>{escaped(text)}</blockquote></figure>\n"
                   for name, text in facts.samples.items())  # fmt: skip
    return f'<h2>Samples</h2>\n<p class="quiet">The last that the first seed of each variant wrote.</p>\n{each}'


def runs(table: Table, facts: report.Facts) -> str:
    """Every run, its numbers linked to its manifest; the first of a variant is where its means lead."""
    places = [decimals(table, at) for at in range(len(table.metrics))]
    rows, before = [], None
    for one in facts.runs:
        to = quote(one.link)
        name = f' id="{_anchor(one.variant)}"' if one.variant != before else ""
        before = one.variant
        words = [str(one.seed), *report.values(table, one, places), str(one.step), one.time, one.config, one.commit]
        inner = "".join(f"<td>{_linked(word, to)}</td>" for word in words)
        rows.append(f'<tr{name}><th scope="row">{escaped(one.variant)}</th>{inner}</tr>\n')
    names = ["variant", "seed", *table.metrics, "steps", "time", "config", "commit"]
    note = (
        "Each number leads to the manifest of its run; + is a commit with changes, which the manifest holds. "
        f"lmjax sweep {table.study} makes them all again, lmjax reproduce RUN one of them."
    )
    return f'<h2>Runs</h2>\n{_table(names, rows)}<p class="quiet">{escaped(note)}</p>\n'


def _figure(draw: Callable[[int], str], caption: str) -> str:
    """Drawn twice, for a wide and a narrow window: text keeps its size."""
    return (f'<figure><div class="desk">{draw(DESK)}</div><div class="phone">{draw(PHONE)}</div>'
            f"<figcaption>{escaped(caption)}</figcaption></figure>\n")  # fmt: skip


def _table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    top = "".join(f'<th scope="col">{escaped(head)}</th>' for head in heads)
    return (f'<div class="wide" tabindex="0"><table{f" class={kind}" if kind else ""}>\n<thead><tr>{top}</tr></thead>\n'
            f"<tbody>\n{''.join(rows)}</tbody></table></div>\n")  # fmt: skip


def _linked(word: str, to: str) -> str:
    return f'<a href="{escaped(to)}">{escaped(word)}</a>' if word else ""


def _anchor(variant: str) -> str:
    return "runs-" + variant.replace("/", ".")


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
