"""Images of 64 x 64 pixels in squares of 8, or of other sizes: more positions that hold less each."""

from configs import images
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="captions",
        question="How finely must an image be cut for a small decoder to name what it shows?",
        base=images.small,
        variants={"coarse": {"model.patch": 16}, "coarsest": {"model.patch": 32}},
        seeds=(0, 1, 2),
    )
)
