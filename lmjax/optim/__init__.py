"""Optimizers, schedules, clipping and per-parameter rules over Optax."""

from lmjax.optim.clipping import CLIPS
from lmjax.optim.optimizer import Optimizer, OptState, build, opt_state_shardings, trainable, with_frozen
from lmjax.optim.optimizers import OPTIMIZERS, choose
from lmjax.optim.rules import Row
from lmjax.optim.schedules import SCHEDULES

__all__ = [
    "CLIPS",
    "OPTIMIZERS",
    "SCHEDULES",
    "OptState",
    "Optimizer",
    "Row",
    "build",
    "choose",
    "opt_state_shardings",
    "trainable",
    "with_frozen",
]
