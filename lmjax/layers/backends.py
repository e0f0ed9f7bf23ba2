"""What each implementation of attention can do, and the choice of one before anything is compiled."""

from __future__ import annotations

from typing import NamedTuple

from lmjax.errors import UserError


class Supports(NamedTuple):
    """All of them take segments, a window, a soft cap on the logits, key/value heads shared by query heads, and both
    patterns of `Keep`; the bidirectional one with keys of another length, too."""

    bias: bool  # added to the logits: ALiBi, T5
    cache: bool  # fewer causal queries than keys; with a cache `Attention` takes `cached` whatever is chosen here
    prefix: bool  # keys that are seen from before them
    multiple: int  # that a sequence length must be of


SUPPORTS = {
    "dense": Supports(bias=True, cache=True, prefix=True, multiple=1),
    "blocked": Supports(bias=True, cache=False, prefix=True, multiple=1),
    "splash": Supports(bias=False, cache=False, prefix=False, multiple=128),  # tiles of 128 lanes
}


def refusal(name: str, *, length: int, bias: bool = False, cache: bool = False, prefix: bool = False) -> str | None:
    """Why this attention cannot do that, and which ones can; None if it can."""
    why = _lack(SUPPORTS[name], length, bias, cache, prefix)
    able = [other for other, supports in SUPPORTS.items() if _lack(supports, length, bias, cache, prefix) is None]
    return f"model.attention={name}: {why}; use {' or '.join(able)}" if why else None


def _lack(supports: Supports, length: int, bias: bool, cache: bool, prefix: bool) -> str | None:
    if bias and not supports.bias:
        return "it adds no bias to the logits, and the position encodings alibi and t5 are one"
    if cache and not supports.cache:
        return "it is for whole sequences, not for queries over a longer cache"
    if prefix and not supports.prefix:
        return "its mask is made before there are data, and which tokens are of a prefix is in them"
    if length % supports.multiple:
        return f"it needs a length that is a multiple of {supports.multiple}, and this is {length}"
    return None


def choose(name: str, *, platform: str, length: int, bias: bool, prefix: bool = False) -> str:
    """The name itself if it can do the job; for auto the best for the platform that can."""
    if name == "auto":
        if platform == "tpu" and refusal("splash", length=length, bias=bias, prefix=prefix) is None:
            return "splash"
        return "blocked" if platform == "cpu" else "dense"
    if why := refusal(name, length=length, bias=bias, prefix=prefix):
        raise UserError(why)
    if name == "splash" and platform not in ("tpu", "cpu"):
        raise UserError(f"model.attention=splash: it is a TPU kernel, and this is a {platform}; use dense")
    return name
