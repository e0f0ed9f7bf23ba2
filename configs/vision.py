"""Images: classified by a Transformer or a convolutional network, and matched with their captions."""

from configs.base import language_model
from lmjax.config import config, optional, update

HALF = (0.5, 0.5, 0.5)


def vit():
    """Handwritten digits (MNIST, 5,000 of 28 x 28 pixels) read by a vision Transformer of 49 squares."""
    return update(
        with_model(image_classifier()),
        {
            "steps": 600,
            "batch": 64,
            "data.source": "mnist_5k",
            "data.kind": "image_labels",
            "data.packing": "none",
            "data.image_size": 28,
            "data.valid_fraction": 0.2,
            "data.augment.image": ("rotate", "scale", "translate"),
            "objective.kind": "classification",
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 20,
            "optim.schedule.end": 0.02,
            "eval.metric": "valid/accuracy",
            "eval.mode": "max",
        },
    )


def convnext():
    """The same digits read by a convolutional network in the style of ConvNeXt."""
    return update(vit(), {"model.kind": "convnext"})


def with_model(model: dict):
    """A config with the sections of a language model's, but for the model."""
    base = language_model()
    return config(**{name: base[name] for name in base if name != "model"}, model=model)


def image_classifier(kind: str = "vit") -> dict:
    """Of an image; the other encoder's section is not read."""
    return dict(kind=kind, vit=vision_transformer(), convnext=convolutional())  # kind: vit convnext


def vision_transformer() -> dict:
    return dict(
        patch=4,  # pixels a side of the squares that images are cut into
        pool="class",  # class (a token of its own) mean (of the squares)
        patch_bias=True,
        pre_norm=False,  # a norm before the first block, as in CLIP
        mean=HALF,  # of the colours, from 0 to 1; taken from every image
        std=HALF,  # that it is divided by
        **transformer(),
    )


def transformer() -> dict:
    """Of a vision Transformer, and of the text side of a dual encoder."""
    return dict(
        depth=4,
        width=96,
        heads=4,
        mlp="gelu",  # gelu gelu_tanh quick_gelu relu relu2 silu, or gated: geglu swiglu reglu
        mlp_width=optional(int),  # none: 4 width, or 8/3 width rounded up to 32 when gated
        norm_eps=1e-6,
        dropout=0.0,
        layers="scan",  # scan unroll
        remat="none",  # none full minimal dots offload
    )


def convolutional() -> dict:
    return dict(
        patch=2,  # pixels a side of the squares of the first layer
        depths=(2, 2),  # blocks of each stage; the second has half the places a side
        widths=(32, 64),  # channels of each stage
        kernel=7,  # places a side that a block sees
        layer_scale=1.0,  # first value of what multiplies a block's output, 1e-6 in deep ones; 0: none
        drop_path=0.0,  # chance that a block leaves a row as it is
        norm_eps=1e-6,
        mean=HALF,
        std=HALF,
        layers="scan",  # scan unroll
        remat="none",  # none full minimal dots offload
    )


def emoji():
    """Emoji and their English names in one space (CLIP): a vision Transformer beside a text Transformer.

    Of 330 emoji that it has not seen it has the own name of 20 % in the first place and of 43 % among the first ten, where
    chance has 0.3 and 3 % (seed 0).
    """
    return update(
        with_model(dual_encoder()),
        {
            "steps": 600,
            "batch": 128,
            "data.source": "emoji",
            "data.valid_source": "emoji:test",
            "data.kind": "images",
            "data.packing": "none",
            "data.image_size": 32,
            "data.tokenizer": "bpe",
            "data.vocab": 1024,
            "data.length": 32,
            "data.augment.image": ("rotate", "scale", "translate"),
            "model.vit.depth": 2,
            "model.text.depth": 2,
            "objective.kind": "softmax_contrastive",
            "optim.learning_rate": 1e-3,
            "eval.metric": "valid/text_to_image",
            "eval.mode": "max",
            "eval.sample_length": 0,
        },
    )


def dual_encoder() -> dict:
    """Of images and captions; the section of the other image encoder is not read."""
    return dict(
        kind="dual_encoder",
        encoder="vit",  # of images: vit convnext
        vit=vision_transformer(),
        convnext=convolutional(),
        text=text_encoder(),
        width=128,  # of the space that images and texts are compared in
        temperature=0.07,  # at first; it is learned, and stays above 0.01
        bias=optional(float),  # of the logits, at first; none: no bias, and sigmoid_contrastive needs one
    )


def text_encoder() -> dict:
    return dict(
        pattern="causal",  # causal bidirectional: which tokens a token sees
        pool="last",  # last mean: the token that stands for the text
        max_length=optional(int),  # size of the table of positions; none: data.length
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this
        **transformer(),
    )


def matches():
    """Whether a name is that of an emoji: an image and a text encoder, whose features an MLP reads together."""
    return update(
        with_model(joint()),
        {
            "steps": 600,
            "batch": 128,
            "data.source": "emoji_matches",
            "data.valid_source": "emoji_matches:test",
            "data.kind": "image_text_labels",
            "data.packing": "none",
            "data.image_size": 32,
            "data.tokenizer": "bpe",
            "data.vocab": 1024,
            "data.length": 32,
            "data.augment.image": ("rotate", "scale", "translate"),
            "model.vit.depth": 2,
            "model.text.depth": 2,
            "objective.kind": "classification",
            "optim.learning_rate": 1e-3,
            "eval.metric": "valid/accuracy",
            "eval.mode": "max",
        },
    )


def joint() -> dict:
    """Of an image with a text, and one label for both; the section of the other image encoder is not read."""
    return dict(
        kind="joint",
        encoder="vit",  # of images: vit convnext
        vit=vision_transformer(),
        convnext=convolutional(),
        text=text_encoder(),
        hidden=256,  # width of the layer that reads the features of both
        activation="gelu",
        dropout=0.0,  # after it
    )
