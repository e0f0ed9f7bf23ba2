"""Encoder-decoders: the original Transformer, T5 and BART, from laptop size to what was published."""

from configs.base import language_model
from lmjax.config import config, optional, update


def seq2seq() -> dict:
    """The original Transformer's parts (Vaswani et al. 2017), small."""
    return dict(
        kind="seq2seq",
        depth=3,  # of the encoder
        decoder_depth=optional(int),  # none: depth
        width=192,
        heads=4,
        kv_heads=optional(int),  # none: heads; 1: multi-query
        head_width=optional(int),  # none: width / heads
        mlp="relu",  # gelu gelu_tanh quick_gelu relu relu2 silu, or gated: geglu geglu_tanh swiglu reglu
        mlp_width=optional(int),  # none: 4 width, or 8/3 width rounded up to 32 when gated
        norm="layernorm",  # rmsnorm layernorm
        norm_eps=optional(float),  # none: 1e-6 for rmsnorm, 1e-5 for layernorm
        norm_place="post",  # pre post
        embed_norm=False,  # a norm before the first block of each side
        position="sinusoidal",  # rope sinusoidal learned alibi t5 none
        rope_base=10000.0,
        buckets=32,  # t5: of distances, in an encoder half of them for keys that come later
        furthest=128,  # t5: distance from which on all are alike
        max_length=optional(int),  # size of the tables of learned positions; none: the longer of the two rows
        scaled=True,  # queries by 1 / sqrt(head width); T5 has it in its initial weights
        bias=True,
        tied=True,  # input and output embeddings
        readout_scale=False,  # features by 1 / sqrt(width) before the readout, as in T5 1.0
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this; the loss does not change
        dropout=0.1,
        layers="scan",  # scan unroll
        remat="minimal",  # none full minimal dots
        attention="auto",  # auto dense blocked splash
        init_scale=1.0,
    )


def t5() -> dict:
    """T5 1.1's parts: relative positions, gated GELU, norms without a shift, no biases, a readout of its own."""
    return seq2seq() | dict(
        mlp="geglu_tanh",
        norm="rmsnorm",
        norm_eps=1e-6,
        norm_place="pre",
        position="t5",
        scaled=False,
        bias=False,
        tied=False,
    )


def bart() -> dict:
    """BART's parts: learned positions, post-norm, GELU, a norm of the embeddings (Lewis et al. 2020, section 2.1)."""
    return seq2seq() | dict(mlp="gelu", norm_eps=1e-5, embed_norm=True, position="learned")


def translation():
    """Verses of the Bible from English to Japanese by the original Transformer, small, for two CPU cores."""
    return update(
        of_model(seq2seq()),
        {
            "steps": 600,
            "batch": 32,
            "data.source": "bible_ja",
            "data.kind": "pairs",
            "data.tokenizer": "bpe",
            "data.vocab": 4096,
            "data.source_length": 64,
            "data.length": 64,
            "data.packing": "none",
            "objective.label_smoothing": 0.1,
            "optim.learning_rate": 2e-3,
            "optim.schedule.warmup": 60,
            "every.eval": 200,
            "every.save": 200,
            "eval.sample_length": 40,
        },
    )


def spans():
    """T5's span corruption on the Bible: two million parameters for two CPU cores."""
    return update(
        of_model(t5()),
        {
            "steps": 600,
            "batch": 32,
            "data.tokenizer": "bpe",
            "data.vocab": 4096,
            "data.source_length": 128,
            "data.length": 32,
            "data.packing": "none",
            "data.corruption.kind": "spans",
            "model.dropout": 0.0,
            "optim.name": "adafactor",
            "optim.learning_rate": 1e-2,
            "every.eval": 200,
            "eval.sample_length": 0,
        },
    )


def of_model(model: dict):
    """`language_model` with another model's section."""
    base = language_model()
    return config(**{name: base[name] for name in base if name != "model"}, model=model)
