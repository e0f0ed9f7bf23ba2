"""Decoder language models, from two layers on bytes to the published GPT-2 and Llama shapes."""

from configs.base import language_model
from lmjax.config import update


def tiny():
    """Two layers of width 64 on bytes, 100,000 parameters: for tests and for trying things."""
    return update(language_model(), {"model.depth": 2, "model.width": 64, "model.heads": 4, "data.length": 128})


def quickstart():
    """The README's first run: bytes of the Bible on two CPU cores, under 2.4 bits per byte within three minutes."""
    return update(
        language_model(),
        {
            "steps": 400,
            "batch": 16,
            "data.length": 128,
            "model.depth": 4,
            "model.width": 192,
            "model.heads": 4,
            "optim.learning_rate": 4e-3,
            "optim.schedule.warmup": 40,
            "optim.schedule.end": 0.02,
            "every.log": 10,
            "every.eval": 100,
            "every.save": 100,
            "eval.prompt": "In the beginning",
        },
    )
