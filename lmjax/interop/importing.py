"""`lmjax import`: the checkpoint of another library as a run directory, for eval, generate and fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lmjax import atomic
from lmjax.checkpoint import Checkpoints
from lmjax.config import config_hash, dumps, extend, flatten, override, update
from lmjax.data import kinds, tokenizers
from lmjax.errors import UserError, unknown
from lmjax.experiment import find
from lmjax.interop.convert import Report, fill
from lmjax.interop.families import FAMILIES
from lmjax.interop.family import PREPROCESSOR, TENSORS, Family, leaves_of
from lmjax.interop.leaves import resolved
from lmjax.interop.tensors import Tensor, open_tensors, read_json
from lmjax.program import Program, build
from lmjax.provenance import Manifest, environment, params_sha256
from lmjax.view import View

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
LONGEST = 1024  # tokens a row of the config of an import, where the model has more positions
FINE_TUNING = {"optim.name": "adamw", "optim.learning_rate": 5e-5, "optim.weight_decay": 0.01, "eval.sample_length": 0,
               "data.vocab": None, "data.augment.image": ()}  # fmt: skip


class Given(NamedTuple):
    """A checkpoint of another library: its config.json and where that is, tensors, and the file of its tokenizer."""

    settings: Mapping[str, Any]
    file: Path
    tensors: Mapping[str, Tensor]
    tokenizer: Path | None


class Imported(NamedTuple):
    program: Program
    params: Any
    report: Report


def open_hf(folder: Path) -> Given:
    """A folder as `save_pretrained` writes it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with config.json and model.safetensors")
    settings = read_json(folder / "config.json")
    if (folder / "preprocessor_config.json").is_file():
        settings[PREPROCESSOR] = read_json(folder / "preprocessor_config.json")
    found = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    tensors = open_tensors(folder)
    settings[TENSORS] = frozenset(tensors)
    return Given(settings, folder / "config.json", tensors, found[0] if found else None)


def import_run(
    given: Given, run: Path, overrides: Sequence[str] = (), *, drop: Sequence[str] = (), fresh: bool = False,
    family: Family | None = None,
) -> Imported:  # fmt: skip
    """Write the run directory and show the report; a UserError leaves nothing behind.

    overrides: of the config that the run gets, "data.source=FOLDER". drop, fresh: see `convert.fill`.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} is not empty: an import needs a --workdir of its own")
    family = family or family_of(given)
    config = config_of(family, given, run, overrides)
    tokenizer = tokenizer_of(given, config, overrides)
    size = tokenizer.vocab_size if tokenizer else 0
    program = build(config, vocab=size, classes=len(given.settings.get("id2label", "ab")))
    shapes = {path: leaf.shape for path, leaf in _by_path(program.params).items()}
    vocab = getattr(config.model, "vocab", 0)
    arrays, report = fill(family, resolved(config, vocab), shapes, given.tensors, vocab=vocab, drop=drop, fresh=fresh)
    params = placed(program, arrays)
    View().header(f"{given.file.parent}", f"{family.model_type} into {run}", report.rows())
    facts = {"data": {"source": config.data.source, "tokenizer": tokenizer and tokenizer.fingerprint},
             "imported": {"model_type": family.model_type, "from": str(given.file.parent.absolute())}}  # fmt: skip
    write_run(run, config, params, given.tokenizer, report, facts)
    return Imported(program, params, report)


def family_of(given: Given) -> Family:
    """The family that config.json names."""
    name = given.settings.get("model_type")
    if name not in FAMILIES:
        raise unknown(f"model_type in {given.file}:", name, FAMILIES)
    return FAMILIES[name]


def config_of(family: Family, given: Given, run: Path, overrides: Sequence[str]) -> ConfigDict:
    """The config of the run: that of the family's recipe with the model that config.json says."""
    config = find(family.recipe).config
    leaves = leaves_of(family, given.settings, given.file)
    there = flatten(config)
    model = {path: value for path, value in leaves.items() if path.startswith("model.") and path in there}
    absent = {path: value for path, value in leaves.items() if path.startswith("model.") and path not in there}
    rest = {path: value for path, value in leaves.items() if path not in model and path not in absent}
    config = extend(update(config, FINE_TUNING | rest | model), absent)
    length = min(getattr(config.model, "max_length", None) or LONGEST, LONGEST)
    config = update(config, {"data.length": length} if "max_length" in config.model else {})
    if given.tokenizer is not None:
        config = update(config, {"data.tokenizer": str((run / given.tokenizer.name).absolute())})
    return override(config, overrides)


def tokenizer_of(given: Given, config: ConfigDict, overrides: Sequence[str]) -> Any:
    """The tokenizer, None for a model of images alone; UserError when it has more ids than the model's table."""
    if "tokens" not in kinds.fields(config.data):
        return None
    chosen = any(text.startswith("data.tokenizer=") for text in overrides)
    own = given.tokenizer is not None and not chosen
    if config.data.tokenizer in tokenizers.TRAINED or not (own or chosen):
        raise UserError(
            f"{given.file.parent} has no {' or '.join(TOKENIZERS)}: add it, or say --config.data.tokenizer=FILE"
        )
    data = update(config, {"data.tokenizer": str(given.tokenizer)}).data if own else config.data
    tokenizer = tokenizers.make(data, ())
    if tokenizer.vocab_size > config.model.vocab:
        said = f"{given.file} says vocab_size={config.model.vocab:,}"
        raise UserError(
            f"{data.tokenizer} has {tokenizer.vocab_size:,} ids, and {said}: it is not the tokenizer of this model"
        )
    return tokenizer


def placed(program: Program, arrays: Mapping[str, np.ndarray]) -> Any:
    """The parameters on the mesh; those that are not among the arrays, as the config's seed begins them."""
    wanted = _by_path(program.params)
    fresh = {} if set(wanted) <= set(arrays) else _by_path(program.compile_init()().params)
    flat = {path: jax.device_put(arrays[path], leaf.sharding) if path in arrays else fresh[path]
            for path, leaf in wanted.items()}  # fmt: skip
    return jax.tree.unflatten(jax.tree.structure(program.params), flat.values())


def write_run(
    run: Path, config: ConfigDict, params: Any, tokenizer: Path | None, report: Report, facts: Mapping[str, Any]
) -> None:
    """The run directory: config, tokenizer, a checkpoint of step 0 with the parameters alone, report and manifest."""
    manifest = Manifest(run)
    manifest.start(0, **environment(), experiment=f"import {facts['imported']['from']}", question="", overrides=[],
                   config_hash=config_hash(config), seed=config.seed,
                   parameters=sum(leaf.size for leaf in jax.tree.leaves(params)), **facts)  # fmt: skip
    try:
        if tokenizer is not None:
            shutil.copyfile(tokenizer, run / tokenizer.name)
        atomic.write(run / "config.json", dumps(config))
        atomic.write(run / "import.json", atomic.dumps(report.as_json(), indent=1) + "\n")
        checkpoints = Checkpoints(run / "checkpoints")
        checkpoints.save(0, {"params": params}, {})
        checkpoints.close()
    except BaseException as error:
        manifest.finish("failed", cause=f"{type(error).__name__}: {error}")
        raise
    result = {"step": 0, "metrics": {}, "params_sha256": params_sha256(params)}
    manifest.finish("completed", cause="imported", result=result)


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves by path, in the order of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}
