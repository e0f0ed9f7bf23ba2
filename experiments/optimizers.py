"""Optimizers on a small byte model, each at three learning rates, for one rate would decide the contest.

The base is AdamW at its default. Nothing decays: a run this short, 120 steps, tests the directions, not the
regularization, and which optimizer is ahead after many more is another question.

Measured with five seeds (results/optimizers, bits a byte, each at its best rate, which was the fastest of the three for
every one, so that none is bracketed): Muon 2.986, AdamW 3.314, Adafactor 3.388, RMSprop 3.409, Lion 4.336, SGD 4.427.
"""

from configs import lm
from lmjax.config import update
from lmjax.experiment import Experiment, register

RATES = {
    "sgd": (0.3, 1.0, 3.0),
    "rmsprop": (3e-4, 1e-3, 3e-3),
    "adafactor": (3e-3, 0.01, 0.03),
    "lion": (1e-4, 3e-4, 1e-3),
    "muon": (3e-3, 0.01, 0.03),
}


def no_decay():
    return update(lm.tiny(), {"optim.weight_decay": 0.0, "steps": 120, "batch": 16, "every.eval": 40})


variants = {"slower": {"optim.learning_rate": 1e-3}, "faster": {"optim.learning_rate": 0.01}}
for name, (slower, middle, faster) in RATES.items():
    variants[name] = {"optim.name": name, "optim.learning_rate": middle}
    variants[f"{name}/slower"] = {"optim.learning_rate": slower}
    variants[f"{name}/faster"] = {"optim.learning_rate": faster}

register(
    Experiment(
        name="optimizers",
        question="Which optimizer, at its best of three learning rates, learns bytes of English fastest?",
        base=no_decay,
        variants=variants,
        seeds=(0, 1, 2, 3, 4),
        metrics=("valid/bits_per_byte",),
    )
)
