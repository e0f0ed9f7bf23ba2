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

from lmjax.layers.cells import CELLS, State, empty
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


def _recur(state: State, weight_dqf: jax.Array, bias_f: jax.Array | None) -> jax.Array:
    """The product of the hidden state, float32 (b, q, f); a GRU's last gate has a bias inside it."""
    hidden_bd = constrain(state[0].astype(weight_dqf.dtype), "bd")
    r_bqf = jax.lax.dot_general(hidden_bd, weight_dqf, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return r_bqf if bias_f is None else r_bqf.at[:, -1].add(bias_f)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    kind: str, reverse: bool, x_tbqf: jax.Array, weight_dqf: jax.Array, bias_f: jax.Array | None, start: State,
    flow: Flow,
) -> tuple[jax.Array, State]:  # fmt: skip
    """Hidden states (t, b, f) in the type of x_tbqf, and the last state, of a cell of `CELLS`.

    What goes into the gates, x_tbqf and the weights, is scaled already by the cell's `scale`.
    """
    return _forward(kind, reverse, x_tbqf, weight_dqf, bias_f, start, flow)[0]


def _forward(kind, reverse, x_tbqf, weight_dqf, bias_f, start, flow):
    cell, dtype = CELLS[kind], x_tbqf.dtype
    first = -1 if reverse else 0
    start = tuple(s_bf * flow.keep_tb[first][:, None] for s_bf in start)
    ones_b = jnp.ones_like(flow.keep_tb[0])
    next_tb = _shift(flow.keep_tb, ones_b, not reverse)

    def step(state, now):
        x_bqf, next_b = now
        new, saved = cell.step(x_bqf.astype(jnp.float32), _recur(state, weight_dqf, bias_f), state)
        kept = (new[0].astype(dtype), *new[1:]), jax.tree.map(lambda s: s.astype(dtype), saved)
        return tuple(s_bf * next_b[:, None] for s_bf in new), kept

    last, (states, saved) = jax.lax.scan(step, start, (x_tbqf, next_tb), reverse=reverse)
    return (states[0], last), (weight_dqf, bias_f, start, flow, states, saved)


def _backward(kind, reverse, residuals, cotangents):
    weight_dqf, bias_f, start, flow, states, saved = residuals
    cell, dtype = CELLS[kind], states[0].dtype
    weight_qfd = weight_dqf.transpose(1, 2, 0)
    before = tuple(_shift(s, b.astype(s.dtype), reverse) * flow.keep_tb[..., None].astype(s.dtype)
                   for s, b in zip(states, start, strict=True))  # fmt: skip

    def step(dstate, now):
        dhidden_bf, saved, before, after, through_b = now
        dstate = (dstate[0] + dhidden_bf.astype(jnp.float32), *dstate[1:])
        dx_bqf, (direct, *others) = cell.pull(dstate, saved, before, after)
        dx_bqf = dx_bqf.astype(dtype)
        r_bqf = cell.through(dx_bqf, saved)
        dhidden_bd = jax.lax.dot_general(
            r_bqf, weight_qfd, (((1, 2), (0, 1)), ((), ())), preferred_element_type=jnp.float32
        )
        dhidden_bd = dhidden_bd if direct is None else dhidden_bd + direct
        return tuple(d_bf * through_b[:, None] for d_bf in (dhidden_bd, *others)), dx_bqf

    times = (cotangents[0], saved, before, states, flow.gradient_tb)
    dstart, dx_tbqf = jax.lax.scan(step, cotangents[1], times, reverse=not reverse)
    r_tbqf = cell.through(dx_tbqf, saved)
    dweight_dqf = jax.lax.dot_general(before[0], r_tbqf, (((0, 1), (0, 1)), ((), ())))
    dbias_f = None if bias_f is None else r_tbqf[:, :, -1].astype(jnp.float32).sum((0, 1)).astype(bias_f.dtype)
    return dx_tbqf, dweight_dqf, dbias_f, dstart, None


recur.defvjp(_forward, _backward)


class Weights(NamedTuple):
    """A layer's parameters as its cell needs them: scaled for its gates, in the compute dtype."""

    input_dqf: jax.Array
    recurrent_dqf: jax.Array
    bias_qf: jax.Array
    bias_f: jax.Array | None  # of the last gate of a GRU, inside of what its reset gate multiplies

    def gates(self, x_tbd: jax.Array) -> jax.Array:
        """What the input puts into the gates at all times, (t, b, q, f)."""
        return constrain(project("tbd,dqf->tbqf", x_tbd, self.input_dqf) + self.bias_qf, "tbqf")

    def step(self, cell: str, x_bqf: jax.Array, state: State) -> State:
        """The state after one time, of which the input has put x_bqf into the gates."""
        r_bqf = _recur(state, self.recurrent_dqf, self.bias_f)
        return CELLS[cell].step(x_bqf.astype(jnp.float32), r_bqf, state)[0]


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
        x_tbqf = weights.gates(x_tbd)
        y_tbf, last = recur(self.cell, self.reverse, x_tbqf, weights.recurrent_dqf, weights.bias_f, start, flow)
        return constrain(y_tbf, "tbd"), last

    def weights(self, dtype: Any) -> Weights:
        both = [for_gates(self.cell, weight_qdf, dtype) for weight_qdf in (self.input_qdf, self.recurrent_qdf)]
        bias_qf = self.bias_qf * jnp.array(CELLS[self.cell].scale)[:, None]
        return Weights(*both, bias_qf.astype(dtype), self.bias_f)

    def _bias(self, key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        bias_qf = jnp.zeros(shape, dtype)
        return bias_qf.at[1].set(self.forget) if self.cell == "lstm" else bias_qf


def for_gates(cell: str, weight_qdf: jax.Array, dtype: Any) -> jax.Array:
    """Weights into the gates of a cell as (d, q, f), scaled, and whole but for f: no time of a scan gathers them again."""
    scale_q = jnp.array(CELLS[cell].scale)
    return constrain((weight_qdf * scale_q[:, None, None]).transpose(1, 0, 2).astype(dtype), "dqf")


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
