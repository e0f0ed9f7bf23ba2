"""Translation by the original Transformer, small: as it was published, with norms after the sums, or before the layers."""

from configs import encdec
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="german",
        question="Does a small Transformer translate better with its norms before the layers or after the sums?",
        base=encdec.german,
        variants={"post": {"model.norm_place": "post"}},
        seeds=(0, 1, 2),
        metrics=("eval/bleu", "eval/chrf"),
    )
)
