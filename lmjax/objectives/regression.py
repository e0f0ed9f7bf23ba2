"""One number a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import unknown
from lmjax.metrics import Sum


def regression(
    apply: Callable, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array, *, train: bool,
    error: str = "squared", delta: float = 1.0,
) -> dict[str, Sum]:  # fmt: skip
    """`loss`, `squared_error` and `absolute_error` over the weighted rows of a model that gives a number (b,).

    error: one of `ERRORS`, of which huber is quadratic up to `delta` and linear beyond (Huber 1964, eq. 2.3). Errors are
    in the unit of `value`.
    """
    if error not in ERRORS:
        raise unknown("value of objective.error", error, ERRORS)
    off_b = apply({"params": params}, batch, train=train, rngs={"dropout": rng}) - batch["value"]
    named = {"loss": ERRORS[error](off_b, delta), "squared_error": off_b**2, "absolute_error": jnp.abs(off_b)}
    return {name: Sum.of(values_b, batch["weights"]) for name, values_b in named.items()}


def _squared(off_b: jax.Array, delta: float) -> jax.Array:
    return off_b**2


def _absolute(off_b: jax.Array, delta: float) -> jax.Array:
    return jnp.abs(off_b)


def _huber(off_b: jax.Array, delta: float) -> jax.Array:
    far_b = jnp.abs(off_b)
    return jnp.where(far_b <= delta, off_b**2 / 2, delta * (far_b - delta / 2))


ERRORS = {"squared": _squared, "absolute": _absolute, "huber": _huber}
