"""One letter table: the variable suffix, the einsum subscript and the sharding of every array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

DIMENSIONS = {
    "b": "batch",
    "t": "length",
    "s": "key_length",
    "d": "embed",
    "f": "mlp",
    "h": "heads",
    "g": "kv_heads",
    "r": "group",  # query heads that share one key/value head: h = g * r
    "k": "head",
    "v": "vocab",
    "l": "layers",
    "e": "experts",
    "p": "patches",
    "c": "buckets",  # relative-position buckets
    "i": "pixels",  # the colours of one patch of an image
    "n": "classes",
    "q": "gates",  # of a recurrent cell
    "o": "joint",  # of the space that images and texts are compared in
}


def dimension(letter: str) -> str:
    """The name of a dimension letter; an unknown letter is an error, since Linen alone would replicate it silently."""
    if letter not in DIMENSIONS:
        raise ValueError(f"unknown dimension letter {letter!r}; the table has {DIMENSIONS}")
    return DIMENSIONS[letter]


@flax.struct.dataclass
class Named(nn.meta.AxisMetadata):
    """A parameter boxed with its dimension letters, as `init` returns it; `unbox` gives the plain array."""

    value: Any
    dims: str = flax.struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> Named:
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict) -> Named:
        return self.replace(dims=self.dims[:index] + params["letter"] + self.dims[index:])

    def remove_axis(self, index: int, params: dict) -> Named:
        return self.replace(dims=self.dims[:index] + self.dims[index + 1 :])


def param(module: nn.Module, name: str, dims: str, shape: tuple[int, ...], init: Callable) -> jax.Array:
    """A float32 parameter whose dimensions have names: `param(self, "gate", "df", (d, f), init)`."""
    if len(dims) != len(shape) or len(set(dims)) != len(dims):
        raise ValueError(f"parameter {name!r}: dimensions {dims!r} do not name the shape {shape} one by one")
    for letter in dims:
        dimension(letter)
    return module.param(name, lambda key: Named(init(key, shape, jnp.float32), dims))


def _is_named(leaf: Any) -> bool:
    return isinstance(leaf, Named)


def unbox(tree: Any) -> Any:
    """The plain dict of arrays in a tree of `Named`."""
    return jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=_is_named)


def dims_of(tree: Any) -> Any:
    """The dimension letters of every parameter, in a tree of the same structure as `unbox(tree)`."""
    return jax.tree.map(lambda leaf: leaf.dims, tree, is_leaf=_is_named)
