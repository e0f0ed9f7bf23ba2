"""Finding an emoji by its name and its name by the emoji, among some that were never seen: two losses, two encoders.

Those that differ only in tones of skin are on one side together (the test split of the emoji corpus, a tenth).
"""

from configs import vision
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="emoji_retrieval",
        question="Do CLIP's and SigLIP's losses, and two image encoders, find unseen emoji by their names?",
        base=vision.emoji,
        variants={
            "sigmoid": {"objective.kind": "sigmoid_contrastive", "model.bias": -10.0, "model.temperature": 0.1},
            "convnext": {"model.encoder": "convnext"},
        },
        seeds=(0, 1, 2),
        metrics=tuple(f"eval/{way}/recall@{k}" for way in ("text_by_image", "image_by_text") for k in (1, 10)),
    )
)
