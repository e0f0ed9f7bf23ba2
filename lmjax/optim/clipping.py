"""Gradient clipping by name. Stacked layers are clipped layer by layer, as if each had an array of its own."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmjax.errors import UserError, unknown
from lmjax.optim.axes import rms, unit_norm


def _value(grads, params, norm, at, axes):
    return jax.tree.map(lambda g: jnp.clip(g, -at, at), grads)


def _global_norm(grads, params, norm, at, axes):
    scale = at / jnp.maximum(norm, at)  # exactly 1 below the limit; Pascanu et al. 2013, arXiv:1211.5063
    return jax.tree.map(lambda g: g * scale, grads)


def _block_rms(grads, params, norm, at, axes):
    return jax.tree.map(lambda g, a: g * (at / jnp.maximum(rms(g, a), at)), grads, axes)


def _adaptive(grads, params, norm, at, axes):
    """Brock et al. 2021, arXiv:2102.06171, eq. 3: each unit's gradient at most `at` times its weights' norm."""

    def clip(g, p, a):
        limit = at * jnp.maximum(unit_norm(p, a), 1e-3)
        return g * (limit / jnp.maximum(unit_norm(g, a), limit))

    return jax.tree.map(clip, grads, params, axes)


CLIPS: dict[str, Callable] = {
    "none": lambda grads, params, norm, at, axes: grads,
    "value": _value,  # each number to [-at, at]
    "global_norm": _global_norm,  # the whole gradient to 2-norm at
    "block_rms": _block_rms,  # each tensor to root mean square at
    "adaptive": _adaptive,
}


def make(section, axes) -> Callable:
    """clip(grads, params, norm) -> grads, where norm is the whole gradient's 2-norm, which the caller has at hand."""
    if section.by not in CLIPS:
        raise unknown("clipping (optim.clip.by)", section.by, CLIPS)
    if section.by != "none" and not section.at > 0:
        raise UserError(f"optim.clip.at={section.at}: must be above 0; --config.optim.clip.by=none turns clipping off")
    return lambda grads, params, norm: CLIPS[section.by](grads, params, norm, section.at, axes)
