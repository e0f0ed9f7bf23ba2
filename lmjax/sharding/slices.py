"""Meshes over several slices: what is sent seldom goes between them, and what is sent for every layer stays inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from lmjax.errors import UserError

ACROSS = ("data", "stage", "fsdp")  # the first of them that the slices divide goes across; the others never do


def device_grid(sizes: Mapping[str, int], devices: Sequence[jax.Device]) -> np.ndarray | None:
    """The devices in the shape of `sizes`, each slice a block of its own; None where there is one slice."""
    numbers = {getattr(device, "slice_index", None) for device in devices}
    if len(numbers) < 2 or devices[0].platform != "tpu":
        return None
    from jax.experimental import mesh_utils

    inside, across = spread(sizes, len(numbers))
    return mesh_utils.create_hybrid_device_mesh(tuple(inside.values()), tuple(across.values()), list(devices))


def spread(sizes: Mapping[str, int], slices: int) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of every axis inside a slice and across slices, whose products are `sizes`.

    Between slices goes the sum of gradients, once a step (data), or else activations between stages, or else what
    fsdp gathers for every layer: the dearest.
    """
    if math.prod(sizes.values()) % slices:
        raise UserError(f"layout.mesh: {math.prod(sizes.values())} devices are no multiple of {slices} slices")
    axis = next((axis for axis in ACROSS if sizes[axis] % slices == 0), None)
    if axis is None:
        asked = ", ".join(f"{axis}={sizes[axis]}" for axis in ACROSS)
        raise UserError(
            f"layout.mesh: {slices} slices divide none of {asked}, and nothing else may go between slices; make "
            f"layout.mesh.data a multiple of {slices}"
        )
    across = {name: slices if name == axis else 1 for name in sizes}
    return {name: size // across[name] for name, size in sizes.items()}, across
