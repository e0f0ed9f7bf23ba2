"""One parameter here and the tensors that hold it in a checkpoint of another library, read in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """`Pair("blocks/attention/query", "h.{l}.q_proj.weight", "dhk", "hk d")`: letters here, and there axis by axis.

    "{l}" in the name stands for the layer, and our leaf then has a leading axis of layers. Several of ours, all of the
    same shape, can lie in one tensor: the letter "m" counts them there, as in "d mhk". Rows of "v" beyond the
    vocabulary, which pad our tables, are not in the tensor; `skip` rows of its first axis are not in ours (zeros); "1"
    is an axis of one. Where our axes are products they are written apart, too ("rcx d"), and `sizes` has the factors.
    """

    ours: str | tuple[str, ...]
    theirs: str
    letters: str
    axes: str
    skip: int = 0
    given: Mapping[str, int] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def layered(self) -> bool:
        return "{l}" in self.theirs

    @property
    def _own(self) -> list[str]:
        """Our axes."""
        return self.letters.split() if self.given else list(self.letters)

    def names(self, shape: Sequence[int]) -> list[str]:
        """The tensor's name in each layer, of the shape of our leaf."""
        return [self.theirs.replace("{l}", f"{i}") for i in range(shape[0])] if self.layered else [self.theirs]

    def sizes(self, shape: Sequence[int], vocab: int) -> dict[str, int]:
        """Letter -> size in the checkpoint, of the shape of our leaf."""
        shape = shape[1:] if self.layered else shape
        sizes = {axis: size for axis, size in zip(self._own, shape, strict=True) if len(axis) == 1}
        sizes |= {"m": len(self.paths), "1": 1, **self.given}
        return sizes | ({"v": vocab} if "v" in sizes else {})

    def their_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape."""
        shape = tuple(math.prod(sizes[letter] for letter in axis) for axis in self.axes.split())
        return (shape[0] + self.skip, *shape[1:]) if self.skip else shape

    def to_ours(self, tensor: np.ndarray, sizes: Mapping[str, int]) -> list[np.ndarray]:
        """The tensor of a layer as our arrays, one for each path, without what pads the vocabulary."""
        inner, letters = self._inner(), "".join(self._own)
        expanded = tensor[self.skip :] if self.skip else tensor
        expanded = expanded.reshape([sizes[letter] for letter in inner])
        wanted = "m" + letters if "m" in inner else letters
        whole = expanded.transpose([inner.index(letter) for letter in wanted])
        shape = [math.prod(sizes[letter] for letter in axis) for axis in self._own]
        return [one.reshape(shape) for one in (whole if "m" in inner else [whole])]

    def to_theirs(self, ours: Sequence[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """`to_ours` backwards, from arrays that may still have what pads the vocabulary."""
        inner, letters = self._inner(), "".join(self._own)
        cut = tuple(slice(math.prod(sizes[letter] for letter in axis)) for axis in self._own)
        parts = [one[cut].reshape([sizes[letter] for letter in letters]) for one in ours]
        letters, whole = ("m" + letters, np.stack(parts)) if "m" in inner else (letters, parts[0])
        shape = self.their_shape(sizes)
        tensor = whole.transpose([letters.index(letter) for letter in inner])
        if self.skip:
            tensor = tensor.reshape(shape[0] - self.skip, *shape[1:])
            tensor = np.concatenate([np.zeros((self.skip, *shape[1:]), tensor.dtype), tensor])
        return np.ascontiguousarray(tensor).reshape(shape)

    def _inner(self) -> str:
        return self.axes.replace(" ", "").replace("1", "")


def norm(ours: str, theirs: str, *, bias: bool) -> list[Pair]:
    """A norm's scale, and its shift if it has one."""
    scale = Pair(f"{ours}/scale", f"{theirs}.weight", "d", "d")
    return [scale, Pair(f"{ours}/bias", f"{theirs}.bias", "d", "d")] if bias else [scale]


def linear(ours: str, theirs: str, letters: str, axes: str, bias: str = "") -> list[Pair]:
    """A linear map, and its bias if that has letters."""
    weight = Pair(ours, f"{theirs}.weight", letters, axes)
    return [weight, Pair(f"{ours}_bias", f"{theirs}.bias", bias, bias)] if bias else [weight]
