"""Position-wise feed-forward networks: plain and gated."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.linear import project
from lmjax.sharding import constrain, param


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


@jax.custom_vjp
def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def _gelu_tanh_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    """By 1 + tanh(u) = 2 sigmoid(2 u). A tanh would be shared with the activation, which is made again for the gradient of
    the next weights: XLA:CPU then writes it down and reads it twice, and that takes longer than a sigmoid.
    """
    a, b = 2 * (2 / math.pi) ** 0.5, 2 * (2 / math.pi) ** 0.5 * 0.044715
    share = jax.nn.sigmoid(x * (a + b * x * x))
    return (dy * (share + x * share * (1 - share) * (a + 3 * b * x * x)),)


_gelu_tanh.defvjp(lambda x: (_gelu_tanh(x), x), _gelu_tanh_backward)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)  # Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2; CLIP has it


def _relu2(x: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS = {
    "gelu": _gelu, "gelu_tanh": _gelu_tanh, "quick_gelu": _quick_gelu, "relu": jax.nn.relu, "relu2": _relu2,
    "silu": jax.nn.silu,
}  # fmt: skip
# Shazeer 2020, arXiv:2002.05202, eq. 6; T5 1.1 has geglu_tanh
GATES = {"geglu": _gelu, "geglu_tanh": _gelu_tanh, "swiglu": jax.nn.silu, "reglu": jax.nn.relu}
MLPS = (*ACTIVATIONS, *GATES)


def default_width(kind: str, width: int) -> int:
    """4 x width, or for gated kinds 8/3 x width rounded up to a multiple of 32 (about the same parameters)."""
    return -(-8 * width // 3 // 32) * 32 if kind in GATES else 4 * width


class Mlp(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) for the gated kinds."""

    kind: str
    hidden: int
    in_init: Callable[[int], Callable]
    out_init: Callable[[int], Callable]
    bias: bool = False

    @nn.compact
    def __call__(self, x_btd: jax.Array) -> jax.Array:
        d, f = x_btd.shape[-1], self.hidden
        up_df = param(self, "up", "df", (d, f), self.in_init(d))
        h_btf = project("btd,df->btf", x_btd, up_df) + self._bias("up_bias", "f", f, x_btd.dtype)
        if self.kind in GATES:
            gate_df = param(self, "gate", "df", (d, f), self.in_init(d))
            gate_btf = project("btd,df->btf", x_btd, gate_df) + self._bias("gate_bias", "f", f, x_btd.dtype)
            h_btf = GATES[self.kind](gate_btf) * h_btf
        else:
            h_btf = ACTIVATIONS[self.kind](h_btf)
        h_btf = constrain(h_btf, "btf")
        down_fd = param(self, "down", "fd", (f, d), self.out_init(f))
        out_btd = project("btf,fd->btd", h_btf, down_fd) + self._bias("down_bias", "d", d, x_btd.dtype)
        return constrain(out_btd, "btd")

    def _bias(self, name: str, dim: str, size: int, dtype: jnp.dtype) -> jax.Array | float:
        return param(self, name, dim, (size,), nn.initializers.zeros).astype(dtype) if self.bias else 0.0
