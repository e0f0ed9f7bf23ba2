"""Images and their captions: each is to be nearer to its own than to any other of the batch.

The loss compares the rows of a whole batch, on however many devices, so it is another loss for batches of another size:
in evaluation, too, where the last batch may be smaller. For a number that does not depend on batches, rank all images
against all captions (`lmjax eval`).

Rows that are padding neither count nor are compared with. Rows with the same caption, or the same image to the last
bit, belong to each other as much as each to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.metrics import Sum

FAR = -1e30  # the logit of a row that is padding


class Compared(NamedTuple):
    """Every image (b) with every caption (c, the same rows again)."""

    logits_bc: jax.Array
    belongs_bc: jax.Array  # boolean
    real_b: jax.Array  # float32, 0 for padding


def softmax_contrastive(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool
) -> dict[str, Sum]:
    """`loss`, nats a row: the mean of two cross-entropies, over the captions for each image and the other way round.

    Radford et al. 2021, arXiv:2103.00020, figure 3. With several captions that belong, each has the same share of the
    target (Khosla et al. 2020, arXiv:2004.11362, eq. 2). Also `image_to_text`, `text_to_image` and `scale`.
    """
    compared, sums = _compared(apply, params, batch, rng, train)
    logits_bc, belongs_bc, real_b = compared
    share_bc = belongs_bc / jnp.maximum(jnp.sum(belongs_bc, axis=1, keepdims=True), 1)
    image_b = -jnp.sum(share_bc * jax.nn.log_softmax(logits_bc, axis=1), axis=1)
    text_b = -jnp.sum(share_bc.T * jax.nn.log_softmax(logits_bc.T, axis=1), axis=1)
    return {"loss": Sum.of((image_b + text_b) / 2, real_b), **sums}


def sigmoid_contrastive(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool
) -> dict[str, Sum]:
    """`loss`, nats a row: of every image with every caption, whether they belong; summed over the captions of the batch.

    Zhai et al. 2023, arXiv:2303.15343, eq. 1; UserError for a model without the bias that it needs. Also
    `image_to_text`, `text_to_image` and `scale`.
    """
    compared, sums = _compared(apply, params, batch, rng, train, bias=True)
    logits_bc, belongs_bc, real_b = compared
    sign_bc = jnp.where(belongs_bc, 1.0, -1.0)
    nll_bc = jnp.where(real_b > 0, -jax.nn.log_sigmoid(sign_bc * logits_bc), 0.0)
    return {"loss": Sum.of(jnp.sum(nll_bc, axis=1), real_b), **sums}


def _compared(apply, params, batch, rng, train, bias: bool = False) -> tuple[Compared, dict[str, Sum]]:
    """Logits and what belongs, and the metrics that both losses have."""
    found = apply({"params": params}, batch, train=train, rngs={"dropout": rng})
    logits_bc = found.scale * jnp.einsum("bo,co->bc", found.image_bo, found.text_bo)
    if bias:
        if found.bias is None:
            raise UserError("objective.kind=sigmoid_contrastive needs a model with a bias, such as model.bias=-10")
        logits_bc += found.bias
    real_b = jnp.any(batch["segments"] > 0, axis=1).astype(jnp.float32)
    both_bc = (real_b[:, None] * real_b[None, :]) > 0
    logits_bc = jnp.where(both_bc, logits_bc, FAR)
    belongs_bc = belonging(batch) & both_bc
    sums = {
        "image_to_text": Sum.of(_first(logits_bc, belongs_bc), real_b),
        "text_to_image": Sum.of(_first(logits_bc.T, belongs_bc.T), real_b),
        "scale": Sum(found.scale, jnp.float32(1)),
    }
    return Compared(logits_bc, belongs_bc, real_b), sums


def _first(logits_bc: jax.Array, belongs_bc: jax.Array) -> jax.Array:
    """Whether the likeliest of each row belongs to it."""
    return jnp.take_along_axis(belongs_bc, jnp.argmax(logits_bc, axis=1)[:, None], axis=1)[:, 0]


def belonging(batch: Mapping[str, jax.Array]) -> jax.Array:
    """(b, c): whether two rows have the same tokens or the same image, by two 32-bit sums of each."""
    tokens_bt = jnp.where(batch["segments"] > 0, batch["tokens"] + 1, 0)
    same_bc = _alike(tokens_bt)
    if jnp.issubdtype(batch["image"].dtype, jnp.integer):  # augmented images are floats, and never the same
        same_bc |= _alike(batch["image"].reshape(batch["image"].shape[0], -1))
    return same_bc


def _alike(numbers_bt: jax.Array) -> jax.Array:
    """Equal rows of integers, but for chances of 1 in 2^64."""
    x_bt, place_t = numbers_bt.astype(jnp.uint32), jnp.arange(numbers_bt.shape[1], dtype=jnp.uint32)
    same_bc = True
    for seed in (0x9E3779B9, 0x85EBCA6B):
        sum_b = jnp.sum(_mixed(x_bt ^ _mixed(place_t + jnp.uint32(seed))), axis=1, dtype=jnp.uint32)
        same_bc &= sum_b[:, None] == sum_b[None, :]
    return same_bc


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits that spreads every bit: the last steps of MurmurHash3 (A. Appleby, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
