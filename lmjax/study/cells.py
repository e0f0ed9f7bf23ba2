"""The cells of a study: every variant with every seed, resolved before anything runs. No JAX in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmjax import atomic
from lmjax.config import config_hash, dumps, loads, override, update
from lmjax.errors import UserError, unknown
from lmjax.experiment import BASE, Experiment, find, study
from lmjax.smoke import smoke
from lmjax.source import code
from lmjax.study.checks import telling, versions, word
from lmjax.study.records import folder_of
from lmjax.study.store import Cell


def study_named(name: str) -> tuple[Experiment, Path]:
    """The registered study and the file that it is in; UserError for a variant, a config function or a run."""
    if name.endswith(".py") or ":" in name or (Path(name) / "config.json").is_file():
        raise UserError(f"{name!r} is no study: a study is a file experiments/NAME.py; see `lmjax list`")
    found = study(name.partition("/")[0])
    if "/" in name:
        raise UserError(f"{name!r} is a variant: name the study, {found.name} --variants {name.partition('/')[2]}")
    return found, find(name).source_file


def seeds_of(study: Experiment, text: str | None) -> tuple[int, ...]:
    """The seeds that "5", "0,3,7" or "3," asks for; of a number its own first, then the least others; None: its own."""
    if text is None:
        return tuple(study.seeds)
    try:
        numbers = [int(word) for word in text.removesuffix(",").split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers) or numbers == [0] and "," not in text:
        raise UserError(f"--seeds={text}: give how many, --seeds=5, or which, each once, --seeds=0,3,7 or --seeds=3,")
    if "," in text:
        return tuple(numbers)
    more = [seed for seed in range(numbers[0] + len(study.seeds)) if seed not in study.seeds]
    return (*study.seeds, *more)[: numbers[0]]


def variants_of(study: Experiment, names: Sequence[str] | None) -> tuple[str, ...]:
    """The variants of that name in the order of the study, "base" among them; None: all."""
    wanted = [name for word in names or study.names() for name in word.split(",") if name]
    for name in wanted or [""]:
        if name not in study.names():
            raise unknown(f"variant of {study.name}", name, study.names())
    return tuple(name for name in study.names() if name in wanted)


def cells_of(
    study: Experiment,
    source: Path,
    *,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    small: bool = False,
) -> list[Cell]:
    """A cell for every variant and seed, all variants of the first seed first. `overrides` hold for all of them.

    UserError before anything runs: for an override that is not right for each, and for two cells that are the same.
    """
    if any(text.partition("=")[0] == "seed" for text in overrides):
        raise UserError("--config.seed: a sweep gives every cell its own seed; choose them with --seeds=0,3,7")
    cells, seen = [], {}
    resolved = {name: override(_small(study.config(name), small), overrides) for name in variants}
    for seed in seeds:
        for name in variants:
            config = update(resolved[name], {"seed": seed})
            cell = Cell(
                config_hash(config), f"{folder_of(name)}/seed{seed}", name, seed,
                study.name if name == BASE else f"{study.name}/{name}", study.question, str(source),
                (*overrides, f"seed={seed}"), dumps(config),
            )  # fmt: skip
            if cell.key in seen:
                raise UserError(
                    f"with these overrides {name} has the same config as {seen[cell.key]}: it would measure nothing"
                )
            seen[cell.key] = name
            cells.append(cell)
    return cells


def other_code(cells: Sequence[Cell], workspace: Path) -> str:
    """What to say, before hours are spent, of cells that ran with other code than this: no sound table holds both."""
    file, here, others = None, {}, []
    for cell in cells:
        path = workspace / cell.folder / "manifest.json"
        if not path.is_file():
            continue
        if cell.source != file:
            file, here = cell.source, code(cell.source)
        try:
            facts = atomic.loads(path.read_text())
        except ValueError:
            continue  # the worker will say so
        ran = versions(facts) if isinstance(facts, dict) else []
        key = telling([here, *ran], [loads(cell.config)])
        if any(key(one) != key(here) for one in ran):
            others.append(cell.folder)
    if not others:
        return ""
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return (
        f"{named} ran with other code than this ({word(here)}): a table of both is refused or, with `lmjax report "
        "--mixed-commits`, marked. To compare, go back to that code, or give a new --workdir and run all again"
    )


def _small(config, small: bool):
    return smoke(config) if small else config
