"""From features to logits over a padded vocabulary, and the cross-entropy that never keeps all of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax.layers.linear import project
from lmjax.sharding import constrain

PADDED = -1e30  # the logit of a padded id: it takes no part in any softmax


class Readout(NamedTuple):
    """The output table, the size of the true vocabulary inside it, the logit soft cap, and a bias of every id."""

    table_vd: jax.Array
    vocab: int
    softcap: float | None = None
    bias_v: jax.Array | None = None  # not for `chunked_losses`

    def logits(self, x_btd: jax.Array, *, rounded: bool = False) -> jax.Array:
        """Logits (b, t, padded vocabulary) in float32, or rounded to the dtype of x; padded ids are at `PADDED`.

        A training step that keeps bfloat16 logits keeps half of the largest array of a small model; sums over them are
        in float32 all the same.
        """
        logits_btv = project("btd,vd->btv", x_btd, self.table_vd, x_btd.dtype if rounded else jnp.float32)
        if self.bias_v is not None:
            logits_btv += self.bias_v
        logits_btv = self.finish(logits_btv.astype(jnp.float32))
        return constrain(logits_btv.astype(x_btd.dtype) if rounded else logits_btv, "btv")

    def finish(self, logits: jax.Array) -> jax.Array:
        """Soft cap (Gemma 2, section 2: cap x tanh(logits / cap)) and the mask of padded ids."""
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        if self.vocab == logits.shape[-1]:
            return logits
        return jnp.where(jnp.arange(logits.shape[-1]) < self.vocab, logits, PADDED)


def token_losses(
    logits_btv: jax.Array, targets_bt: jax.Array, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Loss and negative log-likelihood of every token, in nats, float32 (b, t), of logits of any precision.

    Label smoothing gives the true class 1 - e + e/V and every other e/V (Szegedy et al. 2016, section 7), V without
    the padded ids, which `Readout` marks. z-loss adds z_loss x log(Z)^2 (Chowdhery et al. 2022, section 5).
    """
    log_z_bt = jax.nn.logsumexp(logits_btv.astype(jnp.float32), axis=-1)
    # Of the logits as they are: for a gather the TPU compiler would write all of their cast down.
    target_bt = jnp.take_along_axis(logits_btv, targets_bt[..., None], axis=-1)[..., 0]
    nll_bt = log_z_bt - target_bt
    loss_bt = nll_bt
    if label_smoothing:
        mean_bt = jnp.mean(logits_btv, axis=-1, where=logits_btv > PADDED / 2, dtype=jnp.float32)
        loss_bt = (1 - label_smoothing) * nll_bt + label_smoothing * (log_z_bt - mean_bt)
    if z_loss:
        loss_bt = loss_bt + z_loss * jnp.square(log_z_bt)
    return loss_bt, nll_bt


def chunked_losses(
    x_btd: jax.Array, readout: Readout, targets_bt: jax.Array, weights_bt: jax.Array, *, chunk: int, **options: float
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums over all tokens of `token_losses`, with `chunk` positions of every row at a time.

    Nothing of size tokens x vocabulary is kept: the forward pass computes each chunk's gradient while its logits are
    there, since the loss is a sum and its gradient only waits for one scalar. Gradients flow from the first sum only.
    """
    if readout.bias_v is not None:
        raise ValueError("the cross-entropy in chunks is for a readout without a bias")
    chunk = max(size for size in range(1, min(chunk, x_btd.shape[1]) + 1) if x_btd.shape[1] % size == 0)
    static = (readout.vocab, readout.softcap, chunk, tuple(sorted(options.items())))
    return _chunked(static, x_btd, readout.table_vd, targets_bt, weights_bt)


def _chunks(array: jax.Array, chunk: int) -> jax.Array:
    b, t = array.shape[:2]
    return array.reshape(b, t // chunk, chunk, *array.shape[2:]).swapaxes(0, 1)


def _sums(static, x_bcd, table_vd, targets_bc, weights_bc):
    vocab, softcap, _, options = static
    logits_bcv = Readout(table_vd, vocab, softcap).logits(x_bcd)
    loss_bc, nll_bc = token_losses(logits_bcv, targets_bc, **dict(options))
    return jnp.sum(loss_bc * weights_bc), jnp.sum(nll_bc * weights_bc)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(static, x_btd, table_vd, targets_bt, weights_bt):
    def one(sums, part):
        return jax.tree.map(jnp.add, sums, _sums(static, part[0], table_vd, part[1], part[2])), None

    parts = [_chunks(array, static[2]) for array in (x_btd, targets_bt, weights_bt)]
    return jax.lax.scan(one, (jnp.zeros(()), jnp.zeros(())), parts)[0]


def _chunked_forward(static, x_btd, table_vd, targets_bt, weights_bt):
    table = table_vd.astype(x_btd.dtype)

    def one(carry, part):
        sums, dtable_vd = carry
        x_bcd, targets_bc, weights_bc = part

        def run(x_bcd, table_vd):
            return _sums(static, x_bcd, table_vd, targets_bc, weights_bc)

        loss, pull, nll = jax.vjp(run, x_bcd, table, has_aux=True)
        dx_bcd, dpart_vd = pull(jnp.ones(()))
        return ((sums[0] + loss, sums[1] + nll), dtable_vd + dpart_vd.astype(jnp.float32)), dx_bcd

    parts = [_chunks(array, static[2]) for array in (x_btd, targets_bt, weights_bt)]
    start = ((jnp.zeros(()), jnp.zeros(())), jnp.zeros(table_vd.shape, jnp.float32))
    (sums, dtable_vd), dx_nbcd = jax.lax.scan(one, start, parts)
    return sums, (dx_nbcd.swapaxes(0, 1).reshape(x_btd.shape), dtable_vd.astype(table_vd.dtype))


def _chunked_backward(static, saved, cotangents):
    dx_btd, dtable_vd = saved
    scale = cotangents[0]
    return (dx_btd * scale.astype(dx_btd.dtype), dtable_vd * scale, None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)
