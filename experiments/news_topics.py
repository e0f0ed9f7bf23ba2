"""Topics of news by an encoder from scratch, or fine-tuned from a run of `masked_words`: `configs/encoders.py` says how."""

from configs import encoders
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="news_topics",
        question="Is a topic better read from the mean of all tokens through a pooler or directly?",
        base=encoders.news_topics,
        variants={"plain": {"model.pooler": False}},
        seeds=(0, 1, 2),
    )
)
