"""A mixture of experts over a mesh: every device has some of the experts, and sends each of its tokens where it is due.

Lepikhin et al. 2020, arXiv:2006.16668, section 3.2: two all-to-alls over the mesh axes of `layout.params.experts`, there
and back. With "capacity" every expert's places go there, filled or not. "dropless" sends every choice. An all-to-all of
parts that differ in size is what TPUs and GPUs have, and where there is none (CPUs) all parts are as large as they can
be at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lmjax.errors import UserError
from lmjax.layers.grouped import GROUPED
from lmjax.sharding import current
from lmjax.sharding.local import axes_of, entries, on_each, parts


class Where(NamedTuple):
    """The mesh axes that have the experts, how many devices those are, and whether parts may differ in size there."""

    axes: tuple[str, ...]
    size: int
    ragged: bool


def on_a_mesh() -> bool:
    """Whether there are several devices here."""
    here = current()
    return here is not None and here[1].size > 1


def over_mesh(mix: Callable, weights: dict[str, jax.Array], x_btd: jax.Array, *choices: jax.Array) -> tuple:
    """mix(where, weights, x, *choices) -> (out (b, t, d), taken) on every device, for its rows and with its experts.

    weights: `up` and `gate` (e, d, f), `down` (e, f, d); each of the choices is (b, t, ...). Rows that are the same on
    the experts' devices are dealt out to them, if they are enough.
    """
    layout, mesh = current()
    e_axes, f_axes = (axes_of(entry) for entry in entries(layout, "params", "ef"))
    e, f = weights["up"].shape[0], weights["up"].shape[2]
    for name, size, axes in (("model.moe.experts", e, e_axes), ("model.mlp_width", f, f_axes)):
        if size % parts(mesh, axes):
            raise UserError(f"{name}={size} is not divisible by {parts(mesh, axes)} (mesh {', '.join(axes)})")
    batch = axes_of(entries(layout, "acts", "b")[0])
    dealt = (*batch, *(axis for axis in e_axes if axis not in batch))
    rows = next((axes for axes in (dealt, batch) if x_btd.shape[0] % parts(mesh, axes) == 0), ())
    here = Where(e_axes, parts(mesh, e_axes), mesh.devices.flat[0].platform != "cpu")

    def local(weights, x_btd, *choices):
        out_btd, taken_btk = mix(here, weights, x_btd, *choices)
        return (jax.lax.psum(out_btd, f_axes) if parts(mesh, f_axes) > 1 else out_btd), taken_btk

    into, out_of = PartitionSpec(e_axes, None, f_axes), PartitionSpec(e_axes, f_axes)
    of_weights = {name: out_of if name == "down" else into for name in weights}
    row = PartitionSpec(rows)
    run = on_each(local, layout, mesh, (of_weights, row, *(row for _ in choices)), (row, row))
    return run(weights, x_btd, *choices)


def with_places(where: Where, run: Callable, product: Callable, held_bepd: jax.Array) -> jax.Array:
    """`run(product, held)` by the devices that have the experts; each place comes back to where it was."""
    if where.size == 1:
        return run(product, held_bepd)
    there = jax.lax.all_to_all(held_bepd, where.axes, split_axis=1, concat_axis=0, tiled=True)
    return jax.lax.all_to_all(run(product, there), where.axes, split_axis=0, concat_axis=1, tiled=True)


def with_choices(where: Where, run: Callable, grouped: str, experts: int, top: int, x_nd, chosen_n) -> jax.Array:
    """Every choice's product (n top, d), by the device that has its expert; choice i is of token i // top."""
    own = experts // where.size
    order_n = jnp.argsort(chosen_n, stable=True)
    sizes_p = jnp.bincount(chosen_n, length=experts).reshape(where.size, own).sum(axis=1).astype(jnp.int32)
    post = (Ragged if where.ragged else Padded)(where, sizes_p, len(chosen_n))
    held_md = post.there(x_nd[order_n // top], 0)
    expert_m = post.there((chosen_n % own)[order_n].astype(jnp.int32), own)  # own: an empty place
    if grouped == "blocks":  # which has no room for what is of no expert
        expert_m = jnp.minimum(expert_m, own - 1)
    layout = GROUPED[grouped](expert_m, own)
    out_md = layout.scatter(run(layout.product, layout.gather(held_md, 1)))
    out_nd = post.back(out_md)
    return jnp.zeros_like(out_nd).at[order_n].set(out_nd, unique_indices=True)


class Padded(NamedTuple):
    """All parts have room for all n items of a device."""

    where: Where
    sizes_p: jax.Array  # how many of the items, sorted by device, go to each
    items: int

    def there(self, x_n: jax.Array, empty: int) -> jax.Array:
        """What all devices send to this one, (devices n, ...), with `empty` in empty places."""
        begins_p = jnp.cumsum(self.sizes_p) - self.sizes_p
        at_pn = begins_p[:, None] + jnp.arange(self.items)
        real_pn = jnp.arange(self.items) < self.sizes_p[:, None]
        real = real_pn.reshape(*real_pn.shape, *(1,) * (x_n.ndim - 1))
        sent = jnp.where(real, x_n[jnp.minimum(at_pn, self.items - 1)], empty)
        return self._swap(sent.reshape(-1, *x_n.shape[1:]))

    def back(self, y_m: jax.Array) -> jax.Array:
        """What has become of this device's own items, (n, ...)."""
        y_m = self._swap(y_m)
        ends_p = jnp.cumsum(self.sizes_p)
        device_n = jnp.searchsorted(ends_p, jnp.arange(self.items), side="right")
        return y_m[device_n * self.items + jnp.arange(self.items) - (ends_p - self.sizes_p)[device_n]]

    def _swap(self, x_m: jax.Array) -> jax.Array:
        if self.where.size == 1:
            return x_m
        return jax.lax.all_to_all(x_m, self.where.axes, split_axis=0, concat_axis=0, tiled=True)


class Ragged(NamedTuple):
    """Parts as large as they are; what comes in has room for everything, and is only filled as far as it goes."""

    where: Where
    sizes_p: jax.Array
    items: int

    def there(self, x_n: jax.Array, empty: int) -> jax.Array:
        room = jnp.full((self.where.size * self.items, *x_n.shape[1:]), empty, x_n.dtype)
        sizes_pp, me = self._all()
        before = jnp.cumsum(sizes_pp, axis=0) - sizes_pp  # [i, j]: where in j's room lies what i sent
        return self._send(x_n, room, _begins(self.sizes_p), self.sizes_p, before[me], sizes_pp[:, me])

    def back(self, y_m: jax.Array) -> jax.Array:
        room = jnp.zeros((self.items, *y_m.shape[1:]), y_m.dtype)
        sizes_pp, me = self._all()
        begins = jnp.cumsum(sizes_pp, axis=1) - sizes_pp  # [i, j]: where among i's items are those for j
        came = sizes_pp[:, me]
        return self._send(y_m, room, _begins(came), came, begins[:, me], self.sizes_p)

    def _all(self) -> tuple[jax.Array, jax.Array]:
        """sizes [i, j]: items from device i to j; and which device this is."""
        return jax.lax.all_gather(self.sizes_p, self.where.axes), jax.lax.axis_index(self.where.axes)

    def _send(self, x, room, begins_p, sizes_p, to_p, came_p) -> jax.Array:
        if self.where.size == 1:
            return x
        return jax.lax.ragged_all_to_all(x, room, begins_p, sizes_p, to_p, came_p, axis_name=self.where.axes)


def _begins(sizes_p: jax.Array) -> jax.Array:
    return jnp.cumsum(sizes_p) - sizes_p
