"""What each implementation of attention can do, as data; the choice of one, and the refusals, are read from it."""

from __future__ import annotations

from typing import NamedTuple

from lmjax.errors import UserError


class Supports(NamedTuple):
    """All of them take key/value heads shared by query heads and both patterns of `Keep`."""

    segments: bool = True  # documents in one row that do not see one another
    window: bool = True
    softcap: bool = True  # of the logits
    bias: bool = True  # added to the logits: ALiBi, T5
    prefix: bool = True  # keys that are seen from before them
    cross: bool = True  # over a source with segments and a length of its own
    cache: bool = False  # causal queries that begin later than the keys; `Attention` has `cached` for its own caches
    linear: bool = True  # memory in proportion to the length, not its square; a bias is an array of the square itself
    multiple: int = 1  # that a sequence length must be of
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    head: tuple[int, int] | None = None  # head sizes are a multiple of the first, up to the second
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")


SUPPORTS = {
    "dense": Supports(cache=True, linear=False),
    "blocked": Supports(linear=False),  # unrolled, and XLA:CPU keeps many blocks at once: 25 MiB where chunked has 5
    "chunked": Supports(cache=True),
    "splash": Supports(bias=False, prefix=False, multiple=128, platforms=("tpu", "cpu")),  # tiles of 128 lanes
    # Documents, windows and prefixes come to cuDNN as an array of the square, which all heads share.
    "cudnn": Supports(
        softcap=False, linear=False, multiple=2, dtypes=("bfloat16", "float16"), head=(8, 128), platforms=("gpu",)
    ),
}
RING = Supports(bias=False, prefix=False)  # `sharding.ring`, for rows that a mesh cuts; chosen by layout.context
# The best first. cuDNN's is lowered for CUDA by the tests and was never run, so it must be asked for by name.
AUTO = {"tpu": ("splash", "dense"), "cpu": ("blocked",), "gpu": ("dense",)}
LACKS = {  # what is said of a backend without the feature
    "segments": "it does not keep documents in one row apart",
    "window": "it has no window",
    "softcap": "it has no soft cap on the logits",
    "bias": "it adds no bias to the logits, and the position encodings alibi and t5 are one",
    "prefix": "its mask is made before there are data, and which tokens are of a prefix is in them",
    "cross": "it reads no source with a length of its own",
    "cache": "it is for whole sequences, not for queries over a longer cache",
}


def lack(
    supports: Supports, *, length: int = 0, dtype: str | None = None, head: int | None = None,
    platform: str | None = None, **features: bool,
) -> str | None:  # fmt: skip
    """What is missing for these features of `LACKS`, this length, this type of numbers and this head; None: nothing."""
    for name, asked in features.items():
        if asked and not getattr(supports, name):
            return LACKS[name]
    if length % supports.multiple:
        return f"it needs a length that is a multiple of {supports.multiple}, and this is {length}"
    if dtype is not None and dtype not in supports.dtypes:
        return f"it multiplies {' or '.join(supports.dtypes)}, and precision.compute is {dtype}"
    if head is not None and supports.head and (head % supports.head[0] or head > supports.head[1]):
        return f"it needs a head size that is a multiple of {supports.head[0]} up to {supports.head[1]}, not {head}"
    if platform is not None and platform not in supports.platforms:
        return f"it is for {' and '.join(supports.platforms)}, and this is a {platform}"
    return None


def refusal(name: str, **asked) -> str | None:
    """Why this attention cannot do what is asked, as in `lack`, and which ones can; None if it can."""
    why = lack(SUPPORTS[name], **asked)
    able = [other for other, supports in SUPPORTS.items() if lack(supports, **asked) is None]
    return f"model.attention={name}: {why}; use {' or '.join(able) or 'other settings: none can'}" if why else None


def choose(name: str, *, platform: str, **asked) -> str:
    """The name itself if it can do the job, as `lack` has it; for auto the best for the platform that can."""
    if name == "auto":
        return next(one for one in AUTO.get(platform, ("dense",)) if lack(SUPPORTS[one], **asked) is None)
    if why := refusal(name, platform=platform, **asked):
        raise UserError(why)
    return name


def markdown() -> str:
    """The table of what supports what, as the README has it."""
    columns = (*LACKS, "linear")
    rows = [["`model.attention`", *columns, "length", "on"], ["---"] * (len(columns) + 3)]
    for name, supports in SUPPORTS.items():
        can = ["yes" if getattr(supports, column) else "no" for column in columns]
        length = f"x {supports.multiple}" if supports.multiple > 1 else "any"
        rows.append([name, *can, length, " ".join(supports.platforms)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
