"""A mixture of experts in the place of a block's MLP: each token goes to the few of them that a router chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.exchange import Where, on_a_mesh, over_mesh, with_choices, with_places
from lmjax.layers.grouped import GROUPED
from lmjax.layers.linear import project
from lmjax.layers.mlp import ACTIVATIONS, GATES
from lmjax.sharding import constrain, param


class Routing(NamedTuple):
    """How tokens find their experts. The last three are weights of auxiliary losses, of which 0 leaves out."""

    experts: int
    top: int  # experts of a token
    dispatch: Literal["dropless", "capacity"] = "dropless"
    capacity: float = 1.25  # of an expert: this times a fair share of a row's choices
    normalize: bool = True  # the chosen experts' shares sum to 1; else they are as the router's softmax gave them
    balance: float = 0.01
    importance: float = 0.0
    z: float = 0.001
    grouped: str = "blocks"  # how dropless multiplies, of `grouped.GROUPED`


class Moe(nn.Module):
    """sum_i g_i(x) expert_i(x) over a token's `top` experts; Shazeer et al. 2017, arXiv:1701.06538, eq. 1.

    The experts are MLPs without biases, as `Mlp` has them; g is the softmax of a linear router in float32, at the
    chosen ones (Fedus et al. 2022, arXiv:2101.03961, sections 2.1 and 2.4). "dropless" gives every expert all that
    chose it (Gale et al. 2022, arXiv:2211.15841). With "capacity" an expert takes, of each row, at most
    ceil(capacity top t / experts) tokens, the earlier ones first, so that no token depends on a later one; what is
    dropped passes by on the residual path. A row's documents then share its experts' room, and decoding, which drops
    nothing, may differ from a full forward.

    Sown in "losses", each already weighted: `balance` (Switch, eq. 4, of `top` choices: 1 is even), `importance`
    (Shazeer et al., eq. 6-7) and `router_z` (Zoph et al. 2022, arXiv:2202.08906, eq. 5); in "measures" `dropped` and
    `busiest`, the share of choices that were dropped, and that went to the likeliest expert. Padding counts nowhere.

    Parameters: `router` (d, e), `up` (e, d, f), `gate` (e, d, f) of the gated kinds, `down` (e, f, d).
    """

    routing: Routing
    kind: str
    hidden: int
    in_init: Callable[[int], Callable]
    out_init: Callable[[int], Callable]

    @nn.compact
    def __call__(self, x_btd: jax.Array, kept_bt: jax.Array | None = None) -> jax.Array:
        r, (d, f) = self.routing, (x_btd.shape[-1], self.hidden)
        router_de = param(self, "router", "de", (d, r.experts), self.in_init(d))
        weights = {"up": param(self, "up", "edf", (r.experts, d, f), self.in_init(d))}
        if self.kind in GATES:
            weights["gate"] = param(self, "gate", "edf", (r.experts, d, f), self.in_init(d))
        weights["down"] = param(self, "down", "efd", (r.experts, f, d), self.out_init(f))
        weights = {name: leaf.astype(x_btd.dtype) for name, leaf in weights.items()}
        kept_bt = jnp.ones(x_btd.shape[:2], bool) if kept_bt is None else kept_bt
        logits_bte = project("btd,de->bte", x_btd.astype(jnp.float32), router_de)
        shares_bte = jax.nn.softmax(logits_bte, axis=-1)
        gates_btk, chosen_btk = jax.lax.top_k(shares_bte, r.top)
        if r.normalize:
            gates_btk = gates_btk / jnp.sum(gates_btk, axis=-1, keepdims=True)
        gates_btk = jnp.where(kept_bt[..., None], gates_btk, 0.0)
        mix = partial(_mix, r, self.kind)
        mix = partial(over_mesh, mix) if on_a_mesh() else partial(mix, None)
        out_btd, taken_btk = mix(weights, x_btd, gates_btk, chosen_btk, kept_bt)
        self._sow(logits_bte, shares_bte, gates_btk, chosen_btk, kept_bt, taken_btk)
        return constrain(out_btd, "btd")

    def _sow(self, logits_bte, shares_bte, gates_btk, chosen_btk, kept_bt, taken_btk) -> None:
        r, kept = self.routing, kept_bt.astype(jnp.float32)
        tokens = jnp.maximum(jnp.sum(kept), 1.0)
        hot_btke = jax.nn.one_hot(chosen_btk, r.experts)
        routed_e = jnp.einsum("btke,bt->e", hot_btke, kept) / (tokens * r.top)
        likely_e = jnp.einsum("bte,bt->e", shares_bte, kept) / tokens
        self.sow("losses", "balance", r.balance * r.experts * jnp.sum(jax.lax.stop_gradient(routed_e) * likely_e))
        if r.importance:
            gates_e = jnp.einsum("btke,btk->e", hot_btke, gates_btk)
            variation = jnp.var(gates_e) / jnp.maximum(jnp.mean(gates_e), 1e-9) ** 2
            self.sow("losses", "importance", r.importance * variation)
        log_z_bt = jax.nn.logsumexp(logits_bte, axis=-1)
        self.sow("losses", "router_z", r.z * jnp.sum(log_z_bt**2 * kept) / tokens)
        self.sow(
            "measures", "dropped", 1 - jnp.sum(taken_btk * kept_bt[..., None] * jnp.ones(r.top)) / (tokens * r.top)
        )
        self.sow("measures", "busiest", jnp.max(routed_e))


def _mix(routing: Routing, kind, where: Where | None, weights, x_btd, gates_btk, chosen_btk, kept_bt) -> tuple:
    """Out (b, t, d) and which choices were taken (b, t, k or 1); where: of a device among others, the experts."""
    run = partial(_experts, kind, weights)
    if routing.dispatch == "capacity":
        run = run if where is None else partial(with_places, where, run)
        return by_capacity(run, routing, x_btd, gates_btk, chosen_btk, kept_bt)
    return dropless(run, routing, x_btd, gates_btk, chosen_btk, where), kept_bt[..., None]


def by_capacity(run, routing: Routing, x_btd, gates_btk, chosen_btk, kept_bt) -> tuple[jax.Array, jax.Array]:
    """Out (b, t, d) and which choices were taken (b, t, k): each row's experts have places that fill up in order."""
    b, t, d = x_btd.shape
    e, k = routing.experts, routing.top
    places = min(t, math.ceil(routing.capacity * k * t / e))
    hot_bse = jax.nn.one_hot(chosen_btk.reshape(b, t * k), e, dtype=jnp.int32)
    hot_bse = hot_bse * jnp.repeat(kept_bt, k, axis=1)[..., None]
    rank_bs = jnp.sum((jnp.cumsum(hot_bse, axis=1) - 1) * hot_bse, axis=-1)
    taken_bs = (rank_bs < places) & jnp.repeat(kept_bt, k, axis=1)
    slot_bs = jnp.where(taken_bs, chosen_btk.reshape(b, t * k) * places + rank_bs, e * places)
    rows_b1 = jnp.arange(b)[:, None]
    token_bs = jnp.full((b, e * places), t).at[rows_b1, slot_bs].set(jnp.arange(t * k) // k, mode="drop")
    padded_btd = jnp.pad(x_btd, ((0, 0), (0, 1), (0, 0)))  # an empty place holds a token of zeros
    held_bepd = jnp.take_along_axis(padded_btd, token_bs[..., None], axis=1).reshape(b, e, places, d)
    out_bepd = run(partial(_each, "bep"), held_bepd)
    out_bsd = jnp.take_along_axis(
        out_bepd.reshape(b, e * places, d), jnp.minimum(slot_bs, e * places - 1)[..., None], 1
    )
    gates_btk = gates_btk * taken_bs.reshape(b, t, k)
    out_btd = jnp.einsum("btkd,btk->btd", out_bsd.reshape(b, t, k, d), gates_btk.astype(x_btd.dtype))
    return out_btd, taken_bs.reshape(b, t, k)


def dropless(run, routing: Routing, x_btd, gates_btk, chosen_btk, where: Where | None = None) -> jax.Array:
    """Out (b, t, d): all choices sorted by their expert, multiplied group by group, and sorted back."""
    (b, t, d), e, k = x_btd.shape, routing.experts, routing.top
    x_nd, chosen_n = x_btd.reshape(b * t, d), chosen_btk.reshape(-1)
    if where is not None and where.size > 1:
        out_nd = with_choices(where, run, routing.grouped, e, k, x_nd, chosen_n)
    else:
        layout = GROUPED[routing.grouped](chosen_n, e)
        out_nd = layout.scatter(run(layout.product, layout.gather(x_nd, k)))
    out_btkd = out_nd.reshape(b, t, routing.top, d)
    return jnp.einsum("btkd,btk->btd", out_btkd, gates_btk.astype(x_btd.dtype))


def _each(lead: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.einsum(f"{lead}x,exy->{lead}y", x, weight)


def _experts(kind: str, weights: dict[str, jax.Array], product: Callable, x: jax.Array) -> jax.Array:
    """Every expert's MLP over its tokens, by the product of tokens with experts' matrices."""
    h = product(x, weights["up"])
    if kind in GATES:
        h = GATES[kind](product(x, weights["gate"])) * h
    else:
        h = ACTIVATIONS[kind](h)
    return product(h, weights["down"])
