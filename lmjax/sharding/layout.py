"""A layout: which mesh axis shards which dimension, as data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmjax.errors import UserError, unknown
from lmjax.sharding.names import DIMENSIONS, dimension
from lmjax.sharding.slices import device_grid

AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")
CONTEXTS = ("auto", "ring", "ulysses", "gather")


def _axes(axes: str | Sequence[str]) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes)


@dataclass(frozen=True)
class Layout:
    """Mesh axis sizes (one may be -1: what is left) and, for parameters and activations, dimension name -> axes or axis.

    `Layout(mesh={"fsdp": 4, "tensor": 2}, params={"embed": "fsdp", "mlp": "tensor"},
    acts={"batch": ("data", "fsdp")})`
    """

    mesh: Mapping[str, int]
    params: Mapping[str, str | tuple[str, ...]]
    acts: Mapping[str, str | tuple[str, ...]]
    context: str = "auto"  # of CONTEXTS: how attention meets keys of a length that is cut
    microbatches: int | None = None  # that a pipeline cuts a batch into; none: as many as it has stages
    rounds: int = 1  # that each of them makes through the stages of a pipeline

    def __post_init__(self):
        if self.context not in CONTEXTS:
            raise unknown("value of layout.context", self.context, CONTEXTS)
        for name, value in (("microbatches", self.microbatches), ("rounds", self.rounds)):
            if value is not None and value < 1:
                raise UserError(f"layout.pipeline.{name}={value}: at least 1")
        for axis in self.mesh:
            if axis not in AXES:
                raise unknown("mesh axis in layout.mesh", axis, AXES)
        for table, rules in (("params", self.params), ("acts", self.acts)):
            for name, axes in rules.items():
                if name not in DIMENSIONS.values():
                    raise unknown(f"dimension name in layout.{table}", name, DIMENSIONS.values())
                for axis in _axes(axes):
                    if axis not in AXES:
                        raise unknown(f"mesh axis in layout.{table}.{name}", axis, AXES)

    def make_mesh(self, devices: Sequence[jax.Device]) -> Mesh:
        """A mesh over all `devices`, every axis of `AXES` present, in that order; over slices as `sharding.slices` says."""
        sizes = {axis: int(self.mesh.get(axis, 1)) for axis in AXES}
        asked = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "one device"
        wild = [axis for axis, size in sizes.items() if size == -1]
        if len(wild) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
            raise UserError(f"layout.mesh {asked}: sizes are positive, and at most one axis may be -1 (what is left)")
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if wild and len(devices) % fixed == 0:
            sizes[wild[0]] = len(devices) // fixed
        if math.prod(sizes.values()) != len(devices):
            raise UserError(
                f"layout.mesh {asked} needs {'a multiple of ' if wild else ''}{fixed} devices, and there are "
                f"{len(devices)} ({devices[0].platform}); change layout.mesh so that its product is {len(devices)}, "
                f"for example --config.layout.mesh.data=-1"
            )
        if (grid := device_grid(sizes, devices)) is not None:
            return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
        return jax.make_mesh(tuple(sizes.values()), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))

    def spec(self, table: str, dims: str) -> PartitionSpec:
        """The partition of an array with these dimension letters, by `table` ("params" or "acts")."""
        rules, used, entries = getattr(self, table), {}, []
        for letter in dims:
            axes = _axes(rules.get(dimension(letter), ()))
            for axis in axes:
                if axis in used:
                    raise UserError(
                        f"layout.{table} shards both {used[axis]} and {dimension(letter)} over mesh axis {axis!r}, "
                        f"and an array has both ({dims!r}); give one of them another axis or ()"
                    )
                used[axis] = dimension(letter)
            entries.append(axes[0] if len(axes) == 1 else axes or None)
        return PartitionSpec(*entries)

    def sharding(self, mesh: Mesh, table: str, dims: str, shape: Sequence[int], name: str) -> NamedSharding:
        """Like `spec`, on a mesh, after a check that every size divides; `name` is for the message."""
        spec = self.spec(table, dims)
        for letter, size, entry in zip(dims, shape, spec, strict=True):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            parts = math.prod(mesh.shape[axis] for axis in axes)
            if size % parts:
                over = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes if mesh.shape[axis] > 1)
                raise UserError(
                    f"{name}: its {dimension(letter)} dimension of {size} is not divisible by {parts} (mesh {over}); "
                    f"change the mesh, or keep it whole with --config.layout.{table}.{dimension(letter)}='()'"
                )
        return NamedSharding(mesh, spec)

    def param_shardings(self, mesh: Mesh, abstract: Any, dims: Any) -> Any:
        """Shardings for a parameter tree (`abstract`: shapes; `dims`: letters, same structure)."""

        def one(path, leaf, letters):
            name = "parameter " + "/".join(str(getattr(key, "key", key)) for key in path)
            return self.sharding(mesh, "params", letters, leaf.shape, name)

        return jax.tree_util.tree_map_with_path(one, abstract, dims)


_PLACED: ContextVar[tuple[Layout, Mesh] | None] = ContextVar("placed", default=None)


@contextlib.contextmanager
def placed(layout: Layout, mesh: Mesh) -> Iterator[None]:
    """While tracing inside, `constrain` and the attention kernels see this layout and mesh."""
    token = _PLACED.set((layout, mesh))
    try:
        yield
    finally:
        _PLACED.reset(token)


def current() -> tuple[Layout, Mesh] | None:
    """The layout and mesh of the enclosing `placed`, or None."""
    return _PLACED.get()


def constrain(x: jax.Array, dims: str) -> jax.Array:
    """Shard an activation by its dimension letters; nothing happens outside `placed` or on one device."""
    if len(dims) != x.ndim:
        raise ValueError(f"dimensions {dims!r} do not name the shape {x.shape} one by one")
    here = _PLACED.get()
    return x if here is None or here[1].size == 1 else _place("acts", x, dims)


def _place(table: str, x: jax.Array, dims: str) -> jax.Array:
    layout, mesh = _PLACED.get()
    spec, inside = layout.spec(table, dims), jax.sharding.get_abstract_mesh()
    if inside.manual_axes:  # in a `shard_map` over some axes: the others are constrained
        mesh, spec = inside, without(spec, inside.manual_axes)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def gathered(weight: jax.Array, dims: str, dtype: Any) -> jax.Array:
    """A weight with the precision of `dtype`, cut as activations are, for rows to be looked up in; one device: as it is.

    Left to itself XLA looks up every row of the batch in a device's few columns of an embedding, and a TPU pads those
    to 128. The gradient is cut as parameters are as soon as it is summed: else all of it waits for the optimizer.
    """
    here = _PLACED.get()
    if here is None or here[1].size == 1:
        return weight
    return _place("acts", _cut_again(weight, dims).astype(dtype), dims).astype(weight.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _cut_again(weight: jax.Array, dims: str) -> jax.Array:
    return weight


_cut_again.defvjp(
    lambda weight, dims: (weight, None),
    lambda dims, _, gradient: (jax.lax.optimization_barrier(_place("params", gradient, dims)),),
)


def without(spec: PartitionSpec, axes: Sequence[str]) -> PartitionSpec:
    """The partition over the other axes."""
    return PartitionSpec(*(tuple(axis for axis in _axes(entry or ()) if axis not in axes) or None for entry in spec))
