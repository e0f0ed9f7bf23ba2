"""Experts in the place of MLPs, at the FLOPs of one MLP: four of half its width, two a token."""

from configs import moe
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="experts",
        question="Do four experts, of which a token meets two, learn more than the one MLP that costs as much?",
        base=moe.small,
        variants={
            "one": {"model.moe.experts": 1, "model.moe.top": 1, "model.mlp_width": 512},
            "unbalanced": {"model.moe.balance": 0.0},
        },
        seeds=(0, 1, 2),
    )
)
