"""Recurrent networks: language models, and sequence-to-sequence models with attention."""

from configs.base import language_model
from lmjax.config import config, optional, update


def tiny():
    """One LSTM layer of width 64 on bytes: for tests and for trying things."""
    return update(of_model(rnn()), {"data.length": 128, "model.depth": 1, "model.width": 64})


def small():
    """Two LSTM layers of width 256 on byte-pair tokens of the Bible, 1.3 million parameters, for two CPU cores."""
    return update(
        of_model(rnn()),
        {
            "steps": 400,
            "batch": 16,
            "data.tokenizer": "bpe",
            "data.vocab": 1024,
            "data.length": 128,
            "optim.schedule.warmup": 20,
            "eval.prompt": "In the beginning",
            "eval.sample_length": 80,
        },
    )


def of_model(model: dict):
    """A language model's config with this section as its model."""
    return config(**{**language_model(), "model": model})


def rnn() -> dict:
    return dict(
        kind="rnn",
        cell="lstm",  # elman lstm gru
        depth=2,
        width=256,
        truncate=optional(int),  # tokens that gradients go back within a row, while states go on; none: all
        tied=True,  # input and output embeddings
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this; the loss does not change
        dropout=0.0,  # over what every layer reads, and the readout
    )
