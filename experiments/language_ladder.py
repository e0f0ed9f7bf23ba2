"""n-grams, an LSTM and a Transformer on the same tokens, rows and metrics; the networks at equal compute.

Every model meets the text once: 1.3 million byte-pair tokens of the Bible. The networks' training costs 3.6 million
FLOPs a token, the LSTM's in two layers of width 164, the Transformer's in two of width 128; an n-gram is counted in a
second on one core.

Measured with five seeds (results/language_ladder, bits a byte): 5-gram 1.366, 3-gram 1.470, bigram 1.839, Transformer
1.956, LSTM 2.238 (2.15 to 2.45; neither learning rate was searched at this size). Networks need this text many times
over: the quickstart's Transformer with Muon is at 1.71 after 400 steps.
"""

from configs import lm, ngram, rnn
from lmjax.config import extend, update
from lmjax.experiment import Experiment, register


def transformer():
    """The quickstart's shape with AdamW, and the leaves that the other rungs have."""
    base = lm.quickstart()
    others = {**rnn.rnn(), **ngram.ngram()}
    more = {f"model.{name}": leaf for name, leaf in others.items() if name not in base.model}
    return update(
        extend(base, more),
        {
            "steps": 635,
            "model.depth": 2,
            "model.width": 128,
            "optim.name": "adamw",
            "optim.learning_rate": 4e-3,
            "optim.schedule.end": 0.02,
            "every.eval": 127,
            "every.save": 635,
            "eval.batch": 64,
            "eval.sample_length": 40,
        },
    )


COUNTED = {"model.kind": "ngram", "steps": 1, "every.log": 1, "every.eval": 1, "every.save": 1}

register(
    Experiment(
        name="language_ladder",
        question="How many bits a byte do n-grams, an LSTM and a Transformer need, after reading the same text once?",
        base=transformer,
        variants={
            "lstm": {"model.kind": "rnn", "model.depth": 2, "model.width": 164, "optim.learning_rate": 1e-2},
            "ngram": COUNTED,
            "ngram/order_2": {"model.order": 2},
            "ngram/order_3": {"model.order": 3},
        },
        seeds=(0, 1, 2, 3, 4),
        metrics=("valid/bits_per_byte",),
    )
)
