"""Layers of recurrent cells over time, with a gradient written out for the whole sequence.

The input's product with its weights is one product for all times, outside the scan. So are the gradients of all
weights: the backward scan keeps the gradients of the gates, and one product over time and rows follows it, where the
automatic gradient adds a product of its own to a matrix as large as the weights at every time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.cells import CELLS, Gates, State, empty
from lmjax.layers.linear import project
from lmjax.sharding import constrain, param


class Flow(NamedTuple):
    """Where a state goes on: float32 (t, b), 0 where it is forgotten, and where its gradient is cut as well."""

    keep_tb: jax.Array
    gradient_tb: jax.Array


def flow(
    segments_bt: jax.Array, before_b: jax.Array | None = None, *, truncate: int | None = None, reverse: bool = False
) -> Flow:
    """States that start anew with every segment, in the order of the scan.

    before_b: the segment that came before the first (none: whatever is given as the start enters). truncate: gradients
    go back `truncate` tokens at most, to the last multiple of it (Williams & Peng 1990); states go on all the same.
    """
    segments_tb = segments_bt.T
    ends = segments_tb[-1:] if reverse else segments_tb[:1]
    ends = ends if before_b is None else before_b[None]
    last_tb = jnp.concatenate([segments_tb[1:], ends] if reverse else [ends, segments_tb[:-1]])
    keep_tb = (segments_tb == last_tb).astype(jnp.float32)
    if truncate is None:
        return Flow(keep_tb, keep_tb)
    inside_t = (jnp.arange(segments_tb.shape[0]) % truncate != 0).astype(jnp.float32)
    return Flow(keep_tb, keep_tb * inside_t[:, None])


def _shift(x: jax.Array, first: jax.Array, reverse: bool) -> jax.Array:
    """What was there one step before, in the order of the scan."""
    return jnp.concatenate([x[1:], first[None]] if reverse else [first[None], x[:-1]])


def _recur(state: State, weights_df: Gates, bias_f: jax.Array | None) -> Gates:
    """What the hidden state puts into the gates, float32 (b, f) each; a GRU's last one has a bias in it."""
    hidden_bd = constrain(state[0].astype(weights_df[0].dtype), "bd")
    r = [jnp.dot(hidden_bd, weight_df, preferred_element_type=jnp.float32) for weight_df in weights_df]
    return tuple(r) if bias_f is None else (*r[:-1], r[-1] + bias_f)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    kind: str, reverse: bool, x: Gates, weight_qdf: jax.Array, bias_f: jax.Array | None, start: State, flow: Flow
) -> tuple[jax.Array, State]:
    """Hidden states (t, b, f) in the type of x, (t, b, f) a gate, and the last state, of a cell of `CELLS`.

    What goes into the gates, x and the weights, is scaled already by the cell's `scale`.
    """
    return _forward(kind, reverse, x, weight_qdf, bias_f, start, flow)[0]


def _forward(kind, reverse, x, weight_qdf, bias_f, start, flow):
    cell, dtype, weights_df = CELLS[kind], x[0].dtype, tuple(weight_qdf)
    start = tuple(s_bf * flow.keep_tb[-1 if reverse else 0][:, None] for s_bf in start)
    next_tb = _shift(flow.keep_tb, jnp.ones_like(flow.keep_tb[0]), not reverse)

    def step(state, now):
        x, next_b = now
        x = tuple(x_bf.astype(jnp.float32) for x_bf in x)
        new, saved = cell.step(x, _recur(state, weights_df, bias_f), state)
        kept = (new[0].astype(dtype), *new[1:]), tuple(s_bf.astype(dtype) for s_bf in saved)
        return tuple(s_bf * next_b[:, None] for s_bf in new), kept

    last, (states, saved) = jax.lax.scan(step, start, (x, next_tb), reverse=reverse)
    return (states[0], last), (weight_qdf, bias_f, start, flow, states, saved)


def _backward(kind, reverse, residuals, cotangents):
    weight_qdf, bias_f, start, flow, states, saved = residuals
    cell, dtype, weights_fd = CELLS[kind], states[0].dtype, tuple(weight_qdf.swapaxes(1, 2))
    before = tuple(_shift(s, b.astype(s.dtype), reverse) * flow.keep_tb[..., None].astype(s.dtype)
                   for s, b in zip(states, start, strict=True))  # fmt: skip

    def step(dstate, now):
        dhidden_bf, saved, before, after, through_b = now
        dstate = (dstate[0] + dhidden_bf.astype(jnp.float32), *dstate[1:])
        dx, (direct, *others) = cell.pull(dstate, saved, before, after)
        dx = tuple(d_bf.astype(dtype) for d_bf in dx)
        dhidden_bd = 0.0 if direct is None else direct
        for r_bf, weight_fd in zip(cell.through(dx, saved), weights_fd, strict=True):
            dhidden_bd += jnp.dot(r_bf, weight_fd, preferred_element_type=jnp.float32)
        return tuple(d_bf * through_b[:, None] for d_bf in (dhidden_bd, *others)), dx

    times = (cotangents[0], saved, before, states, flow.gradient_tb)
    dstart, dx = jax.lax.scan(step, cotangents[1], times, reverse=not reverse)
    r = cell.through(dx, saved)
    dweight_qdf = jnp.stack([jax.lax.dot_general(before[0], r_tbf, (((0, 1), (0, 1)), ((), ()))) for r_tbf in r])
    dbias_f = None if bias_f is None else r[-1].astype(jnp.float32).sum((0, 1)).astype(bias_f.dtype)
    return dx, dweight_qdf, dbias_f, dstart, None


recur.defvjp(_forward, _backward)


class Weights(NamedTuple):
    """A layer's parameters as its cell needs them: scaled for its gates, in the compute dtype."""

    input_qdf: jax.Array
    recurrent_qdf: jax.Array
    bias_qf: jax.Array
    bias_f: jax.Array | None  # of the last gate of a GRU, inside of what its reset gate multiplies

    def gates(self, x: jax.Array) -> Gates:
        """What the input (t, b, d) or (b, d) puts into the gates."""
        return tuple(a + bias_f for a, bias_f in zip(into_gates(x, self.input_qdf), self.bias_qf, strict=True))

    def step(self, cell: str, x: Gates, state: State) -> State:
        """The state after one time, of which the input has put x, (b, f) each, into the gates."""
        r = _recur(state, tuple(self.recurrent_qdf), self.bias_f)
        return CELLS[cell].step(tuple(x_bf.astype(jnp.float32) for x_bf in x), r, state)[0]


def into_gates(x: jax.Array, weight_qdf: jax.Array) -> Gates:
    """The products of (t, b, d) or (b, d) with each gate's weights."""
    free = "tb"[3 - x.ndim :]
    spec = f"{free}d,df->{free}f"
    return tuple(constrain(project(spec, x, weight_df), f"{free}f") for weight_df in weight_qdf)


class Recurrent(nn.Module):
    """One layer in one direction, time first: (t, b, d) and a start to (t, b, f) and the last state.

    Parameters: `input` and `recurrent` (q, d, f), q the cell's gates, `bias` (q, f), and a GRU's `recurrent_bias` (f)
    inside of what its reset gate multiplies. Weights are uniform within 1 / sqrt(f); the bias of an LSTM's forget gate
    starts at `forget` (Jozefowicz et al. 2015, section 2.2) and the others at 0.
    """

    cell: str
    inputs: int
    width: int
    reverse: bool = False
    forget: float = 1.0

    def setup(self):
        gates, f, init = CELLS[self.cell].gates, self.width, uniform(self.width**-0.5)
        self.input_qdf = param(self, "input", "qdf", (gates, self.inputs, f), init)
        self.recurrent_qdf = param(self, "recurrent", "qdf", (gates, f, f), init)
        self.bias_qf = param(self, "bias", "qf", (gates, f), self._bias)
        gru = self.cell == "gru"
        self.bias_f = param(self, "recurrent_bias", "f", (f,), nn.initializers.zeros) if gru else None

    def __call__(self, x_tbd: jax.Array, flow: Flow, start: State | None = None) -> tuple[jax.Array, State]:
        weights = self.weights(x_tbd.dtype)
        start = start or empty(self.cell, x_tbd.shape[1], self.width)
        x = weights.gates(x_tbd)
        y_tbf, last = recur(self.cell, self.reverse, x, weights.recurrent_qdf, weights.bias_f, start, flow)
        return constrain(y_tbf, "tbd"), last

    def weights(self, dtype: Any) -> Weights:
        both = [for_gates(self.cell, weight_qdf, dtype) for weight_qdf in (self.input_qdf, self.recurrent_qdf)]
        bias_qf = self.bias_qf * jnp.array(CELLS[self.cell].scale)[:, None]
        return Weights(*both, bias_qf.astype(dtype), self.bias_f)

    def _bias(self, key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        bias_qf = jnp.zeros(shape, dtype)
        return bias_qf.at[1].set(self.forget) if self.cell == "lstm" else bias_qf


def for_gates(cell: str, weight_qdf: jax.Array, dtype: Any) -> jax.Array:
    """Weights into the gates of a cell, scaled, and whole but for f: no time of a scan gathers them again."""
    return constrain((weight_qdf * jnp.array(CELLS[cell].scale)[:, None, None]).astype(dtype), "qdf")


def uniform(bound: float) -> Callable[..., jax.Array]:
    """An initialiser, from -bound to bound."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


class Stack(nn.Module):
    """Layers one on the other, batch first: (b, t, d) to (b, t, width) and the last state of every layer.

    both: each layer is two of half the width, one from the end, and the halves lie beside each other (Schuster &
    Paliwal 1997). Dropout goes over what every layer reads, and never over time (Zaremba et al. 2014, section 3.1).
    """

    cell: str
    depth: int
    width: int
    dropout: float = 0.0
    both: bool = False
    truncate: int | None = None

    @nn.compact
    def __call__(
        self, x_btd: jax.Array, segments_bt: jax.Array, states: list[State] | None = None,
        before_b: jax.Array | None = None, *, train: bool,
    ) -> tuple[jax.Array, list[State]]:  # fmt: skip
        """states: to start from; before_b: the segment that they belong to, where it may not be the row's first."""
        onward = flow(segments_bt, before_b, truncate=self.truncate)
        back = flow(segments_bt, truncate=self.truncate, reverse=True) if self.both else None
        width = self.width // 2 if self.both else self.width
        x_tbd, last = x_btd.swapaxes(0, 1), []
        for i in range(self.depth):
            x_tbd = nn.Dropout(self.dropout, deterministic=not train)(x_tbd)
            start, d = None if states is None else states[i], x_tbd.shape[-1]
            y_tbd, state = Recurrent(self.cell, d, width, name=f"layer_{i}")(x_tbd, onward, start)
            if back is not None:
                z_tbd, _ = Recurrent(self.cell, d, width, reverse=True, name=f"layer_{i}_back")(x_tbd, back)
                y_tbd = jnp.concatenate([y_tbd, z_tbd], axis=-1)
            x_tbd = y_tbd
            last.append(state)
        return constrain(x_tbd.swapaxes(0, 1), "btd"), last
