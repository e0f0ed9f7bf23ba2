"""The sounds of English words from their letters, by recurrent networks with attention: `lmjax train pronunciation`."""

from configs import rnn
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="pronunciation",
        question="Does it matter to a recurrent network which state asks its attention, or whose tokens it is taught with?",
        base=rnn.pronunciation,  # the new state asks: Luong et al. 2015
        variants={
            "additive": {"model.attention": "additive"},  # the state before asks: Bahdanau et al. 2015
            "sampled": {"model.sampling": 0.25},  # own guesses, up to a quarter: Bengio et al. 2015
        },
        seeds=(0, 1, 2),
        metrics=("eval/word_error", "eval/exact_match"),  # words of the targets are sounds: the rate of wrong phonemes
    )
)
