"""Checkpoints: sealed folders that Orbax writes in the background."""

from lmjax.checkpoint.checkpoints import Checkpoints, Restored
from lmjax.checkpoint.slots import CheckpointError

__all__ = ["CheckpointError", "Checkpoints", "Restored"]
