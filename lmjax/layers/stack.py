"""A stack of equal blocks whose parameters always carry a leading layer dimension, scanned or unrolled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.attention import Context, rows_of, with_rows
from lmjax.layers.blocked import SAVED
from lmjax.layers.moe import Moe
from lmjax.sharding import Named, constrain
from lmjax.sharding.pipeline import in_stages, run_pipeline

TO_HOST = {"offload_src": "device", "offload_dst": "pinned_host"}
DOTS = jax.checkpoint_policies.offload_dot_with_no_batch_dims(**TO_HOST)
NAMED = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED], **TO_HOST
)


def offloaded(primitive: Any, *args: Any, **params: Any) -> Any:
    """What "minimal" saves waits in the host's memory for the backward pass."""
    return (NAMED if primitive.name == "name" else DOTS)(primitive, *args, **params)


REMATS = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "minimal": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED),
    ),
    "dots": jax.checkpoint_policies.dots_saveable,
    "offload": offloaded,
}
SOWN = ("losses", "measures")  # collections that layers may sow into: weighted losses, and what is worth a look


class Block(nn.Module):
    """Attention and MLP with residual connections; norms before (pre) or after the sum (post, Vaswani et al. 2017)."""

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    place: str = "pre"
    dropout: float = 0.0
    cross: Callable[..., nn.Module] | None = None  # attention over a memory, between the two

    @nn.compact
    def __call__(self, x_btd: jax.Array, context: Context, cache: Any = None, *, train: bool) -> tuple[jax.Array, Any]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention, mlp = self.attention(name="attention"), self.mlp(name="mlp")
        norm1, norm2 = self.norm(name="attention_norm"), self.norm(name="mlp_norm")
        if isinstance(mlp, Moe):  # padding takes no expert's room
            mlp = partial(mlp, kept_bt=context.keep.query_segments_bt > 0)
        own, other = (cache, None) if self.cross is None or cache is None else cache
        if self.place == "pre":
            mixed_btd, own = attention(norm1(x_btd), context, own)
            x_btd = x_btd + drop(mixed_btd)
            if self.cross is not None:
                read_btd, _ = self.cross(name="cross")(self.norm(name="cross_norm")(x_btd), context, other)
                x_btd = x_btd + drop(read_btd)
            return x_btd + drop(mlp(norm2(x_btd))), own if self.cross is None else (own, other)
        mixed_btd, own = attention(x_btd, context, own)
        x_btd = norm1(x_btd + drop(mixed_btd))
        if self.cross is not None:
            read_btd, _ = self.cross(name="cross")(x_btd, context, other)
            x_btd = self.norm(name="cross_norm")(x_btd + drop(read_btd))
        return norm2(x_btd + drop(mlp(x_btd))), own if self.cross is None else (own, other)


def init_stack(
    key: jax.Array, block: nn.Module, depth: int, x_btd: jax.Array, context: Context | Sequence[Context]
) -> Any:
    """Parameters of `depth` blocks, stacked: every leaf is `Named` with a leading "l"."""
    context = _turns(context)[0]
    stacked = jax.vmap(lambda key: block.init(key, x_btd, context, train=False)["params"])(jax.random.split(key, depth))
    return jax.tree.map(
        lambda leaf: leaf.add_axis(0, {"letter": "l"}), stacked, is_leaf=lambda leaf: isinstance(leaf, Named)
    )


def layer_slices(params: Any, depth: int) -> list[Any]:
    """The parameters of each layer. The gradient is one concatenation, not `depth` padded sums. A list is left alone."""
    if isinstance(params, list):
        return params
    leaves, tree = jax.tree.flatten(params)
    split = [[part[0] for part in jax.lax.split(leaf, (1,) * depth)] for leaf in leaves]
    return [tree.unflatten(layer) for layer in zip(*split, strict=True)]


def apply_stack(
    block: nn.Module,
    params: Any,
    depth: int,
    x_btd: jax.Array,
    context: Context | Sequence[Context],
    *,
    rng: jax.Array | None,
    train: bool,
    scan: bool,
    remat: str,
    sow: Callable[[str, str, Any], Any] | None = None,
) -> jax.Array:
    """Run the blocks one after the other; `scan` compiles one of them, `remat` says what the backward recomputes.

    context: one for all, or some that the layers take in turn, such as one with a window and one without; then `depth`
    is a multiple of their number. sow: of the module that has the stack; what the blocks sow goes there as "blocks", with
    a leading layer dimension.

    Six layers of width 384 on 2 cores: scanned with "minimal" the step takes half the temporary memory of unrolled
    ones and the same time. Unrolled, XLA:CPU merges what is recomputed with the first computation: `remat` does nothing.
    """

    def layers(turns: tuple[Context, ...], number: Any = None) -> list[Callable]:
        """A function for each of the contexts, (x, (weights, key)) -> (x, sown); number: of a pipeline's microbatch."""

        def layer(context, x_btd, layer):
            weights, key = layer
            key = key if key is None or number is None else jax.random.fold_in(key, number)
            rngs = None if key is None else {"dropout": key}
            variables = {"params": weights}
            (x_btd, _), sown = block.apply(variables, x_btd, context, train=train, rngs=rngs, mutable=SOWN)
            return x_btd, sown

        made = [partial(layer, turn) for turn in turns]
        if REMATS[remat] is None:
            return made
        return [jax.checkpoint(one, policy=REMATS[remat], prevent_cse=not scan) for one in made]

    turns, run = _turns(context), _scanned if scan else _unrolled
    each = (params, None if rng is None else jax.random.split(rng, depth))
    if (made := in_stages()) is not None:
        made.check(x_btd.shape[0], depth, len(turns))

        def group(each, x_btd, rows, biases, number):
            own = [
                with_rows(turn, row)._replace(bias_hts=bias)
                for turn, row, bias in zip(turns, rows, biases, strict=True)
            ]
            return run(layers(tuple(own), number), x_btd, each)

        biases = tuple(turn.bias_hts for turn in turns)
        x_btd, sown = run_pipeline(made, group, each, x_btd, tuple(map(rows_of, turns)), biases, depth)
    else:
        x_btd, sown = run(layers(turns), x_btd, each)
    for collection, tree in sown.items() if sow else ():
        sow(collection, "blocks", tree)
    # And so is its gradient: of one from a few positions XLA lost parts over three mesh axes (tests/test_families_on_meshes.py).
    return constrain(x_btd, "btd") if x_btd.ndim == 3 else x_btd  # of a convolutional network they are rows and columns


def _turns(context: Context | Sequence[Context]) -> tuple[Context, ...]:
    return (context,) if isinstance(context, Context) else tuple(context)


def _unrolled(layers: list[Callable], x_btd: jax.Array, each: Any) -> tuple[jax.Array, Any]:
    """One layer after the other, which `layers` take in turn; what they give has a leading layer dimension."""
    weights, keys = each
    given = []
    for i, one in enumerate(layer_slices(weights, len(jax.tree.leaves(weights)[0]))):
        x_btd, sown = layers[i % len(layers)](x_btd, (one, None if keys is None else keys[i]))
        given.append(sown)
    return x_btd, jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)


def _scanned(layers: list[Callable], x_btd: jax.Array, each: Any) -> tuple[jax.Array, Any]:
    """A scan over groups of as many layers as there are `layers`; what they give has a leading layer dimension."""
    turns = len(layers)
    if turns == 1:
        return jax.lax.scan(layers[0], x_btd, each)

    def group(x_btd, several):
        given = []
        for i, one in enumerate(layers):
            x_btd, sown = one(x_btd, jax.tree.map(lambda leaf, i=i: leaf[i], several))
            given.append(sown)
        return x_btd, jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)

    groups = jax.tree.map(lambda leaf: leaf.reshape(-1, turns, *leaf.shape[1:]), each)
    x_btd, sown = jax.lax.scan(group, x_btd, groups)
    return x_btd, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sown)


def apply_cached(
    block: nn.Module, layers: list[Any], x_btd: jax.Array, context: Context | Sequence[Context], caches: list[Any]
) -> tuple[jax.Array, list[Any]]:
    """The blocks with a key/value cache each. Unrolled, so that every cache is updated in place."""
    new, turns = [], _turns(context)
    for i, (weights, cache) in enumerate(zip(layers, caches, strict=True)):
        x_btd, cache = block.apply({"params": weights}, x_btd, turns[i % len(turns)], cache, train=False)
        new.append(cache)
    return x_btd, new
