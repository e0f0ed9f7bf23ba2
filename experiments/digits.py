"""Losses for few images: the likelihood alone, and two that care less for what is already right."""

from configs import images
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="digits",
        question="Do label smoothing or a focal loss help a small classifier on 1,700 handwritten digits?",
        base=images.labels,
        variants={
            "smooth": {"objective.label_smoothing": 0.1},
            "focal": {"objective.focal": 2.0},
        },
        seeds=(0, 1, 2),
    )
)
