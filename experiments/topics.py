"""What a classifier of texts reads its label from: the base takes the mean over all tokens, which see only the past."""

from configs import labels
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="topics",
        question="Is the topic of news better read from the last token, which has seen all, or from the mean of them?",
        base=labels.small,
        variants={"last": {"model.pool": "last"}},
        seeds=(0, 1, 2),
    )
)
