"""Whether a name belongs to an emoji: half of the names do, and neither the image nor the name alone tells which."""

from configs import vision
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="emoji_matching",
        question="Does a small network that reads an image's and a text's features together see whether they match?",
        base=vision.matches,
        variants={"convnext": {"model.encoder": "convnext"}},
        seeds=(0, 1, 2),
    )
)
