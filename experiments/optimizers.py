"""Optimizers on a small byte model, each at three learning rates, for one rate would decide the contest.

The base is AdamW. Decay moves a weight by learning_rate * weight_decay a step; that product is the same for all.
"""

from configs import lm
from lmjax.experiment import Experiment, register

DECAY_PER_STEP = 3e-4
LEARNING_RATES = {
    "sgd": 1.0,
    "nesterov": 0.1,
    "rmsprop": 1e-3,
    "adagrad": 3e-2,
    "adafactor": 1e-2,
    "lion": 3e-4,
    "muon": 1e-2,
    "adan": 1e-2,
}


def rate(value):
    return {"optim.learning_rate": value, "optim.weight_decay": DECAY_PER_STEP / value}


variants = {"adamw_slower": rate(1e-3), "adamw_faster": rate(9e-3)}
for name, value in LEARNING_RATES.items():
    variants[name] = {"optim.name": name, **rate(value)}
    variants[f"{name}/slower"] = rate(value / 3)
    variants[f"{name}/faster"] = rate(value * 3)

register(
    Experiment(
        name="optimizers",
        question="Which optimizer, at its best of three learning rates, learns bytes of English fastest?",
        base=lm.tiny,
        variants=variants,
        seeds=(0, 1, 2),
    )
)
