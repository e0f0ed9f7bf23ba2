"""What to hide from an encoder: pieces of words or whole ones; and whether masks that are drawn anew are needed."""

from configs import encoders
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="masked_words",
        question="Are hidden tokens of news told better when 15 % or 30 % are hidden, and is it harder in whole words?",
        base=encoders.news_words,
        variants={
            "more": {"data.corruption.rate": 0.3, "objective.predictions": 39},
            "whole": {"data.corruption.whole_word": True, "objective.predictions": 24},
        },
        seeds=(0, 1, 2),
    )
)
