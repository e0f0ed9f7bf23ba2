"""A recurrent decoder that looks at a source at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.alignment import Alignment, Source
from lmjax.layers.cells import CELLS, State
from lmjax.layers.linear import project
from lmjax.layers.recurrent import Recurrent, flow, for_gates, into_gates, uniform
from lmjax.sharding import constrain, param


class Attending(nn.Module):
    """Embedded tokens (b, t, d) to features (b, t, d) = tanh(W [context; state]); Luong et al. 2015, eq. 5.

    With the scores of Luong the new state of the last layer asks for the context; with `feed` the features of a step
    go into the first layer at the next (section 3.3). additive: the state before asks, and the context goes into the
    first layer (Bahdanau et al. 2015, eq. 4-5). Without either the states need no context: then one scan of the layers
    is all that goes over time, and all queries are answered at once.

    Parameters: `layer_0`, ..., `fed` (q, d, f) where something goes back into the first layer, `alignment`, and for the
    features `of_context` and `of_state` (d, f).
    """

    cell: str
    depth: int
    width: int
    attention: str
    feed: bool = False
    dropout: float = 0.0

    def setup(self):
        d, init = self.width, uniform(self.width**-0.5)
        self.layers = [Recurrent(self.cell, d, d, name=f"layer_{i}") for i in range(self.depth)]
        self.alignment = Alignment(self.attention, d)
        fed = self.back_into_first()
        self.fed_qdf = param(self, "fed", "qdf", (CELLS[self.cell].gates, d, d), init) if fed else None
        self.context_df = param(self, "of_context", "df", (d, d), init)
        self.state_df = param(self, "of_state", "df", (d, d), init)
        self.drop = nn.Dropout(self.dropout)

    def back_into_first(self) -> bool:
        """Whether the first layer needs a context, so that no step can be made before those before it."""
        return self.feed or self.attention == "additive"

    def source(self, values_bsd: jax.Array, segments_bs: jax.Array) -> Source:
        return self.alignment.source(values_bsd, segments_bs)

    def __call__(
        self, x_btd: jax.Array, segments_bt: jax.Array, source: Source, start: list[State], *, train: bool
    ) -> jax.Array:
        """Features of all positions; the text begins at the first, in the states `start`."""
        if self.back_into_first():
            return self.advance(x_btd, segments_bt, source, self.begin(start, x_btd.dtype), train=train)[0]
        onward = flow(segments_bt)
        x_tbd = self.drop(x_btd, deterministic=not train).swapaxes(0, 1)
        for i, layer in enumerate(self.layers):
            if i:
                x_tbd = self.drop(x_tbd, deterministic=not train)
            x_tbd, _ = layer(x_tbd, onward, start[i])
        y_btd = x_tbd.swapaxes(0, 1)
        context_btd = self.alignment.asker(x_btd.dtype)(y_btd, source, segments_bt)
        return constrain(_features(context_btd, y_btd, self.context_df, self.state_df), "btd")

    def begin(self, start: list[State], dtype: Any) -> dict:
        """What `advance` goes on from, before the first token: states, and the features of the step before."""
        return {"layers": start, "features": jnp.zeros(start[0][0].shape, dtype)}

    def advance(
        self, x_btd: jax.Array, segments_bt: jax.Array, source: Source, at: dict, *, train: bool
    ) -> tuple[jax.Array, dict]:
        """Features (b, t, d), and what the next call goes on from; padding leaves everything as it is."""
        x_tbd = self.drop(x_btd, deterministic=not train).swapaxes(0, 1)
        enter, step = self.steps(source, x_btd.dtype)
        given = (enter(x_tbd), segments_bt.T, self._masks(x_tbd.shape, x_btd.dtype, train))
        at, features_tbd = jax.lax.scan(step, at, given)
        return constrain(features_tbd.swapaxes(0, 1), "btd"), at

    def steps(self, source: Source, dtype: Any) -> tuple[Callable, Callable]:
        """enter(x_tbd) -> gates, and step(at, (gates, segment_b, masks)) -> (at, features_bd), for a scan to call."""
        weights = [layer.weights(dtype) for layer in self.layers]
        asker, cell, first = self.alignment.asker(dtype), self.cell, self.attention == "additive"
        context_df, state_df = self.context_df, self.state_df
        fed_qdf = None if self.fed_qdf is None else for_gates(cell, self.fed_qdf, dtype)

        def context(state: State, segment_b: jax.Array) -> jax.Array:
            return asker(state[0].astype(dtype)[:, None], source, segment_b[:, None])[:, 0]

        def step(at: dict, now: Any) -> tuple[dict, jax.Array]:
            (x, segment_b, masks), old, new = now, at["layers"], []
            context_bd = context(old[-1], segment_b) if first else None
            if fed_qdf is not None:
                back = into_gates(context_bd if first else at["features"], fed_qdf)
                x = tuple(a + b for a, b in zip(x, back, strict=True))
            for i, layer in enumerate(weights):
                if i:
                    x = layer.gates(new[-1][0].astype(dtype) * masks[i - 1])
                new.append(layer.step(cell, x, old[i]))
            context_bd = context_bd if first else context(new[-1], segment_b)
            features_bd = _features(context_bd, new[-1][0].astype(dtype), context_df, state_df)
            real_b1 = segment_b[:, None] > 0
            after = {"layers": new, "features": features_bd}
            return jax.tree.map(lambda a, b: jnp.where(real_b1, a, b), after, at), features_bd

        return weights[0].gates, step

    def _masks(self, shape: tuple[int, ...], dtype: Any, train: bool) -> list[jax.Array]:
        """Dropout over what each layer but the first reads, (t, b, d) or, where there is none, (t, 1, 1)."""
        if not (train and self.dropout):
            return [jnp.ones((shape[0], 1, 1), dtype)] * (self.depth - 1)
        return [self.drop(jnp.ones(shape, dtype), deterministic=False) for _ in range(self.depth - 1)]


def _features(context: jax.Array, state: jax.Array, context_df: jax.Array, state_df: jax.Array) -> jax.Array:
    spec = "bd,df->bf" if context.ndim == 2 else "btd,df->btf"
    return jnp.tanh(project(spec, context, context_df) + project(spec, state, state_df))
