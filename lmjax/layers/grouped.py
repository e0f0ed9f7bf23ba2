"""Products of sorted tokens with one matrix of several each: the multiplications of a mixture of experts.

A layout is made of `chosen_n`, the expert of each of n choices (choice i is of token i // top), and has
`gather(x_nd, top)`, the tokens in the order that it multiplies, `product(held, w_exy)`, and `scatter(out)`, which puts
products back into the order of the choices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 64  # tokens


class Ragged(NamedTuple):
    """Groups of any size, one after the other, for `jax.lax.ragged_dot`: fast where it is a kernel (TPU, GPU).

    XLA:CPU makes a product with every expert of it.
    """

    order_n: jax.Array
    sizes_e: jax.Array

    def gather(self, x_nd: jax.Array, top: int) -> jax.Array:
        return x_nd[self.order_n // top]

    def product(self, held_nx: jax.Array, w_exy: jax.Array) -> jax.Array:
        return jax.lax.ragged_dot(held_nx, w_exy, self.sizes_e)

    def scatter(self, out_ny: jax.Array) -> jax.Array:
        return jnp.zeros_like(out_ny).at[self.order_n].set(out_ny, unique_indices=True)


class Blocks(NamedTuple):
    """Groups filled up to blocks of `BLOCK` tokens, each of one expert, multiplied one after the other: for CPUs."""

    place_n: jax.Array  # of each choice among the rows of all blocks
    choice_m: jax.Array  # of each row; n where it only fills up
    expert_p: jax.Array  # of each block

    def gather(self, x_nd: jax.Array, top: int) -> jax.Array:
        padded_nd = jnp.pad(x_nd, ((0, 1), (0, 0)))
        held_md = padded_nd[jnp.minimum(self.choice_m // top, x_nd.shape[0])]
        return held_md.reshape(len(self.expert_p), -1, x_nd.shape[1])

    def product(self, held_pcx: jax.Array, w_exy: jax.Array) -> jax.Array:
        return block_product(held_pcx, w_exy, self.expert_p)

    def scatter(self, out_pcy: jax.Array) -> jax.Array:
        return out_pcy.reshape(-1, out_pcy.shape[-1])[self.place_n]


def ragged(chosen_n: jax.Array, experts: int) -> Ragged:
    """The choices sorted by expert."""
    return Ragged(jnp.argsort(chosen_n, stable=True), jnp.bincount(chosen_n, length=experts))


def blocks(chosen_n: jax.Array, experts: int) -> Blocks:
    """The choices in blocks; the last of each expert's is filled up."""
    n = len(chosen_n)
    size = min(BLOCK, max(8, n // experts))
    order_n = jnp.argsort(chosen_n, stable=True)
    counts_e = jnp.bincount(chosen_n, length=experts)
    needed_e = -(-counts_e // size)  # blocks
    ends_e = jnp.cumsum(needed_e)
    sorted_n = chosen_n[order_n]
    begins_e = jnp.cumsum(counts_e) - counts_e
    places_n = (ends_e - needed_e)[sorted_n] * size + jnp.arange(n) - begins_e[sorted_n]
    number = -(-n // size) + experts
    place_n = jnp.zeros(n, jnp.int32).at[order_n].set(places_n, unique_indices=True)
    choice_m = jnp.full(number * size, n).at[place_n].set(jnp.arange(n), unique_indices=True)
    expert_p = jnp.minimum(jnp.searchsorted(ends_e, jnp.arange(number), side="right"), experts - 1)
    return Blocks(place_n, choice_m, expert_p)


@jax.custom_vjp
def block_product(x_pcx: jax.Array, w_exy: jax.Array, expert_p: jax.Array) -> jax.Array:
    """x_pcx[p] @ w_exy[expert_p[p]] for every block p, one at a time, so that no matrix is copied more than once."""
    return jax.lax.map(lambda block: block[0] @ w_exy[block[1]], (x_pcx, expert_p))


def _forward(x_pcx, w_exy, expert_p):
    return block_product(x_pcx, w_exy, expert_p), (x_pcx, w_exy, expert_p)


def _backward(saved, dy_pcy):
    """The gradient of the matrices is added up in place, block by block."""
    x_pcx, w_exy, expert_p = saved

    def one(dw_exy, block):
        x_cx, dy_cy, expert = block
        dw_exy = dw_exy.at[expert].add((x_cx.T @ dy_cy).astype(dw_exy.dtype))
        return dw_exy, dy_cy @ w_exy[expert].T

    dw_exy, dx_pcx = jax.lax.scan(one, jnp.zeros(w_exy.shape, jnp.float32), (x_pcx, dy_pcy, expert_p))
    return dx_pcx, dw_exy.astype(w_exy.dtype), None


block_product.defvjp(_forward, _backward)

GROUPED = {"ragged": ragged, "blocks": blocks}
