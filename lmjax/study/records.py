"""Finished runs as a study reads them: sealed, unaltered, and each in its place. No JAX in here.

A workspace holds the run directory of every cell at VARIANT/seedN; of a nested variant, "rope/fast", it is
rope.fast/seedN, and the base is "base".
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict

from lmjax import atomic, chain, seal
from lmjax.config import config_hash, loads
from lmjax.errors import UserError
from lmjax.experiment import BASE, Experiment
from lmjax.history import History

EVALUATED = "eval/"  # what metrics of `lmjax eval` begin with


class Record(NamedTuple):
    """A finished run. `metrics`: the last value of each; `evaluation`: what `lmjax eval` wrote, if it was asked.

    Metrics of an evaluation at the end of the run are among `metrics`: eval/bleu.

    `variant`: of the study whose run it is, "base" for none; None: the run of a config function.
    """

    folder: Path
    variant: str | None
    seed: int
    config: ConfigDict
    manifest: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, float]
    evaluation: dict[str, Any] | None


def read(folder: str | Path) -> Record:
    """The run in `folder`; UserError, naming the file, if it did not finish or was altered since."""
    folder = Path(folder)
    manifest = _manifest(folder)
    config = _config(folder, manifest)
    history = History(folder / "metrics.jsonl").read()
    _check_metrics(folder, manifest["result"], history)
    _check_chain(folder, manifest["result"])
    if "sha256" in manifest and seal.stamped(manifest)["sha256"] != manifest["sha256"]:
        raise UserError(
            f"{folder / 'manifest.json'} was altered by hand: it does not have the SHA-256 that it was sealed with"
        )
    written = folder / "evaluation.json"
    evaluation = _json(written) if written.is_file() else None
    experiment = str(manifest.get("experiment"))
    return Record(folder, variant_of(experiment), config.seed, config, manifest, history,
                  {**manifest["result"]["metrics"], **_evaluated(written, evaluation, manifest)}, evaluation)  # fmt: skip


def collect(
    study: Experiment,
    workspace: str | Path,
    seeds: Sequence[int] | None = None,
    *,
    variants: Sequence[str] | None = None,
    unfinished: Literal["error", "skip"] = "error",
) -> list[Record]:
    """The records of a study in the order of its variants and then of seeds; seeds None: all that are there.

    UserError for a cell that is not there or not finished (`unfinished`: "skip" leaves it out), that was altered, or
    whose folder holds the run of another study, variant or seed.
    """
    workspace, found = Path(workspace), []
    for variant in study.names() if variants is None else variants:
        study.config(None if variant == BASE else variant)  # an unknown one is an error
        home = workspace / folder_of(variant)
        there = _seeds(home)
        for seed in there if seeds is None else seeds:
            folder = home / f"seed{seed}"
            if unfinished == "error" and seed not in there:
                seen = f"there are seeds {', '.join(map(str, there))}" if there else "there is none of this variant"
                raise UserError(f"{workspace} has no run of {variant} with seed {seed}; {seen}")
            if unfinished == "skip" and not is_finished(folder):
                continue
            found.append(_in_place(read(folder), study, variant, seed))
    return found


def is_finished(folder: Path) -> bool:
    """Whether a completed run is in `folder`."""
    path = folder / "manifest.json"
    return path.is_file() and _json(path).get("status") == "completed"


def folder_of(variant: str) -> str:
    """The name of a variant's folder in a workspace."""
    return variant.replace("/", ".")


def variant_of(experiment: str) -> str | None:
    """The variant in the name that a run was started by: "rope" of "positions/rope", "base" of "positions"."""
    if ":" in experiment:
        return None
    return experiment.partition("/")[2] or BASE


def study_of(record: Record) -> str:
    """The study in the name that a run was started by."""
    return str(record.manifest.get("experiment")).partition("/")[0]


def _in_place(record: Record, study: Experiment, variant: str, seed: int) -> Record:
    """The record, if it is of the cell whose folder it is in."""
    name = str(record.manifest.get("experiment"))
    expected = study.name if variant == BASE else f"{study.name}/{variant}"
    if study_of(record) != study.name:
        raise UserError(f"{record.folder} is a run of another study: {name}, not {expected}")
    if record.variant != variant:
        raise UserError(f"{record.folder} is a run of another variant: {name}, not {expected}")
    if record.seed != seed:
        raise UserError(
            f"{record.folder} is a run with seed={record.seed}, not {seed}: a seed that is there twice is no second "
            "measurement"
        )
    return record


def _seeds(home: Path) -> list[int]:
    names = [path.name for path in home.iterdir()] if home.is_dir() else []
    return sorted(int(name[4:]) for name in names if re.fullmatch(r"seed(0|[1-9]\d*)", name))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} is no run directory: it has no manifest.json")
    manifest = _json(path)
    status, cause = manifest.get("status"), manifest.get("cause")
    if status != "completed":
        because = f" ({cause})" if cause else ""
        raise UserError(f"{folder} is not finished: its status is {status}{because}; the command that began it goes on")
    result = manifest.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict) or "config_hash" not in manifest:
        raise UserError(f"{path} is not sealed: it has no result, or no config_hash")
    return manifest


def _config(folder: Path, manifest: dict[str, Any]) -> ConfigDict:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json")
    config = loads(path.read_text())
    if config_hash(config) != manifest["config_hash"]:
        raise UserError(
            f"{path} was altered: its hash is {config_hash(config)[:12]}, and the manifest says "
            f"{str(manifest['config_hash'])[:12]}"
        )
    return config


def _check_metrics(folder: Path, result: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """UserError where metrics.jsonl is not the file that was sealed, or the manifest's result is not what it ends with."""
    path, sealed = folder / "metrics.jsonl", result.get("metrics_sha256")
    if not history:
        raise UserError(f"{folder} has no metrics.jsonl, or an empty one")
    last: dict[str, Any] = {}
    for line in history:
        last |= line
    step = last.pop("step")
    for name in sorted(set(result["metrics"]) | set(last)):
        written, said = last.get(name), result["metrics"].get(name)
        if not _same(written, said):
            raise UserError(
                f"{folder} was altered by hand: {name} is {written} at the end of metrics.jsonl and {said} in the result "
                "of manifest.json"
            )
    if sealed is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sealed:
        raise UserError(f"{path} was altered by hand: it does not have the SHA-256 that manifest.json sealed it with")
    if step != result.get("step"):
        raise UserError(
            f"{path} ends at step {step}, and manifest.json says that the run ended at {result.get('step')}"
        )


def _evaluated(path: Path, found: dict[str, Any] | None, manifest: dict[str, Any]) -> dict[str, float]:
    """What `lmjax eval` measured with the run's last parameters; {} of other ones and of files from before the stamp."""
    if found is None or "sha256" not in found or found.get("step") != manifest["result"].get("step"):
        return {}
    if seal.stamped(found)["sha256"] != found["sha256"]:
        raise UserError(f"{path} was altered by hand: it does not have the SHA-256 that it was written with")
    return {f"{EVALUATED}{name}": float(one["value"]) for name, one in found["metrics"].items()}


def _check_chain(folder: Path, result: dict[str, Any]) -> None:
    """UserError where chain.jsonl does not hold together, or does not end with the head that was sealed."""
    sealed = result.get("chain")
    if sealed is None:
        return  # a run from before there were chains, or one that counts
    lines = chain.read(folder)
    if not lines or lines[-1]["head"] != sealed:
        raise UserError(
            f"{folder / chain.NAME} is not the chain that manifest.json was sealed with: its last line has another hash"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return a is not None and a == b


def _json(path: Path) -> dict[str, Any]:
    try:
        value = atomic.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: it is not what lmjax writes")
    return value
