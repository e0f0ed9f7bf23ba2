"""n-gram language models: counted in seconds, evaluated on the very rows that the networks are."""

from configs.base import language_model
from lmjax.config import config, update


def ngram() -> dict:
    return dict(
        kind="ngram",  # interpolated modified Kneser-Ney
        order=5,  # tokens, the predicted one included
    )


def small():
    """Order 5 over the byte-pair tokens of the Bible that the quickstart's Transformer reads, vocabulary 1,024."""
    return _counted({"data.tokenizer": "bpe", "data.vocab": 1024, "data.length": 128})


def of_bytes():
    """Order 8 over the bytes of the Bible."""
    return _counted({"model.order": 8})


def _counted(changes):
    """A language model's config with the leaves of an n-gram; those of layout, precision and optim change nothing."""
    base = config(**{name: section for name, section in language_model().items() if name != "model"}, model=ngram())
    return update(base, {"steps": 1, "every.log": 1, "every.eval": 1, "eval.batch": 256, **changes})
