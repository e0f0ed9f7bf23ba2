"""The train step and the evaluation step: pure functions of arrays, for the caller to jit with the state donated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import UserError
from lmjax.metrics import Sum
from lmjax.optim import Optimizer, OptState, trainable, with_frozen

SPIKE_AFTER = 20  # accepted steps before a spike is judged: the first gradients fall fast
SPIKE_MEMORY = 100  # accepted steps that the running mean of gradient norms looks back over


class TrainState(NamedTuple):
    """All that training carries from step to step. step counts every step; the optimizer's counts, accepted ones."""

    step: jax.Array  # int32
    params: Any
    opt_state: OptState
    ema: Any  # like params, or ()
    guard: dict[str, jax.Array]  # skipped, skipped_in_row: int32; norm_mean: float32, of accepted gradients


def init_state(params: Any, optimizer: Optimizer, section: Any) -> TrainState:
    """Step 0; with optim.ema set (section is the config's optim) the average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=() if section.ema is None else jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params),
        guard={"skipped": jnp.int32(0), "skipped_in_row": jnp.int32(0), "norm_mean": jnp.float32(0)},
    )


def make_gradients(
    apply: Callable, objective: Callable, optimizer: Optimizer, *, microbatches: int = 1, seed: int
) -> Callable:
    """gradients(params, batch, step) -> (d mean loss / d params, None where frozen; metrics as Sums).

    The mean is sum(loss) / sum(weight) over all microbatches, however unequal their weights. Microbatch i holds the
    rows i, i + k, i + 2k, ...: every device keeps rows of every one. Randomness: fold_in(fold_in(seed, step), i).
    What the objective gets has the `step` too, for what goes by a schedule.
    """

    def gradients(params, batch, step):
        key = jax.random.fold_in(jax.random.key(seed), step)

        def total(part, rows, i):
            rng = jax.random.fold_in(key, i)
            metrics = objective(apply, with_frozen(part, params), {**rows, "step": step}, rng, train=True)
            return metrics["loss"].total, metrics

        part, grad = trainable(params, optimizer.frozen), jax.grad(total, has_aux=True)
        if microbatches == 1:
            sums, metrics = grad(part, batch, 0)
        else:

            def add(carry, rows_and_i):
                sums, metrics = grad(part, *rows_and_i)
                return jax.tree.map(jnp.add, carry, sums), metrics

            split = jax.tree.map(lambda x: _microbatches(x, microbatches), batch)
            sums, each = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, part), (split, jnp.arange(microbatches)))
            metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
        weight = metrics["loss"].weight
        scale = jnp.where(weight > 0, 1 / weight, 0.0)
        return jax.tree.map(lambda g: g * scale, sums), metrics

    return gradients


def _microbatches(x: jax.Array, k: int) -> jax.Array:
    if x.shape[0] % k:
        raise UserError(f"optim.microbatches={k} does not divide the batch of {x.shape[0]} rows")
    return jnp.swapaxes(x.reshape(x.shape[0] // k, k, *x.shape[1:]), 0, 1)


def make_train_step(
    apply: Callable,
    objective: Callable,
    optimizer: Optimizer,
    *,
    microbatches: int = 1,
    seed: int,
    ema: float | None = None,
    skip: Any = None,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Sum]]]:
    """step(state, batch) -> (state, metrics): the objective's Sums with grad_norm, learning_rate and skipped.

    skip is the config's optim.skip: a step whose loss or gradient is not finite (nonfinite), or whose gradient norm
    is above spike times the running mean, leaves params, opt_state and ema as they are, bit for bit, and is counted;
    what is not finite then stays out of the metrics too. ema is the decay d of the average e += (1 - d) (p - e),
    where d is at most (1 + n) / (10 + n) after n accepted steps, so that a short run is not an average of its start.
    """
    gradients = make_gradients(apply, objective, optimizer, microbatches=microbatches, seed=seed)
    nonfinite, spike = (skip.nonfinite, skip.spike) if skip is not None else (False, None)

    def train_step(state, batch):
        grads, metrics = gradients(state.params, batch, state.step)
        norm = optax.tree.norm(grads)
        total, weight = metrics["loss"].total, metrics["loss"].weight
        loss = total / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
        accepted = state.step - state.guard["skipped"]
        metrics = {**metrics, "grad_norm": Sum(norm, jnp.float32(1))}
        ok = jnp.bool_(True)
        if nonfinite:
            ok &= jnp.isfinite(norm) & jnp.isfinite(loss)
            metrics = jax.tree.map(_finite, metrics, is_leaf=lambda x: isinstance(x, Sum))
        if spike is not None:
            ok &= ~((accepted >= SPIKE_AFTER) & (norm > spike * state.guard["norm_mean"]))

        def accept(params, opt_state, average):
            params, opt_state = optimizer.update(grads, opt_state, params, step=state.step, loss=loss, norm=norm)
            if ema is not None:
                d = jnp.minimum(ema, (1.0 + accepted) / (10.0 + accepted))
                average = jax.tree.map(lambda e, p: e + (1 - d) * (p - e), average, params)
            return params, opt_state, average

        guarded = nonfinite or spike is not None
        old = state.params, state.opt_state, state.ema
        params, opt_state, average = _if(ok, accept, old) if guarded else accept(*old)
        metrics["learning_rate"] = Sum(optimizer.learning_rate(state.step, opt_state), jnp.float32(1))
        metrics["skipped"] = Sum(1 - ok.astype(jnp.float32), jnp.float32(1))
        guard = _count(state.guard, ok, norm, accepted)
        return TrainState(state.step + 1, params, opt_state, average, guard), metrics

    return train_step


def _if(ok: jax.Array, change: Callable, old: tuple) -> tuple:
    """change(*old) if ok, else old.

    On the CPU a conditional costs at most 7 % of an AdamW update, a select per leaf triples it (XLA copies both moments
    first); compiled for a v5e the select adds 8 % to the update's estimated cycles, the conditional 22 %.
    """

    def conditional(*old):
        return jax.lax.cond(ok, change, lambda *old: old, *old)

    def select(*old):
        return jax.tree.map(lambda new, old: jnp.where(ok, new, old), change(*old), old)

    return jax.lax.platform_dependent(*old, cpu=conditional, default=select)


def _finite(s: Sum) -> Sum:
    ok = jnp.isfinite(s.total)
    return Sum(jnp.where(ok, s.total, 0.0), jnp.where(ok, s.weight, 0.0))


def _count(guard: dict, ok: jax.Array, norm: jax.Array, accepted: jax.Array) -> dict:
    share = 1.0 / jnp.minimum(accepted + 1, SPIKE_MEMORY)
    mean = guard["norm_mean"] + share * (norm - guard["norm_mean"])
    return {
        "skipped": guard["skipped"] + ~ok,
        "skipped_in_row": jnp.where(ok, 0, guard["skipped_in_row"] + 1),
        "norm_mean": jnp.where(ok, mean, guard["norm_mean"]),
    }


def make_eval_step(apply: Callable, objective: Callable) -> Callable[[Any, Any], dict[str, Sum]]:
    """step(params, batch) -> the objective's Sums, without dropout; what an objective draws is the same every time."""

    def eval_step(params, batch):
        return objective(apply, params, batch, jax.random.key(0), train=False)

    return eval_step
