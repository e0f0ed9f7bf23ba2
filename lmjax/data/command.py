"""`lmjax data ...`: prepare data, and look at what was prepared: its numbers, and its rows as the model reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lmjax.data import card, store
from lmjax.data.beam import Beam
from lmjax.data.loader import Dataset, open_dataset
from lmjax.data.tokenizers import DOC, report
from lmjax.environment import cache_root
from lmjax.errors import UserError

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
BORDER = "│"
BAR = 40  # characters of the longest bar


def console() -> Console:
    """Standard output; a pipe is as wide as it likes."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, width=160, soft_wrap=True)


def build(config: Any, workers: int | None, beam: Sequence[str] | None = None) -> None:
    """Prepares config.data, or finds it prepared, and says what it is. beam: the options of its runner, none without."""
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
    out.print(f"[dim]next:  lmjax data show {escape(config.data.source)} 0[/]")


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
    if removed:
        table = _table("cleaning", "records")
        for name, count in sorted(removed.items()):
            table.add_row(escape(name), f"{count:,}")
        out.print(table)
    out.print(_histogram(np.concatenate([dataset.train.documents.lengths, dataset.valid.documents.lengths])))


def show(config: Any, number: int, split: str) -> None:
    """Row `number` of a split, decoded: each document of it in a colour, with the borders of its tokens."""
    out = console()
    dataset = open_dataset(config.data, config.seed, _say(out))
    rows = dataset.train if split == "train" else dataset.valid
    if number < 0:
        raise UserError(f"row {number}: rows are numbered from 0")
    if split == "valid" and number >= len(rows):
        raise UserError(f"row {number}: the validation split has {len(rows)} rows, 0 to {len(rows) - 1}")
    row = rows.row(number)
    real = int(row["segments"].astype(bool).sum())
    documents = int(row["segments"].max())
    out.print(
        f"[bold]row {number}[/] of {split}: {len(row['tokens'])} tokens, {documents} document{'s' * (documents != 1)}, "
        f"{len(row['tokens']) - real} padding, {int(row['bytes'].sum())} bytes predicted"
    )
    borders = any(len(piece) > 1 and piece != DOC for piece in _pieces(dataset.tokenizer, row["tokens"][:real]))
    for segment in range(1, documents + 1):
        tokens = row["tokens"][row["segments"] == segment]
        first = int(row["positions"][row["segments"] == segment][0])
        where = "" if first == 0 else f", from its token {first} on"
        out.print(f"[dim]document {segment}: {len(tokens)} tokens{where}[/]")
        out.print(coloured(dataset.tokenizer, tokens, COLOURS[(segment - 1) % len(COLOURS)], borders=borders))


def coloured(tokenizer: Any, tokens: np.ndarray, colour: str, *, borders: bool) -> Text:
    """The text of tokens in a colour, every other token reversed, and with borders between them when asked."""
    text = Text()
    for i, piece in enumerate(_pieces(tokenizer, tokens)):
        if borders and i:
            text.append(BORDER, "dim")
        text.append(piece, f"{colour} reverse" if i % 2 and borders else colour)
    return text


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
    facts |= {"tokenizer": f"{config.data.tokenizer}, {dataset.tokenizer.vocab_size:,} ids"}
    facts |= {"fingerprint": dataset.fingerprint, "folder": _folder(dataset)}
    for name, value in facts.items():
        table.add_row(f"[cyan]{name}[/]", escape(str(value)))
    return table


def _splits(dataset: Dataset) -> Table:
    table = _table("split", "documents", "bytes", "tokens", "bytes a token", "rows", "filled")
    for column in table.columns[1:]:
        column.justify = "right"
    valid = len(dataset.valid)
    rows = {"train": getattr(dataset.train, "epoch_rows", None), "valid": valid}
    filled = {"train": getattr(dataset.train, "efficiency", None)}
    filled["valid"] = dataset.stats["valid"]["tokens"] / max(1, valid * dataset.valid.length)
    for name in ("train", "valid"):
        split = dataset.stats[name]
        ratio = split["bytes"] / max(1, split["tokens"] - split["documents"])
        counts = [f"{split[key]:,}" for key in ("documents", "bytes", "tokens")]
        shown = (
            "" if rows[name] is None else f"{rows[name]:,.0f}",
            "" if filled[name] is None else f"{filled[name]:.1%}",
        )
        table.add_row(name, *counts, f"{ratio:.2f}", *shown)
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


def _pieces(tokenizer: Any, tokens: np.ndarray) -> list[str]:
    """The text of each token; of several together where one alone is no whole character; <doc> by its name."""
    found, start = [], 0
    for mark in [*np.flatnonzero(tokens == tokenizer.doc).tolist(), len(tokens)]:
        found += report.pieces(tokenizer, tokens[start:mark])
        found += [DOC] if mark < len(tokens) else []
        start = mark + 1
    return found
