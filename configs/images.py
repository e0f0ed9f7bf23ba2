"""Images: with a text each, that a decoder learns to write, or with one label each."""

from configs.base import language_model
from lmjax.config import update


def small():
    """Captions, by a decoder that has the image before the text; a folder of yours: --config.data.source=FOLDER.

    Emoji and their names in English, unless told otherwise. 64 squares of 8 x 8 pixels are 64 positions before the text.
    """
    return update(
        _images(),
        {
            "steps": 300,
            "batch": 16,
            "data.source": "emoji",
            "data.kind": "images",
            "data.image_size": 64,
            "data.tokenizer": "bpe",
            "data.vocab": 1024,
            "data.length": 64,
            "model.patch": 8,
            "eval.sample_length": 24,
        },
    )


def labels():
    """Classes of images; a folder of yours with a folder of images for each label: --config.data.source=FOLDER.

    Handwritten digits of 8 x 8 pixels, enlarged, unless told otherwise: 98 % of those for validation are read right.
    """
    return update(
        _images(),
        {
            "steps": 300,
            "batch": 32,
            "data.source": "digits",
            "data.kind": "image_labels",
            "data.image_size": 32,
            "model.kind": "classifier",
            "model.depth": 2,
            "model.patch": 8,
            "objective.kind": "classification",
            "eval.metric": "valid/accuracy",
            "eval.mode": "max",
        },
    )


def _images():
    return update(
        language_model(),
        {
            "data.packing": "none",
            "model.width": 128,
            "optim.learning_rate": 1e-3,
            "optim.schedule.warmup": 30,
        },
    )
