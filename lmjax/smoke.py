"""The small version of an experiment that `--smoke` runs: two steps through every part of the real path."""

from __future__ import annotations

from ml_collections import ConfigDict

from lmjax.config import update

LIMIT = 2_000_000  # bytes of text


def smoke(config: ConfigDict) -> ConfigDict:
    """Two steps with an evaluation and a save, at most 4 rows of 64 tokens, 2 layers of width 64; all else as it is."""
    micro = config.optim.microbatches
    model = config.model
    ratio = model.heads // (model.kv_heads or model.heads)
    heads = max(2, ratio)
    values = {
        "steps": 2, "batch": 4 * micro, "data.length": min(config.data.length, 64),
        "data.limit": min(config.data.limit or LIMIT, LIMIT), "model.depth": min(model.depth, 2),
        "model.width": 32 * heads, "model.heads": heads, "every.log": 1, "every.eval": 2, "every.save": 1,
        "eval.batch": None, "eval.batches": 2, "eval.sample_length": 8, "optim.schedule.warmup": 1,
    }  # fmt: skip
    if model.kv_heads is not None:
        values["model.kv_heads"] = heads // ratio
    if config.data.vocab is not None:
        values["data.vocab"] = min(config.data.vocab, 1024)
    for name in ("mlp_width", "head_width"):
        if model[name] is not None:
            values[f"model.{name}"] = min(model[name], 64 if name == "mlp_width" else 32)
    return update(config, values)
