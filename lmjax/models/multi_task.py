"""A model of several outputs, each for a task of its own: `objectives.multi_task` weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from lmjax.models import heads
from lmjax.sharding import param


class MultiTask(nn.Module):
    """The outputs of a model, by the names of the tasks that they are for.

    Parameters: the model's, by the same names, so that those of a pretrained one fit in, and `task_weights` (n), zeros,
    which an objective may learn weights of the tasks by.
    """

    model: nn.Module  # gives a tuple of outputs
    tasks: tuple[str, ...]

    def setup(self):
        nn.share_scope(self, self.model)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, Any]:
        param(self, "task_weights", "n", (len(self.tasks),), nn.initializers.zeros)
        return dict(zip(self.tasks, self.model(batch, train=train), strict=True))

    def padded_vocab(self) -> int:
        return self.model.padded_vocab()


def sentences(section: ConfigDict, **given: Any) -> MultiTask:
    """BERT's two tasks: masked words, and how the two texts of a row belong together."""
    return MultiTask(heads.sentences(section, **given), ("masked", "label"))
