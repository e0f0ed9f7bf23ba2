"""`lmjax export`: a run as a checkpoint folder that Hugging Face transformers reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from lmjax.config import flatten
from lmjax.errors import UserError, unknown
from lmjax.experiment import find
from lmjax.interop.convert import give
from lmjax.interop.families import FAMILIES
from lmjax.interop.family import PREPROCESSOR, Family, refusals, settings_of
from lmjax.interop.leaves import resolved
from lmjax.interop.tensors import SHARD, write_tensors
from lmjax.trained import Loaded
from lmjax.view import View

CLASSIFIERS = (
    "encoder_classifier",
    "encoder_tagger",
    "vit",
)  # kinds of model whose config.json has the names of classes


def export_run(loaded: Loaded, out: Path, *, family: str | None = None, shard: int = SHARD) -> list[str]:
    """Write config.json, the tensors and the tokenizer into the new folder `out`; the names of its files.

    family: a model_type, for a model that more than one can hold; none: the first that fits. UserError, and no folder,
    when none can hold the model as it is.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: an export needs a folder of its own")
    config = loaded.program.config
    tokenizer = loaded.dataset.tokenizer
    vocab = getattr(config.model, "vocab", None) or (tokenizer.vocab_size if tokenizer else 0)
    leaves = resolved(config, vocab)
    chosen = choose(leaves, family)
    settings = settings_of(chosen, leaves)
    processor = settings.pop(PREPROCESSOR, None)
    if config.model.kind in CLASSIFIERS:
        settings |= labels(loaded)
    flat = {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf
            for keys, leaf in jax.tree_util.tree_flatten_with_path(loaded.params)[0]}  # fmt: skip
    shapes, arrays = give(chosen, leaves, flat, vocab=vocab)
    beside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        (beside / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
        write_tensors(beside, shapes, arrays, shard)
        if processor is not None:
            (beside / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
        if hasattr(tokenizer, "definition"):
            (beside / "tokenizer.json").write_text(tokenizer.definition, "utf-8", newline="")
        if out.exists():
            out.rmdir()
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    files = sorted(file.name for file in out.iterdir())
    facts = {"tensors": f"{len(shapes)}, all {len(flat)} parameters are in them", "files": ", ".join(files)}
    View().header(f"{out}", f"{chosen.model_type}, for transformers", facts)
    return files


def labels(loaded: Loaded) -> dict[str, Any]:
    """The names of the classes, or numbers where there are no data that say them."""
    names = loaded.dataset.classes or tuple(f"LABEL_{i}" for i in range(loaded.params["head"].shape[0]))
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def choose(leaves: Mapping[str, Any], name: str | None) -> Family:
    """The family for a model with these leaves."""
    if name is not None:
        if name not in FAMILIES:
            raise unknown("value of --family", name, FAMILIES)
        if wrong := against(FAMILIES[name], leaves):
            raise UserError(f"a {name} checkpoint cannot hold this model: {'; '.join(wrong)}")
        return FAMILIES[name]
    found = {family.model_type: against(family, leaves) for family in FAMILIES.values()}
    for name, wrong in found.items():
        if not wrong:
            return FAMILIES[name]
    nearest = sorted(found.items(), key=lambda pair: len(pair[1]))[:3]
    listed = "\n".join(f"  {name}: {'; '.join(wrong)}" for name, wrong in nearest)
    raise UserError(f"no family of transformers that is known here can hold this model; the nearest ones:\n{listed}")


def against(family: Family, leaves: Mapping[str, Any]) -> list[str]:
    """`refusals`, with what the family's recipe leaves off."""
    return refusals(family, leaves, flatten(find(family.recipe).config))
