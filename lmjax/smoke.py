"""The small version of an experiment that `--smoke` runs: two steps through every part of the real path."""

from __future__ import annotations

from ml_collections import ConfigDict

from lmjax.config import update

LIMIT = 250_000  # bytes of text
MOST = {"depth": 2, "mlp_width": 64, "head_width": 32}  # of a model, and of each part that has a section of its own


def smoke(config: ConfigDict) -> ConfigDict:
    """Two steps with an evaluation and a save, at most 4 rows of 64 tokens, 2 layers of width 64; all else as it is."""
    micro = config.optim.microbatches
    values = {
        "steps": 2, "batch": 4 * micro, "data.length": min(config.data.length, 64),
        "data.limit": min(config.data.limit or LIMIT, LIMIT), "every.log": 1, "every.eval": 2, "every.save": 1,
        "eval.batch": None, "eval.batches": 2, "eval.sample_length": 8, "optim.schedule.warmup": 1,
    }  # fmt: skip
    if "start" in config:
        values["start.run"] = None  # its parameters are those of the whole model
    if config.data.vocab is not None:
        values["data.vocab"] = min(config.data.vocab, 1024)
    return update(config, values | _small(config.model, "model"))


def _small(section: ConfigDict, path: str) -> dict[str, object]:
    """What makes the model in a section small, by the leaves that it has: 32 for each head, and 2 heads or a group's."""
    present = {name: value for name, value in section.items() if value is not None}
    values = {f"{path}.{name}": min(present[name], most) for name, most in MOST.items() if name in present}
    if "heads" in section:
        ratio = section.heads // present.get("kv_heads", section.heads)
        heads = max(2, ratio)
        values |= {f"{path}.heads": heads, f"{path}.width": 32 * heads}
        if "kv_heads" in present:
            values[f"{path}.kv_heads"] = heads // ratio
    elif "width" in section:
        values[f"{path}.width"] = min(section.width, 64)
    if "widths" in section:  # of the stages of a convolutional network
        values |= {f"{path}.widths": tuple(min(width, 16) for width in section.widths)}
        values |= {f"{path}.depths": (1,) * len(section.depths)}
    for name, part in section.items():
        if isinstance(part, ConfigDict):
            values |= _small(part, f"{path}.{name}")
    return values
