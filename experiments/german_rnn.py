"""Translation by LSTMs with attention, on the rows and in the steps of `german`, whose Transformer can be compared."""

from configs import rnn
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="german_rnn",
        question="How well do LSTMs with attention translate, and does it help to feed back what attention gave?",
        base=rnn.german,
        variants={"feed": {"model.feed": True}},
        seeds=(0, 1, 2),
        metrics=("eval/bleu", "eval/chrf"),
    )
)
