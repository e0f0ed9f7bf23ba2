"""Handwritten digits: a Transformer over squares, a convolutional network, and each on images as they are."""

from configs import vision
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="mnist",
        question="Which reads digits better after 4,000 images: a vision Transformer or a convolutional network?",
        base=vision.vit,
        variants={
            "convnext": {"model.kind": "convnext"},
            "unchanged": {"data.augment.image": ()},
            "convnext/unchanged": {"data.augment.image": ()},
        },
        seeds=(0, 1, 2),
        metrics=("eval/accuracy",),
    )
)
