"""What the builders of encoders and encoder-decoders have in common: a config's section, checked, as a `Shape`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.attentions import ATTENTIONS
from lmjax.layers.backends import choose
from lmjax.layers.mlp import MLPS, default_width
from lmjax.layers.norms import NORMS
from lmjax.layers.positions import POSITIONS
from lmjax.layers.stack import REMATS
from lmjax.layers.transformer import Shape

CHOICES = {
    "mlp": MLPS, "norm": NORMS, "norm_place": ("pre", "post"), "position": POSITIONS, "remat": REMATS,
    "layers": ("scan", "unroll"), "attention": ("auto", *ATTENTIONS),
}  # fmt: skip
POSITIVE = ("depth", "width", "heads", "kv_heads", "head_width", "mlp_width", "max_length", "buckets", "furthest",
            "vocab_multiple", "rope_base", "init_scale", "norm_eps")  # fmt: skip
SAME = ("width", "heads", "mlp", "norm", "norm_eps", "norm_place", "embed_norm", "position", "rope_base", "buckets",
        "furthest", "bias", "dropout", "remat", "init_scale")  # fmt: skip


def check(section: ConfigDict, choices: Mapping[str, Collection[str]], positive: Collection[str]) -> None:
    """UserError unless the leaves of a model's section are among their choices, or positive where there is a number."""
    for name, legal in choices.items():
        if section[name] not in legal:
            raise unknown(f"value of model.{name}", section[name], legal)
    for name in positive:
        if section[name] is not None and not section[name] > 0:
            raise UserError(f"model.{name}={section[name]}: it must be positive")
    if not 0 <= section.dropout < 1:
        raise UserError(f"model.dropout={section.dropout}: from 0 to below 1")


def shape(section: ConfigDict, *, lengths: Collection[int], multiple: int | None, platform: str, dtype: Any) -> Shape:
    """The shape in a section for rows of these lengths (0: no such row), or of any multiple of `multiple` up to them."""
    check(section, CHOICES, POSITIVE)
    lengths = [length for length in lengths if length]
    if section.head_width is None and section.width % section.heads:
        raise UserError(f"model.heads={section.heads} does not divide model.width={section.width} (or set "
                        "model.head_width)")  # fmt: skip
    head, kv_heads = section.head_width or section.width // section.heads, section.kv_heads or section.heads
    if section.heads % kv_heads:
        raise UserError(f"model.kv_heads={kv_heads} does not divide model.heads={section.heads}")
    if section.position == "rope" and head % 2:
        raise UserError(f"model.position=rope needs an even head width, and it is {head}")
    if section.position == "t5" and section.buckets % 4:
        raise UserError(f"model.buckets={section.buckets}: a multiple of 4, for both directions have near and far ones")
    max_length = section.max_length or max(lengths)
    if section.position == "learned" and max_length < max(lengths):
        raise UserError(f"model.max_length={max_length} is shorter than rows of {max(lengths)} tokens (data.length or "
                        "data.source_length): positions would run out")  # fmt: skip
    bias = section.position in ("alibi", "t5")
    attention = choose(
        section.attention, platform=platform, length=math.gcd(*lengths, multiple or 0), bias=bias, head=head,
        dtype=jnp.dtype(dtype).name,
    )  # fmt: skip
    return Shape(
        depth=section.depth, kv_heads=kv_heads, head=head, max_length=max_length, dtype=dtype,
        mlp_width=section.mlp_width or default_width(section.mlp, section.width), scan=section.layers == "scan",
        attend=ATTENTIONS[attention], **{name: section[name] for name in SAME},
    )  # fmt: skip
