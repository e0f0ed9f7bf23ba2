"""A study's table as LaTeX with booktabs: a document that compiles, whose `table` can be pasted into another."""

from __future__ import annotations

from lmjax.study import costs, report
from lmjax.study.table import Row, Table
from lmjax.study.wording import changed, columns, heads, is_seen

SIGNS = {"\\": r"\textbackslash{}", "−": "$-$", "–": "--", "…": r"\ldots{}", "→": r"$\to$", "±": r"$\pm$", "×": r"$\times$",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "·": r"$\cdot$",
         "|": r"$|$"}  # fmt: skip
SIGNS |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
SHORT = {"95 % interval (t)": r"95\,\% CI ($t$)", "95 % interval (bootstrap)": r"95\,\% CI (bootstrap)",
         "95 % interval of it": r"95\,\% CI", "difference": r"$\Delta$", "effect g": "$g$", "p": "$p$",
         "p (Holm)": r"$p_\mathrm{Holm}$", "n": "$n$"}  # fmt: skip


def text(table: Table, facts: report.Facts) -> str:
    """A landscape page: a table a metric with its notes, what each variant changes, and what a run costs."""
    body = [r"\section*{" + plain(table.study) + "}", plain(table.question), ""]
    if table.marks:
        body += [r"\paragraph{" + plain(report.SUSPECT) + ".}", " ".join(f"{plain(mark)}." for mark in table.marks), ""]
    body += [line for at in range(len(table.metrics)) for line in measured(table, at)]
    body += [r"\paragraph{Notes.}", " ".join(map(plain, table.notes)), ""]
    if any(row.changes for row in table.rows):
        body += floating(
            "llll", ["variant", "leaf", plain(table.baseline), "variant's"],
            [[plain(row.variant), rf"\texttt{{{plain(path)}}}", plain(old), plain(new)]
             for row in table.rows for path, old, new in changed(row.changes)],
            "What each variant changes.", "changes",
        )  # fmt: skip
    said = {variant: costs.said(one) for variant, one in facts.costs.items()}
    names = list(next(iter(said.values())))
    body += floating("l" + "r" * len(names), ["variant", *map(plain, names)],
                     [[plain(variant), *map(plain, words.values())] for variant, words in said.items()],
                     f"Cost of a run. {plain(costs.NOTE)}", "costs")  # fmt: skip
    return "\n".join([*BEFORE, *body, r"\end{document}", ""])


def measured(table: Table, at: int) -> list[str]:
    """The table of one metric."""
    names, rows = heads(table, at), []
    for row in table.rows:
        words = [plain(word) for word in columns(table, row.cells[at], at)]
        words[1] = rf"\textbf{{{words[1]}}}" if is_seen(row.cells[at]) else words[1]
        rows.append([plain(row.variant) + mark(row), *words])
    caption = f"{plain(table.question)} {plain(table.metrics[at])}, with 95\\,\\% intervals over seeds"
    caption += f"; differences to {plain(table.baseline)}, paired by seed" if "difference" in names else ""
    bold = any(is_seen(row.cells[at]) for row in table.rows)
    caption += r". Bold: $p_\mathrm{Holm} < 0.05$." if bold else "."
    label = "".join(sign for sign in table.metrics[at] if sign.isalnum())
    return floating(
        "l" + "r" * len(names), ["variant", *(SHORT.get(name, name) for name in names)], rows, caption, label
    )


def floating(columns: str, heads: list[str], rows: list[list[str]], caption: str, label: str) -> list[str]:
    lines = [" & ".join(words) + r" \\" for words in (heads, *rows)]
    return [r"\begin{table}[htbp]", r"\centering\small", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
            r"\end{tabular}", r"\end{table}", ""]  # fmt: skip


def mark(row: Row) -> str:
    return r"\textsuperscript{*}" if row.marks else ""


def plain(text: str) -> str:
    """Text of others, every sign as itself; those that pdfLaTeX cannot print, as a question mark."""
    signs = " ".join(str(text).split())
    return "".join(SIGNS.get(sign, sign if _is_printed(sign) else "?") for sign in signs)


def _is_printed(sign: str) -> bool:
    """Whether the T1 fonts have it: ASCII, and Latin letters but for a few."""
    return sign.isascii() and sign.isprintable() or sign.isalpha() and ord(sign) < 0x180 and sign not in "ĦħĸĿŀŉŦŧſ"


BEFORE = [
    r"\documentclass[10pt,landscape]{article}", r"\usepackage[utf8]{inputenc}", r"\usepackage[T1]{fontenc}",
    r"\usepackage{booktabs}", r"\usepackage[a4paper,landscape,margin=18mm]{geometry}", r"\begin{document}",
]  # fmt: skip
