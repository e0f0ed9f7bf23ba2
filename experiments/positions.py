"""Position encodings on a small byte model; the base has none, for a causal model can count without (arXiv:2203.16634).

The same 400 steps, rows and seeds for all, a minute on one core each; only learned and t5 have parameters of their own.
"""

from configs import lm
from lmjax.config import update
from lmjax.experiment import Experiment, register


def no_positions():
    return update(lm.tiny(), {"model.position": "none", "steps": 400, "batch": 16})


register(
    Experiment(
        name="positions",
        question="How much does each position encoding lower the loss of a small byte model that has none?",
        base=no_positions,
        variants={
            "learned": {"model.position": "learned"},
            "sinusoidal": {"model.position": "sinusoidal"},
            "alibi": {"model.position": "alibi"},
            "t5": {"model.position": "t5"},
            "rope": {"model.position": "rope"},
            "rope/fast": {"model.rope_base": 500.0},
            "rope/slow": {"model.rope_base": 1e6},
        },
        seeds=(0, 1, 2, 3, 4),
        metrics=("valid/bits_per_byte",),
    )
)
