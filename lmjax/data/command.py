"""`lmjax data ...`: prepare data, and look at what was prepared: its numbers, and its rows as the model reads them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmjax.data import card, row_view, store
from lmjax.data.beam import Beam
from lmjax.data.examples import Form
from lmjax.data.loader import Dataset, open_dataset
from lmjax.data.tokenizers import report
from lmjax.environment import cache_root
from lmjax.errors import UserError

BAR = 40  # characters of the longest bar
LABELS = 30  # that are listed


def console() -> Console:
    """Standard output; a pipe is as wide as it likes."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, width=160, soft_wrap=True)


def build(config: Any, workers: int | None, beam: Sequence[str] | None = None, words: Sequence[str] = ()) -> None:
    """Prepares config.data, or finds it prepared, and says what it is. beam: the options of its runner, none without;
    words: what the user named it by, for what to type next."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: at least 1")
    if beam is not None:
        if workers is not None:
            raise UserError(f"--workers={workers} is of this machine; with --beam say -- --direct_num_workers={workers}, "
                            "or what your runner calls it")  # fmt: skip
        workers = Beam(tuple(beam))
    out = console()
    dataset = open_dataset(config.data, config.seed, _say(out), workers=workers)
    out.print(_splits(dataset))
    out.print(f"fingerprint {dataset.fingerprint}")
    if (page := _folder(dataset) / card.PAGE).exists():  # not in what an older lmjax prepared
        out.print(f"card        {escape(str(page))}")
    same = shlex.join(words or [config.data.source])
    out.print(f"[dim]next:  lmjax data show {escape(same)}   |   lmjax data stats {escape(same)}[/]")


def stats(config: Any) -> None:
    """Tables of what prepared data holds; it is prepared now when it is not there."""
    out = console()
    dataset = open_dataset(config.data, config.seed, _say(out))
    out.print(_facts(config, dataset))
    out.print(_splits(dataset))
    read = dataset.stats["read"]
    removed = {"empty": read["empty"]} if read["empty"] else {}
    for kind, counts in dataset.stats.get("cleaning", {}).items():
        removed |= {f"{name} ({kind})": count for name, count in counts.items()} if isinstance(counts, dict) else {}
    removed |= {f"label {label} (never in training)": n for label, n in dataset.stats.get("unseen_labels", {}).items()}
    removed |= {why: sum(found.values()) for why, found in dataset.stats.get("left_out", {}).items()}
    if cut := sum(dataset.stats.get("cut", {}).values()):
        removed["cut at the end of a row"] = cut
    if removed:
        table = _table("cleaning", "records")
        for name, count in sorted(removed.items()):
            if count:
                table.add_row(escape(name), f"{count:,}")
        out.print(table)
    if "label_counts" in dataset.stats:
        out.print(_labels(dataset))
    if dataset.tokenizer:
        out.print(_histogram(np.concatenate([dataset.train.documents.lengths, dataset.valid.documents.lengths])))


def show(config: Any, number: int, split: str) -> None:
    """Row `number` of a split: its image, its label, and each document of it in a colour, with the borders of its tokens."""
    out = console()
    dataset = open_dataset(config.data, config.seed, _say(out))
    rows = dataset.train if split == "train" else dataset.valid
    if number < 0:
        raise UserError(f"row {number}: rows are numbered from 0")
    if split == "valid" and number >= len(rows):
        raise UserError(f"row {number}: the validation split has {len(rows)} rows, 0 to {len(rows) - 1}")
    for line in row_view.lines(dataset, rows.row(number), f"[bold]row {number}[/] of {split}", out):
        out.print(line)


def listing() -> None:
    """The packaged corpora: what they hold, under which licence, and whether they are here."""
    from lmjax.data import corpora

    out = console()
    table = _table("corpus", "kind", "records", "MB", "here", "licence", "citation")
    for row in corpora.listing():
        here = "[green]yes[/]" if row["state"] != "missing" else "[dim]no[/]"
        table.add_row(
            f"[bold cyan]{escape(row['name'])}[/]",
            row["kind"],
            ", ".join(f"{count:,}{'' if split == 'all' else f' {split}'}" for split, count in row["records"].items()),
            str(row["megabytes"]),
            here,
            *(escape(str(row[key])) for key in ("licence", "citation")),
        )
    out.print(table)
    out.print("\n[dim]next:  lmjax data fetch NAME   |   lmjax data build NAME   |   lmjax data build my/folder[/]")


def fetch(name: str) -> None:
    """Gets a packaged corpus, checks it, and says where it is."""
    from lmjax.data import fetch as fetching

    fetching.fetch(name, _say(console()))


def tokenizer(config: Any) -> None:
    """The tokenizer of config.data, trained when it must be, and what it makes of the text."""
    out = console()
    dataset = open_dataset(config.data, config.seed, _say(out))
    if dataset.tokenizer is None:
        raise UserError(f"data.kind={dataset.kind} has no text, and so no tokenizer")
    documents = dataset.valid.documents
    texts = [dataset.tokenizer.decode(documents.read(i, 0, int(n))) for i, n in enumerate(documents.lengths[:200])]
    out.print("[dim]of the validation split's first documents, at most 200:[/]")
    for name, value in report.report(dataset.tokenizer, texts).items():
        out.print(f"[cyan]{escape(name):<26}[/] {escape(value)}")


def _say(out: Console) -> Callable[[str], None]:
    return lambda line: out.print(escape(line))


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    return table


def _folder(dataset: Dataset) -> Path:
    return cache_root() / "data" / store.name(dataset.stats["made_from"])


def _facts(config: Any, dataset: Dataset) -> Table:
    source = dict(dataset.stats["source"])
    table = _table("", "")
    facts = {name: source[name] for name in ("name", "package", "version", "licence", "citation") if name in source}
    facts |= {"files": source["files"]} if "files" in source else {}
    facts |= {"kind": dataset.kind} if dataset.kind != "text" else {}
    facts |= {"images": f"{size} x {size} pixels"} if (size := dataset.stats.get("image_size")) else {}
    if dataset.tokenizer:
        facts |= {"tokenizer": f"{config.data.tokenizer}, {dataset.tokenizer.vocab_size:,} ids"}
    facts |= {"fingerprint": dataset.fingerprint, "folder": _folder(dataset)}
    for name, value in facts.items():
        table.add_row(f"[cyan]{name}[/]", escape(str(value)))
    return table


def _splits(dataset: Dataset) -> Table:
    if dataset.tokenizer is None:
        table = _table("split", "images")
        for name in ("train", "valid"):
            table.add_row(name, f"{dataset.stats[name]['documents']:,}")
        return table
    documents = "documents" if dataset.kind == "text" else dataset.kind
    table = _table("split", documents, "bytes", "tokens", "bytes a token", "rows", "filled")
    for column in table.columns[1:]:
        column.justify = "right"
    valid, marks = len(dataset.valid), Form(dataset.kind, choices=dataset.stats.get("choices", 0)).marks
    rows = {"train": getattr(dataset.train, "epoch_rows", None), "valid": valid}
    filled = {"train": getattr(dataset.train, "efficiency", None)}
    ends = getattr(dataset.valid, "tokens", 0) / max(1, valid * dataset.valid.length)
    filled["valid"] = getattr(dataset.valid, "efficiency", ends)
    for name in ("train", "valid"):
        split = dataset.stats[name]
        ratio = split["bytes"] / max(1, split["tokens"] - marks * split["documents"])
        counts = [f"{split[key]:,}" for key in ("documents", "bytes", "tokens")]
        shown = (
            "" if rows[name] is None else f"{rows[name]:,.0f}",
            "" if filled[name] is None else f"{filled[name]:.1%}",
        )
        table.add_row(name, *counts, f"{ratio:.2f}", *shown)
    return table


def _labels(dataset: Dataset) -> Table:
    """The most frequent labels in training, and how often each is in both splits."""
    table = _table("label", "train", "valid", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    counts = [dataset.stats["label_counts"][name] for name in ("train", "valid")]
    order = sorted(range(len(dataset.classes)), key=lambda i: -counts[0][i])
    for i in order[:LABELS]:
        bar = "█" * max(1, round(BAR * counts[0][i] / counts[0][order[0]]))
        table.add_row(escape(dataset.classes[i]), f"{counts[0][i]:,}", f"{counts[1][i]:,}", f"[cyan]{bar}[/]")
    if len(order) > LABELS:
        table.add_row(f"[dim]{len(order) - LABELS} more[/]")
    return table


def _histogram(lengths: np.ndarray) -> Table:
    """Documents by length in tokens, in powers of two."""
    table = _table("tokens a document", "documents", "")
    table.columns[1].justify = "right"
    powers, counts = np.unique(np.log2(lengths).astype(int), return_counts=True)
    for power, count in zip(powers.tolist(), counts.tolist(), strict=True):
        bar = "█" * max(1, round(BAR * count / counts.max()))
        table.add_row(f"{2**power:,} to {2 ** (power + 1) - 1:,}", f"{count:,}", f"[cyan]{bar}[/]")
    return table
