"""One parameter here and the tensors that hold it in a checkpoint of another library, read in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """`Pair("blocks/attention/query", "h.{l}.q_proj.weight", "dhk", "hk d")`: its letters here, and there by axis.

    "{l}" in the name stands for the layer, and our leaf then has a leading axis of layers. Several of ours, all of the
    same shape, can lie in one tensor: the letter "m" counts them there, as in "d mhk". Rows of "v" beyond the
    vocabulary, which pad our tables, are not in the tensor; `skip` rows of its first axis are not in ours (zeros).
    """

    ours: str | tuple[str, ...]
    theirs: str
    letters: str
    axes: str
    skip: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def layered(self) -> bool:
        return "{l}" in self.theirs

    def names(self, depth: int) -> list[str]:
        """The tensor's name in each layer."""
        return [self.theirs.replace("{l}", str(layer)) for layer in range(depth)] if self.layered else [self.theirs]

    def sizes(self, shape: Sequence[int], vocab: int) -> dict[str, int]:
        """Letter -> size in the checkpoint, of the shape of our leaf."""
        shape = shape[1:] if self.layered else shape
        sizes = dict(zip(self.letters, shape, strict=True)) | {"m": len(self.paths)}
        return sizes | ({"v": vocab} if "v" in sizes else {})

    def their_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape."""
        first, *rest = (math.prod(sizes[letter] for letter in axis) for axis in self.axes.split())
        return (first + self.skip, *rest)

    def to_ours(self, tensor: np.ndarray, sizes: Mapping[str, int]) -> list[np.ndarray]:
        """The tensor of a layer as our arrays, one for each path, without what pads the vocabulary."""
        inner = self.axes.replace(" ", "")
        expanded = tensor[self.skip :].reshape([sizes[letter] for letter in inner])
        if "m" not in inner:
            return [expanded.transpose([inner.index(letter) for letter in self.letters])]
        ours = expanded.transpose([inner.index(letter) for letter in "m" + self.letters])
        return list(ours)

    def to_theirs(self, ours: Sequence[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """`to_ours` backwards, from arrays that may still have what pads the vocabulary."""
        inner, cut = self.axes.replace(" ", ""), tuple(slice(sizes[letter]) for letter in self.letters)
        letters, whole = self.letters, ours[0][cut]
        if "m" in inner:
            letters, whole = "m" + letters, np.stack([one[cut] for one in ours])
        shape = self.their_shape(sizes)
        tensor = whole.transpose([letters.index(letter) for letter in inner]).reshape(shape[0] - self.skip, *shape[1:])
        if self.skip:
            tensor = np.concatenate([np.zeros((self.skip, *shape[1:]), tensor.dtype), tensor])
        return np.ascontiguousarray(tensor)
