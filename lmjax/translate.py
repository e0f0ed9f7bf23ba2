"""Back-translation: more pairs for a run to come, their targets real texts, their sources made of them by a trained run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from lmjax import trained
from lmjax.asking import make_generator
from lmjax.augment.text import back_translation
from lmjax.data import kinds
from lmjax.decode import Options
from lmjax.errors import UserError
from lmjax.view import View


def translate(texts: Iterable[str], run: Path, out: Path, *, new: int, options: Options, seed: int = 0) -> int:
    """Write {"source": what the run answers to a text, "target": the text} for each, a JSON object a line; how many.

    The run was trained on pairs from the language of `texts` into the other one. An answer that has not ended after
    `new` tokens, or is empty, gives no pair, and is counted. `out` appears when all of it is there. UserError when it
    exists, or the run is not one of pairs.
    """
    if out.suffix != ".jsonl":
        raise UserError(f"--out={out}: pairs are written as .jsonl, which lmjax train reads as they are")
    if out.exists():
        raise UserError(f"--out={out} exists, and nothing is written over: choose another name")
    loaded, view = trained.load(run), View()
    kind = kinds.kind_of(loaded.program.config.data)
    if kind != "pairs":
        raise UserError(f"{run} was trained with data.kind={kind}; a translator is one of data.kind=pairs")
    generator = make_generator(loaded.program, loaded.dataset, loaded.params)
    asked = Counter()

    def answers(prompts: list[str]) -> list[str]:
        samples = generator.generate(prompts, new=new, options=options, seed=seed, first_row=asked["texts"])
        cut = [sample.ended == "length" for sample in samples]
        empty = [not sample.text.strip() for sample in samples]
        asked.update(texts=len(prompts), cut=sum(cut), empty=sum(e and not c for e, c in zip(empty, cut, strict=True)))
        return ["" if c else sample.text for sample, c in zip(samples, cut, strict=True)]

    out.parent.mkdir(parents=True, exist_ok=True)
    beside, count = out.with_name(f".{out.name}.{os.getpid()}"), 0
    try:
        with open(beside, "w", encoding="utf-8") as file:
            for pair in counted(back_translation(texts, answers), view):
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
                count += 1
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
    view.say(f"{count:,} pairs in {out}")
    for name, why in (("cut", f"had not ended after --length={new} tokens"), ("empty", "were empty")):
        if asked[name]:
            view.warn(f"{asked[name]:,} of {asked['texts']:,} translations {why}: left out")
    view.say(
        f"next:  lmjax train configs/pairs.py:small --config.data.source={out.parent}   (with the real pairs beside it)"
    )
    return count


def counted(pairs: Iterator[dict[str, str]], view: View) -> Iterator[dict[str, str]]:
    """The pairs as they come, counted on a terminal."""
    columns = (TextColumn("{task.completed:,.0f} pairs"), TimeElapsedColumn())
    with Progress(*columns, console=view.console, transient=True, disable=not view.console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        for pair in pairs:
            bar.advance(task)
            yield pair
