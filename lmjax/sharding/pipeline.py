"""Layers spread over the stages of a mesh axis, through which microbatches go one behind the other.

Every device of the axis `stage` has the weights of its own layers. On each tick all of them work, each on another
microbatch, and hand what they made to the next. In one round this is GPipe (Huang et al. 2019, arXiv:1811.06965), whose
devices wait for stages - 1 of microbatches + stages - 1 ticks. In several, "circular" or interleaved (Narayanan et al.
2021, arXiv:2104.04473, section 2.2), a device has as many groups of layers that are not neighbours, a tick is shorter by
that factor, and the waiting with it. Backward goes the same way from the end to the beginning, by differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from lmjax.errors import UserError
from lmjax.sharding.layout import Layout, current

AXIS = "stage"


class Pipeline(NamedTuple):
    """How many devices a microbatch passes, how often, and how many microbatches there are."""

    mesh: Mesh
    stages: int
    microbatches: int
    rounds: int

    def check(self, rows: int, depth: int, turns: int = 1) -> None:
        """UserError unless it divides a batch of so many rows, and a stack whose layers are of `turns` kinds in turn."""
        parts = f"mesh.stage={self.stages}" + (f" x {self.rounds} rounds" if self.rounds > 1 else "")
        if depth % (self.stages * self.rounds):
            raise UserError(f"layout: {parts} does not divide {depth} layers; each stage needs equally many of them")
        if depth // (self.stages * self.rounds) % turns:
            raise UserError(
                f"layout: {parts} gives a group {depth // (self.stages * self.rounds)} layers, and layers are of {turns} "
                f"kinds in turn, so it must be a multiple of {turns}"
            )
        if rows > 1 and rows % self.microbatches:
            raise UserError(f"layout.pipeline.microbatches={self.microbatches} does not divide a batch of {rows} rows")


def pipeline(layout: Layout, mesh: Mesh) -> Pipeline | None:
    """The pipeline of a layout; None where its mesh has one stage."""
    stages = mesh.shape[AXIS]
    if stages == 1:
        return None
    if AXIS not in (layout.spec("params", "l")[0] or ()):
        raise UserError(f"layout.mesh.stage={stages}, and no layers go there: --config.layout.params.layers=stage")
    microbatches = layout.microbatches or stages
    if layout.rounds > 1 and microbatches < stages:
        raise UserError(
            f"layout.pipeline.microbatches={microbatches}: with rounds={layout.rounds} at least as many as "
            f"mesh.stage={stages}, else a microbatch is asked for again before it has come round"
        )
    return Pipeline(mesh, stages, microbatches, layout.rounds)


def in_stages() -> Pipeline | None:
    """The pipeline of the enclosing layout."""
    here = current()
    return None if here is None or AXIS in _manual() else pipeline(*here)


def run_pipeline(
    made: Pipeline, group: Callable, each: Any, x_btd: jax.Array, rows: Any, shared: Any, depth: int
) -> tuple[jax.Array, Any]:
    """What `depth` layers make of x (b, t, d), and what they sow, as means over the microbatches, (depth, ...).

    group: (layers' part of `each`, x, part of `rows`, `shared`, microbatch's number) -> (x, sown), for several layers
    that follow each other. each: arrays with a leading dimension of layers; rows: arrays with one of rows; shared: other
    arrays. What is differentiated is one of these.
    """
    if x_btd.shape[0] == 1:  # such as the row that `init` traces
        made = made._replace(microbatches=1, rounds=1)
    m, stages, rounds = made.microbatches, made.stages, made.rounds
    each = jax.tree.map(lambda leaf: leaf.reshape(rounds, stages, depth // (rounds * stages), *leaf.shape[1:]), each)
    rows = jax.tree.map(partial(_split, m=m), rows)
    of_stage = PartitionSpec(None, AXIS)
    body = jax.shard_map(
        partial(_stage, made, group), mesh=made.mesh, in_specs=(of_stage, *(PartitionSpec(),) * 3),
        out_specs=(PartitionSpec(AXIS), of_stage), axis_names={AXIS}, check_vma=False,
    )  # fmt: skip
    out, sown = body(each, _split(x_btd, m), rows, shared)
    x_btd = jnp.swapaxes(out[0], 0, 1).reshape(x_btd.shape)  # what has come round to the first stage
    return x_btd, jax.tree.map(lambda leaf: leaf.reshape(depth, *leaf.shape[3:]), sown)


def _split(x: jax.Array, m: int) -> jax.Array:
    """Microbatch i holds the rows i, i + m, ...: every device has rows of every one."""
    return jnp.swapaxes(x.reshape(x.shape[0] // m, m, *x.shape[1:]), 0, 1)


def _stage(
    made: Pipeline, group: Callable, each: Any, x_mbtd: jax.Array, rows: Any, shared: Any
) -> tuple[jax.Array, Any]:
    """One device's ticks: item n, of n = 0, 1, ..., is microbatch n % m in round n // m, and is here at tick n + stage.

    Only the first stage reads `waiting`: the microbatches to begin with, and then what has come round.
    """
    m, stages, rounds = made.microbatches, made.stages, made.rounds
    stage = jax.lax.axis_index(AXIS)
    each = jax.tree.map(lambda leaf: leaf[:, 0], each)
    onward = [(i, (i + 1) % stages) for i in range(stages)]

    def work(came, waiting, tick):
        item = jnp.maximum(tick - stage, 0)
        number, turn = item % m, jnp.minimum(item // m, rounds - 1)
        x_btd = jnp.where(stage == 0, waiting[number], came)
        weights = jax.tree.map(lambda leaf: leaf[turn], each)
        return group(weights, x_btd, jax.tree.map(lambda leaf: leaf[number], rows), shared, number)

    def store(waiting, came, tick):
        back = tick - stages  # the item that has come round
        slot = jnp.maximum(back, 0) % m
        return waiting.at[slot].set(jnp.where(back >= 0, came, waiting[slot]))

    def one(carry, tick):
        waiting, came, sown = carry
        waiting = store(waiting, came, tick)
        x_btd, more = work(came, waiting, tick)
        item = tick - stage
        real = (item >= 0) & (item < m * rounds)
        turn = jnp.clip(item // m, 0, rounds - 1)
        sown = jax.tree.map(lambda leaf, new: leaf.at[turn].add(jnp.where(real, new, 0) / m), sown, more)
        return (waiting, jax.lax.ppermute(x_btd, AXIS, onward), sown), None

    came, ticks = x_mbtd[0], m * rounds + stages - 1
    more = jax.eval_shape(lambda: work(came, x_mbtd, 0)[1])
    sown = jax.tree.map(lambda leaf: jnp.zeros((rounds, *leaf.shape), leaf.dtype), more)
    (waiting, came, sown), _ = jax.lax.scan(one, (x_mbtd, came, sown), jnp.arange(ticks))
    waiting = store(waiting, came, ticks)
    return waiting[None], jax.tree.map(lambda leaf: leaf[:, None], sown)


def _manual() -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(mesh.manual_axes)
