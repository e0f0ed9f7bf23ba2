"""`lmjax list` and `lmjax show`: what there is to run, and what an experiment is before it runs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmjax.config import config_hash, flatten


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)  # a pipe has no width to wrap at


def _table(*columns: str, title: str = "") -> Table:
    table = Table(*columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    return table


def print_listing() -> None:
    """Studies with their variants, questions and seeds; config functions; files that do not load, with the reason."""
    from lmjax.experiment import listing

    found, console = listing(), _console()
    table = _table("study", "seeds", "question")
    for name, study in found.experiments.items():
        table.add_row(f"[bold cyan]{escape(name)}[/]", str(len(study.seeds)), escape(study.question))
        for variant in study.variants:
            changes = ", ".join(f"{path}={value}" for path, value in study.overrides(variant).items())
            table.add_row(f"  [cyan]{escape(name)}/{escape(variant)}[/]", "", f"[dim]{escape(changes)}[/]")
    console.print(table)
    configs = _table("config", "what it is")
    for name, line in found.configs.items():
        configs.add_row(f"[cyan]{escape(name)}[/]", escape(line))
    console.print()
    console.print(configs)
    for name, reason in found.broken.items():
        console.print(f"\n[bold red]{escape(name)}[/] does not load: {escape(reason)}")
    console.print("\n[dim]next:  lmjax show NAME   |   lmjax train NAME[/]")


def print_experiment(selected: Any) -> None:
    """The resolved config, every parameter with its shape and sharding, and the cost of a token and a step."""
    import jax

    from lmjax.data import open_dataset
    from lmjax.flops import training_flops
    from lmjax.program import build_for, check
    from lmjax.view import count

    console, config = _console(), selected.config
    check(config)
    dataset = open_dataset(config.data, config.seed)
    program = build_for(config, dataset)
    console.print(f"[bold]{escape(selected.name)}[/]  [dim]{escape(selected.question)}[/]")
    table = _table("config", "value")
    for path, value in flatten(config).items():
        table.add_row(f"[cyan]{path}[/]", escape(repr(value) if isinstance(value, str) else str(value).lower()))
    console.print(table)
    console.print(f"[dim]config hash {config_hash(config)}[/]\n")
    table = _table("parameter", "dims", "shape", "sharding", "number", "rule", "decay", "rate")
    rows = {row.path: row for row in program.optimizer.table}
    dims = {_path(path): letters for path, letters in jax.tree_util.tree_leaves_with_path(program.dims)}
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.params):
        row, total = rows[_path(path)], total + leaf.size
        rate = f"{row.rate:g}" if row.lowest == 1 else f"{row.rate * row.lowest:.3g} to {row.rate:g}"
        rate = "frozen" if row.frozen else rate
        table.add_row(_path(path), dims[_path(path)], " x ".join(map(str, leaf.shape)), _spec(leaf.sharding, program.mesh),
                      f"{leaf.size:,}", row.rule, f"{row.decay:g}", rate)  # fmt: skip
    console.print(table)
    per_token = training_flops(program.params, program.dims, length=config.data.length, met=program.met)
    tokens = config.batch * config.data.length
    mesh = {axis: size for axis, size in program.mesh.shape.items() if size > 1} or "one device"
    console.print(
        f"\n{total:,} parameters, {count(per_token)}FLOP a token in training, {count(per_token * tokens)}FLOP a step of "
        f"{tokens:,} tokens, {count(per_token * tokens * config.steps)}FLOP in all; mesh: {mesh}"
    )


def _path(keys: tuple) -> str:
    return "/".join(str(key.key) for key in keys)


def _spec(sharding: Any, mesh: Any) -> str:
    kept = [axes if isinstance(axes, tuple) else (axes,) if axes else () for axes in sharding.spec]
    kept = ["+".join(axis for axis in axes if mesh.shape[axis] > 1) or "-" for axes in kept]
    return " ".join(kept) if set(kept) != {"-"} else "whole"
