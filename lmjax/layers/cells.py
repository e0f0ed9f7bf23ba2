"""Recurrent cells: what one step of time does, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

State = tuple[jax.Array, ...]  # of a cell, float32 (b, f) each: the hidden state, and for an LSTM what its cells hold


class Cell(NamedTuple):
    """Gates and states of a cell, its step, and the gradient of its step.

    scale: of what goes into each gate: sigmoid(x) = (1 + tanh(x / 2)) / 2, so every gate is one tanh.
    step(x_bqf, r_bqf, state) -> (state, saved), from the products of the input and of the last hidden state.
    pull(dstate, saved, before, after) -> (dx_bqf, dstate), the gradients of x_bqf and of the state before, without what
    comes through r_bqf. through(dx, saved) -> the gradient of r_bqf.
    """

    scale: tuple[float, ...]
    states: int
    step: Callable[..., Any]
    pull: Callable[..., Any]
    through: Callable[[jax.Array, Any], jax.Array]

    @property
    def gates(self) -> int:
        return len(self.scale)


def _elman_step(x_bqf, r_bqf, state):
    return (jnp.tanh(x_bqf + r_bqf)[:, 0],), ()


def _elman_pull(dstate, saved, before, after):
    return (dstate[0] * (1 - after[0] ** 2))[:, None], (None,)


def _lstm_step(x_bqf, r_bqf, state):
    a_bqf = jnp.tanh(x_bqf + r_bqf)
    write, forget, new, read = (a_bqf[:, i] for i in range(4))
    cell = (0.5 + 0.5 * forget) * state[1] + (0.5 + 0.5 * write) * new
    return ((0.5 + 0.5 * read) * jnp.tanh(cell), cell), a_bqf


def _lstm_pull(dstate, a_bqf, before, after):
    write, forget, new, read = (a_bqf[:, i] for i in range(4))
    tanh, dhidden = jnp.tanh(after[1]), dstate[0]
    dcell = dstate[1] + dhidden * (0.5 + 0.5 * read) * (1 - tanh**2)
    da = [dcell * new * 0.5, dcell * before[1] * 0.5, dcell * (0.5 + 0.5 * write), dhidden * tanh * 0.5]
    gates = (write, forget, new, read)
    dx_bqf = jnp.stack([d * (1 - a**2) for d, a in zip(da, gates, strict=True)], axis=1)
    return dx_bqf, (None, dcell * (0.5 + 0.5 * forget))


def _gru_step(x_bqf, r_bqf, state):
    a_bqf = jnp.tanh(x_bqf[:, :2] + r_bqf[:, :2])
    reset, keep = 0.5 + 0.5 * a_bqf[:, 0], 0.5 + 0.5 * a_bqf[:, 1]
    new = jnp.tanh(x_bqf[:, 2] + reset * r_bqf[:, 2])
    return ((1 - keep) * new + keep * state[0],), (a_bqf, new, r_bqf[:, 2])


def _gru_pull(dstate, saved, before, after):
    a_bqf, new, r_bf = saved
    dhidden, keep = dstate[0], 0.5 + 0.5 * a_bqf[:, 1]
    dnew = dhidden * (1 - keep) * (1 - new**2)
    dreset = dnew * r_bf * 0.5 * (1 - a_bqf[:, 0] ** 2)
    dkeep = dhidden * (before[0] - new) * 0.5 * (1 - a_bqf[:, 1] ** 2)
    return jnp.stack([dreset, dkeep, dnew], axis=1), (dhidden * keep,)


def _same(dx, saved):
    return dx


def _gru_through(dx, saved):
    reset = 0.5 + 0.5 * saved[0][..., 0, :]
    return jnp.concatenate([dx[..., :2, :], (dx[..., 2, :] * reset)[..., None, :]], axis=-2)


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
