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
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 20,
            "optim.schedule.end": 0.02,
            "eval.prompt": "In the beginning",
            "eval.sample_length": 80,
        },
    )


def pronunciation():
    """The sounds of English words from their letters, by an LSTM that reads both ways and one that looks back at it.

    Letters and sounds stand apart by spaces, so every one is a token of the words. CMUdict has the words in one split
    with all their pronunciations, of which any may be asked for: no model can tell which.
    """
    return update(
        of_model(seq2seq()),
        {
            "steps": 2000,  # one pass over the 128,400 pairs
            "batch": 64,
            "data.source": "cmudict",
            "data.kind": "pairs",
            "data.tokenizer": "words",
            "data.source_length": 20,  # eleven words are longer: left out and counted
            "data.length": 20,
            "data.packing": "none",
            "model.dropout": 0.1,
            "model.schedule": "linear",
            "model.schedule_steps": 2000.0,
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 50,
            "optim.schedule.end": 0.02,
            "every.eval": 500,
            "every.save": 500,
            "eval.sample_length": 24,
        },
    )


def german():
    """LibreOffice's interface from English to German, on the rows and in the steps of configs/encdec.py:german."""
    return update(
        of_model(seq2seq()),
        {
            "steps": 700,
            "batch": 64,
            "data.source": "libreoffice_de",
            "data.kind": "pairs",
            "data.tokenizer": "bpe",
            "data.vocab": 4096,
            "data.source_length": 20,
            "data.length": 20,
            "data.packing": "none",
            "model.dropout": 0.1,
            "objective.label_smoothing": 0.1,
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 40,
            "optim.schedule.end": 0.02,
            "every.eval": 350,
            "every.save": 350,
            "eval.sample_length": 40,
        },
    )


def summaries():
    """What Debian's packages are, in a line of up to 15 tokens, from descriptions of up to 63; longer ones are left out."""
    return update(
        german(),
        {
            "steps": 900,
            "data.source": "debian_short",
            "data.vocab": 8192,
            "data.source_length": 64,
            "data.length": 16,
            "every.eval": 450,
            "every.save": 450,
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


def seq2seq() -> dict:
    return dict(
        kind="rnn_seq2seq",
        cell="lstm",  # elman lstm gru
        depth=1,  # of the decoder
        encoder_depth=optional(int),  # none: depth
        width=256,
        attention="general",  # additive (Bahdanau) dot general concat (Luong)
        feed=False,  # what a step gave goes into the next: Luong et al. 2015, section 3.3
        bidirectional=True,  # the encoder: two directions of half the width
        tied=True,  # input and output embeddings; source and target share one vocabulary
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this; the loss does not change
        dropout=0.0,  # over what every layer reads, the source's values and the readout
        sampling=0.0,  # scheduled sampling: share of a target's tokens that are the model's own guesses in training
        schedule="constant",  # of the share of true tokens: constant linear exponential sigmoid
        schedule_steps=1000.0,  # k: 1 - i/k linear, exp(-i/k) exponential, k / (k + exp(i/k)) sigmoid
    )
