"""Long to short: what Debian's packages are, in a line, from their descriptions. The first words say much of it."""

from configs import rnn
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="summaries",
        question="How well does a small LSTM with attention shorten descriptions, and does it help to feed back its glances?",
        base=rnn.summaries,
        variants={"feed": {"model.feed": True}},
        seeds=(0, 1, 2),
        metrics=("eval/rougeL", "eval/rouge1", "eval/rouge2"),
    )
)
