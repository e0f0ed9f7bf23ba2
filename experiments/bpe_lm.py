"""A language model on byte-pair tokens of the larger packaged corpus: `lmjax train bpe_lm`."""

from configs import lm
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="bpe_lm",
        question="How do the bits per byte of technical English depend on the size of the vocabulary?",
        base=lm.bpe,
        variants={
            "vocab_2k": {"data.vocab": 2048},
            "vocab_32k": {"data.vocab": 32_768},
        },
    )
)
