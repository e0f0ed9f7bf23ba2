"""A study's report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lmjax.study import costs, report
from lmjax.study.table import Table
from lmjax.study.wording import changed, columns, decimals, heads, is_seen


def text(table: Table, facts: report.Facts) -> str:
    """The whole report: the question, a table a metric, what each variant changes, costs, samples and runs."""
    lines = [f"# {plain(table.study)}", "", plain(table.question), ""]
    if table.marks:
        lines += [f"**{report.SUSPECT}:**", "", *(f"- {plain(mark)}" for mark in table.marks), ""]
    for at, metric in enumerate(table.metrics):
        rows = []
        for row in table.rows:
            words = columns(table, row.cells[at], at)
            words[1] = f"**{words[1]}**" if is_seen(row.cells[at]) else words[1]
            rows.append([plain(row.variant) + (" (marked)" if row.marks else ""), *words])
        lines += [f"## {plain(metric)}", "", *grid(["variant", *heads(table, at)], rows), ""]
    lines += [*(f"- {plain(note)}" for note in table.notes), ""]
    lines += ["Bold: p (Holm) below 0.05.", ""] if any(is_seen(c) for row in table.rows for c in row.cells) else []
    rows = [[plain(row.variant), f"`{path}`", plain(old), plain(new)]
            for row in table.rows for path, old, new in changed(row.changes)]  # fmt: skip
    if rows:
        lines += [
            "## What each variant changes",
            "",
            *grid(["variant", "leaf", table.baseline, "variant's"], rows, 0),
            "",
        ]
    said = {variant: costs.said(one) for variant, one in facts.costs.items()}
    rows = [[plain(variant), *words.values()] for variant, words in said.items()]
    lines += ["## Cost of a run", "", *grid(["variant", *next(iter(said.values()))], rows), "", costs.NOTE, ""]
    if facts.samples:
        lines += [
            "## Samples",
            "",
            *(f"- *{plain(name)}*: {plain(words)}" for name, words in facts.samples.items()),
            "",
        ]
    places = [decimals(table, at) for at in range(len(table.metrics))]
    rows = [[f"[{plain(one.variant)}, seed {one.seed}]({one.link.replace(' ', '%20')})",
             *report.values(table, one, places), str(one.step), one.time, f"`{one.config}`", f"`{one.commit}`"]
            for one in facts.runs]  # fmt: skip
    names = ["run", *table.metrics, "steps", "time", "config", "commit"]
    return "\n".join([*lines, "## Runs", "", *grid(names, rows), ""])


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None) -> list[str]:
    """A table whose first column is text, and the others numbers; `numbers` 0: all are text."""
    align = ["---", *("---" if numbers == 0 else "--:" for _ in heads[1:])]
    return [f"| {' | '.join(words)} |" for words in (heads, align, *rows)]


def plain(text: str) -> str:
    """Text of others as text of Markdown: none of its signs may become markup."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]#|<>~" else sign for sign in " ".join(str(text).split()))
