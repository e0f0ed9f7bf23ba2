"""Model FLOPs of a token and the peak of the devices: together, the share of the machine that training uses (MFU)."""

from __future__ import annotations

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets, by a part of jax.Device.device_kind.
PEAKS = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12,
    "TPU v6": 918e12, "TPU7x": 1153.5e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "V100": 125e12,
}  # fmt: skip


class Peak(NamedTuple):
    """FLOP/s of all devices together, and where the number comes from."""

    flops: float
    source: str


def training_flops(abstract: Any, dims: Any, *, length: int, met: float = 1.0) -> float:
    """Of one token, forward and backward: 6 per weight that multiplies plus 12 per layer, head and key position.

    Chowdhery et al. 2022 (PaLM), appendix B. The input embedding and position tables are looked up, not multiplied;
    a tied embedding counts once, as the readout. met: the share of its experts that a token meets.
    """
    leaves = [(path, leaf.shape, letters) for (path, leaf), letters in
              zip(jax.tree_util.tree_leaves_with_path(abstract), jax.tree.leaves(dims), strict=True)]  # fmt: skip
    names = {path[0].key for path, _, _ in leaves}
    looked_up = {"position"} | ({"embed"} if "head" in names else set())
    matrices = sum(math.prod(shape) * (met if letters.strip("l").startswith("e") else 1) for path, shape, letters in leaves
                   if path[0].key not in looked_up and len(letters.replace("l", "")) > 1
                   and not path[-1].key.endswith("bias"))  # fmt: skip
    mixing = sum(shape[letters.index("l")] * shape[letters.index("h")] * shape[letters.index("k")]
                 for path, shape, letters in leaves if path[-1].key == "out" and "h" in letters)  # fmt: skip
    return 6.0 * matrices + 12.0 * mixing * length


def peak(devices: list[jax.Device]) -> Peak | None:
    """The data sheet's figure for a known chip; for a CPU the float32 matrix product measured now; else None."""
    kind = devices[0].device_kind
    if devices[0].platform != "cpu":
        known = next((flops for name, flops in PEAKS.items() if name.lower() in kind.lower()), None)
        return known and Peak(known * len(devices), f"data sheet, bfloat16: {kind} x {len(devices)}")
    return _measured()


@functools.cache
def _measured() -> Peak:
    """The processor's float32 matrix product, once for all runs of a process."""
    size, best = 1024, math.inf
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        product = jax.jit(jnp.matmul).lower(*[jax.ShapeDtypeStruct((size, size), jnp.float32)] * 2).compile()
        x = jnp.ones((size, size), jnp.float32)
        for _ in range(4):
            start = time.perf_counter()
            product(x, x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return Peak(2.0 * size**3 / best, f"measured: float32 product of {size} x {size} matrices on this CPU")
