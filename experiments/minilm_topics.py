"""Fine-tuning a published encoder: does it tell topics better than a linear classifier of words, 0.974?

`configs/finetune.py` says how to make runs/minilm, which it begins from.
"""

from configs import finetune
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="minilm_topics",
        question="Does MiniLM-L6, fine-tuned, tell eight topics of news better than a linear classifier of words?",
        base=finetune.minilm_topics,
        seeds=(0, 1, 2),
        metrics=("eval/accuracy",),
    )
)
