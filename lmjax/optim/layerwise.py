"""Fine-tuning by depth: learning rates that fall from layer to layer, and layers that begin to learn one by one.

Blocks are stacked, so both are arrays along the layer dimension of a parameter; the step that unfreezes a layer is
compared inside the compiled program, which therefore never changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import UserError

# What stands before the first block: tables of tokens, positions and kinds of text, patches, and their norms.
INPUT = re.compile(r"(.*/)?(embed|position|types|patches|class|embed_norm|pre_norm)(/.*)?")


def heights(paths: Sequence[str], dims: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """How far below the output each parameter lies, as an array that broadcasts against it.

    0 for what follows the blocks; from 1 in the last block to n in the first of n; n + 1 for what goes before them. A
    tower's depth is that of the blocks beside it ("text/embed" by "text/blocks"); without any, of the deepest ones.
    """
    depths: dict[str, int] = {}
    for path, letters, shape in zip(paths, dims, shapes, strict=True):
        if letters.startswith("l"):
            tower = path.partition("blocks")[0] if "blocks" in path else ""
            depths[tower] = max(shape[0], depths.get(tower, 0))
    if not depths:
        raise UserError("optim.layer_decay and optim.unfreeze are for models with a stack of layers; this one has none")
    deepest, found = max(depths.values()), []
    for path, letters, shape in zip(paths, dims, shapes, strict=True):
        if letters.startswith("l"):
            found.append(np.arange(shape[0], 0, -1.0).reshape(-1, *[1] * (len(shape) - 1)))
            continue
        tower = max((name for name in depths if path.startswith(name)), key=len, default=None)
        found.append(np.array(1.0 + depths.get(tower, deepest) if INPUT.fullmatch(path) else 0.0))
    return found


def factors(heights: Sequence[np.ndarray], decay: float | None) -> list[np.ndarray | float]:
    """What multiplies the learning rate of each parameter: decay to the power of its height, 1 without a decay.

    Howard & Ruder 2018, arXiv:1801.06146, section 3.2, has 1 / 2.6; Clark et al. 2020, arXiv:2003.10555, 0.8.
    """
    return [1.0 if decay is None else np.asarray(decay**height, np.float32) for height in heights]


def awake(height: np.ndarray, every: int, step: jax.Array | int) -> jax.Array:
    """1 where a layer learns at this step, else 0: what follows the blocks at once, and a layer more every so many steps.

    Howard & Ruder 2018, section 3.3 (gradual unfreezing).
    """
    return (jnp.asarray(height * every, jnp.float32) <= step).astype(jnp.float32)


def check(section: Mapping) -> tuple[float | None, int | None]:
    """optim.layer_decay and optim.unfreeze, None where they are off or a run is from before there were such leaves."""
    decay, every = getattr(section, "layer_decay", None), getattr(section, "unfreeze", None)
    if decay is not None and not 0 < decay <= 1:
        raise UserError(f"optim.layer_decay={decay}: above 0, and at most 1")
    if every is not None and every < 1:
        raise UserError(f"optim.unfreeze={every}: 1 or more steps")
    return decay, every
