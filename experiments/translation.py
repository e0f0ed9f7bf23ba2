"""Pairs in one row or apart, at the same rows a step: the base packs whole pairs, the variant gives a row to each."""

from configs import pairs
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="translation",
        question="How much sooner does a small model translate when pairs share rows than when each has its own?",
        base=pairs.small,
        variants={"alone": {"data.packing": "none"}},
        seeds=(0, 1, 2),
    )
)
