"""A row in a terminal as the model reads it: its image, its label, its documents in colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from lmjax.data import picture
from lmjax.data.tokenizers import report
from lmjax.data.tokenizers.ids import mark

if TYPE_CHECKING:
    from lmjax.data.loader import Dataset

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
BORDER = "│"


def lines(dataset: Dataset, row: dict[str, np.ndarray], name: str, out: Console) -> Iterator[str | Text]:
    """What to print of a row of that name."""
    about = []
    if "image" in row:
        about.append(f"an image of {row['image'].shape[1]} x {row['image'].shape[0]} pixels")
    if "label" in row:
        about.append(f"label {escape(dataset.classes[int(row['label'])])} ({int(row['label'])})")
    if "value" in row:
        about.append(f"value {float(row['value']):g}")
    if "start" in row:
        answer = row["tokens"][int(row["start"]) : int(row["end"]) + 1]
        about.append(f"answer {escape(''.join(pieces(dataset.tokenizer, answer)).strip())}")
    if "tokens" in row and row["tokens"].ndim == 1:
        about.append(_counts(row))
    yield f"{name}: {', '.join(about)}"
    if "image" in row:
        draw = picture.blocks if out.is_terminal else picture.shades
        yield draw(row["image"], min(out.width, picture.MOST))
    if "source" in row:
        source = row["source"][row["source_segments"] > 0]
        yield f"[dim]source: {len(source)} tokens[/]"
        yield coloured(dataset.tokenizer, source, COLOURS[-1], borders=False)
    for words in _texts(row):
        yield from _documents(dataset.tokenizer, words)
    if "tags" in row:
        at = np.flatnonzero(row["weights"])
        yield f"[dim]tags: {escape(' '.join(dataset.classes[int(tag)] for tag in row['tags'][at]))}[/]"


def coloured(tokenizer: Any, tokens: np.ndarray, colour: str, *, borders: bool) -> Text:
    """The text of tokens in a colour, every other token reversed, and with borders between them when asked."""
    text = Text()
    for i, piece in enumerate(pieces(tokenizer, tokens)):
        if borders and i:
            text.append(BORDER, "dim")
        text.append(piece, f"{colour} reverse" if i % 2 and borders else colour)
    return text


def pieces(tokenizer: Any, tokens: np.ndarray) -> list[str]:
    """The text of each token; of several together where one alone is no whole character; special tokens by name."""
    marks = {i: mark(name) for name, i in tokenizer.specials.items() if name != "unk"}
    found, start = [], 0
    for at in [*np.flatnonzero(np.isin(tokens, list(marks))).tolist(), len(tokens)]:
        found += report.pieces(tokenizer, tokens[start:at])
        found += [marks[int(tokens[at])]] if at < len(tokens) else []
        start = at + 1
    return found


def _texts(row: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The row, or of choices the row of each; none where there is no text."""
    if "tokens" not in row:
        return
    if row["tokens"].ndim == 1:
        yield row
        return
    for i in range(len(row["tokens"])):
        yield {name: row[name][i] for name in ("tokens", "segments", "positions")}


def _counts(row: dict[str, np.ndarray]) -> str:
    documents, real = int(row["segments"].max()), int((row["segments"] > 0).sum())
    said = f"{len(row['tokens'])} tokens, {documents} document{'s' * (documents != 1)}, {len(row['tokens']) - real} padding"
    return said + (f", {int(row['bytes'].sum())} bytes predicted" if "bytes" in row else "")


def _documents(tokenizer: Any, row: dict[str, np.ndarray]) -> Iterator[str | Text]:
    real = row["segments"] > 0
    marks = {mark(name) for name in tokenizer.specials}
    borders = any(len(piece) > 1 and piece not in marks for piece in pieces(tokenizer, row["tokens"][real]))
    for segment in range(1, int(row["segments"].max()) + 1):
        here = row["segments"] == segment
        first = int(row["positions"][here][0])
        where = "" if first == 0 else f", from its token {first} on"
        yield f"[dim]document {segment}: {int(here.sum())} tokens{where}[/]"
        yield coloured(tokenizer, row["tokens"][here], COLOURS[(segment - 1) % len(COLOURS)], borders=borders)
