"""Fine-tuning: a fresh run whose parameters are those of another run or of an import, with a report of every name."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lmjax import atomic, step
from lmjax.checkpoint import Checkpoints, arraystore
from lmjax.errors import UserError, unknown
from lmjax.program import Program
from lmjax.sharding import placed
from lmjax.view import View

MISSING = ("error", "init")
SHOWN = 8  # names of a kind that a report lists


def begin(program: Program, view: View, tokenizer: str | None = None) -> tuple[step.TrainState, dict]:
    """The state of step 0 and what to remember of where it comes from: fresh, or the parameters that `start` names.

    tokenizer: the fingerprint of the one in use. UserError for parameters that the other run lacks (unless
    start.missing=init or start.drop names them), that it has too many (unless start.drop names them) and for wrong
    shapes.
    """
    section = getattr(program.config, "start", None)  # runs from before there was one have no such section
    if section is None or section.run is None:
        return program.compile_init()(), {}
    check(section)
    checkpoints = Checkpoints(Path(section.run).expanduser() / "checkpoints", warn=view.warn)
    found = checkpoints.arrays(section.step)
    if found is None:
        raise UserError(f"start.run={section.run} has no checkpoint to begin from")
    number, stored = found
    group = "ema" if any(path.startswith("ema/") for path in stored) else "params"
    theirs = {path.removeprefix(f"{group}/"): entry for path, entry in stored.items() if path.startswith(f"{group}/")}
    names = sort_out(section, arraystore.table(arraystore.by_path(program.params)), theirs)
    params = load(program, checkpoints, number, group, names["loaded"])
    view.header(f"begins from {section.run}", f"step {number}", shown(names))
    _compare_tokenizers(section.run, tokenizer, view)
    record = {"run": str(Path(section.run).expanduser().absolute()), "step": number} | names
    return state_of(program, params), {"start": record}


def check(section: ConfigDict) -> None:
    """UserError for what is wrong with the section by itself."""
    folder = Path(section.run).expanduser()
    if not (folder / "manifest.json").is_file():
        raise UserError(f"start.run={section.run} is not a run directory: it has no manifest.json")
    if section.missing not in MISSING:
        raise unknown("value of start.missing", section.missing, MISSING)
    for pattern in section.drop:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"start.drop: {pattern!r} is no regular expression: {error}") from None


def sort_out(section: ConfigDict, ours: dict[str, dict], theirs: dict[str, dict]) -> dict[str, list[str]]:
    """The names that are loaded, missing (and so begin afresh), dropped and left out; UserError for those not meant.

    start.drop are regular expressions for whole paths: what they match is not taken from the other run.
    """
    dropped = {path for path in {*ours, *theirs} if any(re.fullmatch(pattern, path) for pattern in section.drop)}
    both = [path for path in ours if path in theirs and path not in dropped]
    names = {
        "loaded": [path for path in both if ours[path] == theirs[path]],
        "missing": [path for path in ours if path not in theirs and path not in dropped],
        "afresh": sorted(path for path in dropped if path in ours),
        "unexpected": [path for path in theirs if path not in ours and path not in dropped],
        "left_out": sorted(path for path in dropped if path not in ours),
    }
    wrong = [f"{path} has the shape {theirs[path]['shape']} there, expected {ours[path]['shape']}"
             for path in both if path not in names["loaded"]]  # fmt: skip
    faults = []
    if names["missing"] and section.missing == "error":
        faults.append(f"it lacks {listed(names['missing'])} (start.missing=init begins them afresh)")
    if names["unexpected"]:
        drop = "|".join(dict.fromkeys(path.partition("/")[0] for path in names["unexpected"]))
        faults.append(f"nothing here takes its {listed(names['unexpected'])} (start.drop='({drop}).*' leaves them out)")
    if wrong:
        faults.append("; ".join(wrong[:SHOWN]) + " (start.drop begins such parameters afresh)")
    if not names["loaded"]:
        faults.append("and no parameter is in both")
    if faults:
        raise UserError(f"start.run={section.run} does not fit this model:\n  " + "\n  ".join(faults))
    return names


def load(program: Program, checkpoints: Checkpoints, number: int, group: str, names: list[str]) -> Any:
    """The parameters: those names from the checkpoint, in this program's shardings, and fresh ones for the rest."""
    wanted = arraystore.by_path(program.params)
    tree = {group: {path: wanted[path] for path in names}}
    restored = checkpoints.restore(tree, step=number, unused="ignore").state[group]
    fresh = {} if len(names) == len(wanted) else arraystore.by_path(program.compile_init()().params)
    return arraystore.rebuild(program.params, {path: restored.get(path, fresh.get(path)) for path in wanted})


def state_of(program: Program, params: Any) -> step.TrainState:
    """The state of step 0 with these parameters: the average and the optimizer begin with them, too."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    make = partial(step.init_state, optimizer=program.optimizer, section=program.config.optim)
    with placed(program.layout, program.mesh):
        return jax.jit(make, out_shardings=shardings)(params)


def shown(names: dict[str, list[str]]) -> dict[str, str]:
    """The report, a row a kind."""
    words = {"loaded": "loaded", "missing": "missing, so afresh", "afresh": "afresh", "left_out": "left out"}
    return {words[kind]: f"{len(names[kind])}: {listed(names[kind])}" for kind in words if names[kind]}


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _compare_tokenizers(run: str, tokenizer: str | None, view: View) -> None:
    facts = atomic.loads((Path(run).expanduser() / "manifest.json").read_text())
    before = facts.get("data", {}).get("tokenizer")
    if before is not None and tokenizer is not None and before != tokenizer:
        view.warn(f"{run} was trained with another tokenizer: its ids mean other pieces of text than they do here")
