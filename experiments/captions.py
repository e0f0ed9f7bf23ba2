"""Images of 64 x 64 pixels in squares of 8, or of other sizes: more positions that hold less each.

And squares that see all others, not only those before them.
"""

from configs import images
from lmjax.config import update
from lmjax.experiment import Experiment, register


def unseen():
    """Captions of emoji that differ from all that were trained on by more than tones of skin."""
    return update(images.small(), {"data.valid_source": "emoji:test", "steps": 600})


register(
    Experiment(
        name="captions",
        question="How finely must an image be cut for a small decoder to name what it shows?",
        base=unseen,
        variants={
            "coarse": {"model.patch": 16},
            "coarsest": {"model.patch": 32},
            "both_ways": {"model.patch_pattern": "bidirectional"},
        },
        seeds=(0, 1, 2),
        metrics=("eval/rougeL", "eval/bleu"),
    )
)
