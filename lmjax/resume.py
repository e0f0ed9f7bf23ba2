"""Whether a folder may be gone on with, from where, and what has changed since: nothing is ever written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lmjax import start
from lmjax.checkpoint import Checkpoints
from lmjax.config import config_hash, diff, loads
from lmjax.data import Dataset, kinds
from lmjax.errors import UserError
from lmjax.models.fit import MODELS
from lmjax.program import Program
from lmjax.provenance import Manifest
from lmjax.view import View

FREE = ("layout.", "data.workers")  # may change between sessions: the mesh changes no number but by rounding


def refuse_foreign(folder: Path) -> None:
    """A folder that holds something else is not a run directory: nothing is written into it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --workdir needs a folder")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        others = [item.name for item in folder.iterdir() if item.name != "lock"]
        if others and not {"checkpoints", "metrics.jsonl"} & set(others):
            raise UserError(f"{folder} is not empty and not a run ({others[0]} is in it); choose a new --workdir")


def is_finished(folder: Path, config: ConfigDict, allowed: bool, view: View) -> bool:
    """Whether there is nothing left to do in `folder`; UserError if it is not this run's to write in."""
    refuse_foreign(folder)
    manifest = Manifest(folder)
    changed = check_same(manifest, folder, config, allowed, view)
    if manifest.facts.get("status") != "completed" or changed:
        return False
    view.say(f"{folder}: finished already, at step {manifest.facts['result']['step']}; nothing to do")
    view.say(next_steps(folder, config))
    return True


def check_same(manifest: Manifest, folder: Path, config: ConfigDict, allowed: bool, view: View) -> bool:
    """Whether the config differs from that of the run in `folder`, beyond its layout; refused unless `allowed`."""
    if not manifest.facts:
        return False
    try:
        before = loads((folder / "config.json").read_text())
    except FileNotFoundError:
        if manifest.facts.get("config_hash") == config_hash(config):
            return False  # killed between the two first files
        raise UserError(
            f"{folder} has a manifest but no config.json; put it back, or start in another --workdir"
        ) from None
    changes = diff(before, config)
    for path, old, new in changes:
        if path.startswith(FREE):
            view.say(f"goes on with {path} changed: was {old}, is {new}")
    changes = [(path, old, new) for path, old, new in changes if not path.startswith(FREE)]
    if changes and not allowed:
        listed = "\n".join(f"  {path}: was {old!r}, is {new!r}" for path, old, new in changes)
        raise UserError(
            f"{folder} is a run with another config:\n{listed}\nStart in another --workdir, or go on with the new "
            "config with --allow-config-change."
        )
    for path, old, new in changes:
        view.warn(f"goes on with a changed config: {path} was {old!r}, is {new!r}")
    return bool(changes)


def check_same_data(manifest: Manifest, dataset: Dataset, allowed: bool, view: View) -> None:
    """The same config must mean the same tokens: the text of a folder may have changed since the run began."""
    before = manifest.facts.get("data", {}).get("fingerprint", dataset.fingerprint)
    if before != dataset.fingerprint and allowed:
        view.warn(f"goes on with other data: fingerprint {dataset.fingerprint[:12]}, until now {before[:12]}")
    elif before != dataset.fingerprint:
        raise UserError(
            f"the data is not what this run began with (fingerprint {before[:12]}, now {dataset.fingerprint[:12]}): "
            "put the text back as it was, or start in another --workdir"
        )


def start_state(
    program: Program, checkpoints: Checkpoints, manifest: Manifest, view: View, tokenizer: str | None = None
) -> tuple[Any, dict, int]:
    """The newest intact checkpoint, or where none was ever saved the state that `start.begin` makes."""
    restored = checkpoints.restore(program.state)
    if restored is None:
        if manifest.facts.get("saved"):
            raise UserError(
                f"this run had saved step {manifest.facts['saved']}, and {checkpoints.folder} is empty: put the "
                "checkpoints back, or start in another --workdir. Nothing was written over."
            )
        state, host = start.begin(program, view, tokenizer)
        return state, host, 0
    view.say(f"goes on from step {restored.step}")
    return restored.state, restored.host, restored.step


def next_steps(folder: Path, config: ConfigDict) -> str:
    """What to type next in a folder whose run is finished; `generate` for models that write or tell labels."""
    kind, model = kinds.kind_of(config.data), MODELS.get(config.model.kind)
    ask = {"text": " --prompt='In the beginning'", "pairs": " --prompt='...'", "labels": " --prompt='...'",
           "images": " --image=FILE", "image_labels": " --image=FILE"}  # fmt: skip
    answers = model is None or model.gives in ("next tokens", "classes")
    words = [f"lmjax generate {folder}{ask[kind]}"] if kind in ask and answers else []
    return "next:  " + "   |   ".join([*words, f"lmjax eval {folder}", f"tensorboard --logdir={folder}"])
