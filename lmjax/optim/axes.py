"""What each axis of a parameter is to an optimizer, read from its dimension letters."""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

HIDDEN = frozenset("dfhgrke")  # letters of the hidden layers' matrices: not v, t, s, p, nor any other table's


class Axes(NamedTuple):
    """Axes by position. One layer's (and expert's) parameter is one tensor, however many are stacked in an array."""

    stack: tuple[int, ...]  # layers, experts and gates: every one is a tensor of its own
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]  # empty for a vector
    matrix: bool  # a hidden layer's matrix, which Muon may orthogonalise

    @property
    def tensor(self) -> tuple[int, ...]:
        return self.inputs + self.outputs


def axes(dims: str) -> Axes:
    """Reads letters such as "ldhk": leading l, e and q are stacked, neighbours among h g r k are one axis, inputs first.

    "ldhk" maps d to (h, k); "lhkd" maps (h, k) to d; "ledf" is l x e matrices from d to f; "lhk" is a bias. "vd" and
    "td" are tables, so no matrices for Muon; of more than two axes, a convolution's, the last is the output.
    """
    stack, rest = re.fullmatch(r"([leq]*)(.*)", dims).groups()
    if not rest:  # one number per layer
        stack, rest = "", dims
    groups = re.findall(r"[hgrk]+|.", rest)
    spans, start = [], len(stack)
    for group in groups:
        spans.append(tuple(range(start, start + len(group))))
        start += len(group)
    split = len(spans) - 1 if len(spans) > 1 else len(spans)
    inputs, outputs = sum(spans[:split], ()), sum(spans[split:], ())
    return Axes(tuple(range(len(stack))), inputs, outputs, len(groups) == 2 and HIDDEN.issuperset(rest))


def rms(x: jax.Array, axes: Axes) -> jax.Array:
    """Root mean square of each stacked tensor, in a shape that broadcasts against x."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes.tensor, keepdims=True))


def norm(x: jax.Array, axes: Axes) -> jax.Array:
    """2-norm of each stacked tensor, in a shape that broadcasts against x."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes.tensor, keepdims=True))


def unit_norm(x: jax.Array, axes: Axes) -> jax.Array:
    """2-norm of the weights into each output unit (of a whole vector, if it has no outputs); arXiv:2102.06171, 4."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes.inputs, keepdims=True))
