"""Recurrent cells: what one step of time does, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

State = tuple[jax.Array, ...]  # of a cell, float32 (b, f) each: the hidden state, and for an LSTM what its cells hold
Gates = tuple[jax.Array, ...]  # an array (b, f), or (t, b, f), for each gate of a cell


class Cell(NamedTuple):
    """Gates and states of a cell, its step, and the gradient of its step.

    scale: of what goes into each gate: sigmoid(x) = (1 + tanh(x / 2)) / 2, so every gate is one tanh.
    step(x, r, state) -> (state, saved), x and r being what the input and the last hidden state put into the gates.
    pull(dstate, saved, before, after) -> (dx, dstate), the gradients of x and of the state before, without what comes
    through r. through(dx, saved) -> the gradient of r.

    Every gate is an array of its own: on XLA:CPU slices of a common one cost the scan of an LSTM a quarter of its time.
    """

    scale: tuple[float, ...]
    states: int
    step: Callable[[Gates, Gates, State], tuple[State, Gates]]
    pull: Callable[[State, Gates, State, State], tuple[Gates, State]]
    through: Callable[[Gates, Gates], Gates]

    @property
    def gates(self) -> int:
        return len(self.scale)


def _open(a: jax.Array) -> jax.Array:
    """The sigmoid, from the tanh of half of what goes in."""
    return 0.5 + 0.5 * a


def _elman_step(x, r, state):
    return (jnp.tanh(x[0] + r[0]),), ()


def _elman_pull(dstate, saved, before, after):
    return (dstate[0] * (1 - after[0] ** 2),), (None,)


def _lstm_step(x, r, state):
    write, forget, new, read = saved = tuple(jnp.tanh(a + b) for a, b in zip(x, r, strict=True))
    cell = _open(forget) * state[1] + _open(write) * new
    return (_open(read) * jnp.tanh(cell), cell), saved


def _lstm_pull(dstate, saved, before, after):
    write, forget, new, read = saved
    tanh, dhidden = jnp.tanh(after[1]), dstate[0]
    dcell = dstate[1] + dhidden * _open(read) * (1 - tanh**2)
    da = (dcell * new * 0.5, dcell * before[1] * 0.5, dcell * _open(write), dhidden * tanh * 0.5)
    return tuple(d * (1 - a**2) for d, a in zip(da, saved, strict=True)), (None, dcell * _open(forget))


def _gru_step(x, r, state):
    reset, keep = (jnp.tanh(a + b) for a, b in zip(x[:2], r[:2], strict=True))
    new = jnp.tanh(x[2] + _open(reset) * r[2])
    return ((1 - _open(keep)) * new + _open(keep) * state[0],), (reset, keep, new, r[2])


def _gru_pull(dstate, saved, before, after):
    (reset, keep, new, r), dhidden = saved, dstate[0]
    dnew = dhidden * (1 - _open(keep)) * (1 - new**2)
    dreset = dnew * r * 0.5 * (1 - reset**2)
    dkeep = dhidden * (before[0] - new) * 0.5 * (1 - keep**2)
    return (dreset, dkeep, dnew), (dhidden * _open(keep),)


def _same(dx, saved):
    return dx


def _gru_through(dx, saved):
    return (*dx[:2], dx[2] * _open(saved[0]))


CELLS = {  # gates in the order of torch.nn
    "elman": Cell((1.0,), 1, _elman_step, _elman_pull, _same),  # Elman 1990
    "lstm": Cell((0.5, 0.5, 1.0, 0.5), 2, _lstm_step, _lstm_pull, _same),  # Hochreiter & Schmidhuber 1997; Gers 2000
    "gru": Cell((0.5, 0.5, 1.0), 1, _gru_step, _gru_pull, _gru_through),  # Cho et al. 2014; reset after the product
}


def empty(cell: str, b: int, f: int) -> State:
    """A state of nothing but zeros."""
    return tuple(jnp.zeros((b, f), jnp.float32) for _ in range(CELLS[cell].states))


def from_torch(weights: Mapping[str, Any], cell: str) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of a `recurrent.Stack` from the state_dict of a torch.nn.RNN (tanh), LSTM or GRU, as arrays.

    PyTorch has two biases in every gate; their sum is the one here, but in the last gate of a GRU, where both are.
    """
    gates, found = CELLS[cell].gates, {}
    for name, value in weights.items():
        kind, _, place = name.rpartition("_l")
        number, _, direction = place.partition("_")
        layer = found.setdefault(f"layer_{number}" + ("_back" if direction else ""), {})
        value = np.asarray(value)
        value = value.reshape(gates, -1, *value.shape[1:])
        if kind in ("weight_ih", "weight_hh"):
            layer["input" if kind == "weight_ih" else "recurrent"] = value.swapaxes(1, 2)
            continue
        if kind == "bias_hh" and cell == "gru":
            layer["recurrent_bias"] = value[-1]
            value = np.concatenate([value[:-1], np.zeros_like(value[-1:])])
        layer["bias"] = layer.get("bias", 0) + value
    return found
