"""Pairs of texts, such as sentences and their translations: a decoder that reads the source and writes the target."""

from configs.base import language_model
from lmjax.config import update


def small():
    """Two million parameters for two CPU cores; a folder of yours: --config.data.source=FOLDER.

    The Bible's verses in English and Japanese, unless told otherwise. Only the target is learned, so the loss is that of
    a sequence-to-sequence model; pairs share rows, none is cut, and one that is longer than a row is left out and counted.
    """
    return update(
        language_model(),
        {
            "steps": 300,
            "batch": 8,
            "data.source": "bible_ja",
            "data.kind": "pairs",
            "data.tokenizer": "bpe",
            "data.vocab": 2048,
            "data.packing": "best_fit",
            "model.width": 192,
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 20,
            "optim.schedule.end": 0.02,
            "every.eval": 150,
            "every.save": 150,
            "eval.batches": 25,
            "eval.sample_length": 60,
        },
    )
