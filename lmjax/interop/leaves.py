"""A config's leaves with numbers in place of what is left to defaults: what a checkpoint of another library says."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from lmjax.config import flatten
from lmjax.layers.mlp import default_width

SECTIONS = ("model", "model.vit", "model.text")  # those that can have the leaves of a Transformer
LATE = {"model.qkv_bias": False, "model.rope_trained": 8192, "model.rope_low": 1.0, "model.rope_high": 4.0}


def resolved(config: ConfigDict, vocab: int) -> dict[str, Any]:
    """Every leaf by path; vocab: ids that the tables are for, 0 without any."""
    leaves = flatten(config)
    if vocab:
        leaves["model.vocab"] = vocab
    if config.model.kind == "decoder":  # runs from before have no such leaves
        leaves = LATE | {"model.norm_eps": None} | leaves
    for section in SECTIONS:
        if f"{section}.mlp" in leaves:
            leaves |= _completed({path.removeprefix(f"{section}."): leaf for path, leaf in leaves.items()
                                  if path.startswith(f"{section}.")}, section, config.data.length)  # fmt: skip
    return leaves


def _completed(model: dict[str, Any], section: str, length: int) -> dict[str, Any]:
    """What this section leaves open."""
    defaults = {
        "kv_heads": model["heads"],
        "head_width": model["width"] // model["heads"],
        "mlp_width": default_width(model["mlp"], model["width"]),
        "norm_eps": 1e-6 if model.get("norm") == "rmsnorm" else 1e-5,
        "max_length": length,
        "decoder_depth": model["depth"],
    }
    return {f"{section}.{name}": value for name, value in defaults.items() if name in model and model[name] is None}
