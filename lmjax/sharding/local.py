"""Code that every device runs for itself, on its own parts of arrays: `shard_map`, as layers use it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from lmjax.sharding.layout import AXES, Layout, placed, without

Entry = str | tuple[str, ...] | None  # of a PartitionSpec: the mesh axes that cut a dimension


def parts(mesh: Mesh | AbstractMesh, entry: Entry) -> int:
    """Into how many parts an entry of a PartitionSpec cuts its dimension."""
    return math.prod(mesh.shape[axis] for axis in axes_of(entry))


def axes_of(entry: Entry) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def entries(layout: Layout, table: str, dims: str) -> PartitionSpec:
    """`layout.spec`, less the axes of an enclosing `shard_map`."""
    return without(layout.spec(table, dims), jax.sharding.get_abstract_mesh().manual_axes)


def on_each(function: Callable, layout: Layout, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """`function` on every device's parts of its arguments, over all axes that no enclosing `shard_map` has taken.

    Inside, layers see one device. What is the same on all devices of an axis is not checked to be.
    """
    taken = jax.sharding.get_abstract_mesh().manual_axes
    free = frozenset(axis for axis in mesh.axis_names if axis not in taken)

    def body(*args):
        with alone(layout, mesh):
            return function(*args)

    outer = jax.sharding.get_abstract_mesh() if taken else mesh
    return jax.shard_map(body, mesh=outer, in_specs=in_specs, out_specs=out_specs, axis_names=free, check_vma=False)


@contextlib.contextmanager
def alone(layout: Layout, mesh: Mesh) -> Iterator[None]:
    """While tracing inside, layers see a mesh of one device of the same platform."""
    first = np.asarray(mesh.devices.flat[0]).reshape((1,) * len(AXES))
    with placed(layout, Mesh(first, AXES, axis_types=(AxisType.Auto,) * len(AXES))):
        yield
