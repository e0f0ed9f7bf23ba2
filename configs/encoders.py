"""Encoders: masked language models, and what they are fine-tuned for."""

from configs.base import language_model
from lmjax.config import config, extend, optional, update


def encoder() -> dict:
    return dict(
        kind="encoder",  # encoder (masked words) encoder_sentences _classifier _regressor _tagger _spans _chooser
        depth=4,
        width=256,
        heads=4,
        kv_heads=optional(int),  # none: heads; 1: multi-query
        head_width=optional(int),  # none: width / heads
        mlp="gelu",  # gelu gelu_tanh quick_gelu relu relu2 silu, or gated: geglu geglu_tanh swiglu reglu
        mlp_width=optional(int),  # none: 4 width, or 8/3 width rounded up to 32 when gated
        norm="layernorm",  # rmsnorm layernorm
        norm_eps=1e-12,
        norm_place="post",  # pre post
        embed_norm=True,  # a norm before the first block
        position="learned",  # rope sinusoidal learned alibi t5 none
        rope_base=10000.0,
        buckets=32,  # t5: of distances, half of them for keys that come later
        furthest=128,  # t5: distance from which on all are alike
        max_length=optional(int),  # size of the table of learned positions; none: data.length
        types=2,  # kinds of text in a row, such as a question and its context; 0: none are told apart
        bias=True,
        tied=True,  # the table of the masked words is that of the embeddings
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this; the loss does not change
        dropout=0.1,
        layers="scan",  # scan unroll
        remat="minimal",  # none full minimal dots offload
        attention="auto",  # auto dense blocked chunked splash cudnn
        init_scale=1.0,
        pool="first",  # encoder_classifier _regressor _chooser: first mean, of the positions that are not padding
        pooler=True,  # likewise: a linear map and tanh before the head
    )


def masked():
    """Masked words of the Bible: three million parameters for two CPU cores."""
    return update(
        of_model(encoder()),
        {
            "steps": 600,
            "batch": 32,
            "data.tokenizer": "bpe",
            "data.vocab": 4096,
            "data.length": 128,
            "data.corruption.kind": "masked",
            "model.width": 192,
            "model.dropout": 0.0,
            "objective.kind": "masked",
            "objective.predictions": 20,  # 15 % of 128, rounded up
            "every.eval": 200,
            "eval.sample_length": 0,
        },
    )


def sentences():
    """BERT's two tasks: masked words, and whether the second text of a row is what comes after the first."""
    return update(
        masked(),
        {
            "data.packing": "none",
            "data.corruption.kind": "sentences",
            "model.kind": "encoder_sentences",
            "objective.kind": "sentences",
        },
    )


def news_words():
    """Masked words of Reuters' news: what `news_topics` can begin from."""
    return update(
        masked(),
        {
            "steps": 400,
            "data.source": "reuters_r8",
            "data.valid_source": "reuters_r8:test",
            "model.depth": 3,
            "model.dropout": 0.1,
            "optim.learning_rate": 2e-3,
            "every.eval": 200,
            "every.save": 200,
        },
    )


def news_topics():
    """Eight topics of Reuters' news from `news_words`' shape, validated on R8's 2,189 test articles.

    From scratch, unless begun from a run RUN of `news_words`:
    --config.start.run=RUN --config.start.missing=init --config.start.drop="('transform.*','head.*')"
    """
    return update(
        news_words(),
        {
            "steps": 200,
            "data.kind": "labels",
            "data.packing": "none",
            "data.buckets": 4,  # half of the news are shorter than 80 tokens
            "data.special": ("mask",),  # not used: it makes the ids those of `news_words`
            "data.corruption.kind": "none",
            "model.kind": "encoder_classifier",
            "model.pool": "mean",
            "objective.kind": "classification",
            "objective.predictions": None,
            "optim.learning_rate": 5e-4,
            "optim.schedule.warmup": 20,
            "every.eval": 100,
            "every.save": 100,
            "eval.metric": "valid/accuracy",
            "eval.mode": "max",
        },
    )


def bert_base():
    """BERT base: 12 layers of width 768, 110 million parameters (Devlin et al. 2019, section 3)."""
    return _bert(depth=12, width=768, heads=12)


def bert_large():
    """BERT large: 24 layers of width 1024, 335 million parameters (Devlin et al. 2019, section 3)."""
    return _bert(depth=24, width=1024, heads=16)


def _bert(depth, width, heads):
    """The recipe of appendix A.2, at 512 tokens throughout. The text is yours: --config.data.source=FOLDER."""
    return update(
        sentences(),
        {
            "steps": 1_000_000,
            "batch": 256,
            "data.source": "botocore",
            "data.tokenizer": "wordpiece",
            "data.vocab": 30_522,
            "data.length": 512,
            "model.depth": depth,
            "model.width": width,
            "model.heads": heads,
            "model.dropout": 0.1,
            "objective.predictions": 80,
            "optim.learning_rate": 1e-4,
            "optim.schedule.name": "linear",
            "optim.schedule.warmup": 10_000,
            "optim.schedule.end": 0.0,
            "optim.weight_decay": 0.01,
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 10_000,
            "every.save": 10_000,
        },
    )


def roberta_base():
    """RoBERTa base: BERT base's shape, no types, no pairs of sentences, larger batches (Liu et al. 2019, table 9)."""
    return update(
        bert_base(),
        {
            "steps": 500_000,
            "batch": 8192,
            "data.tokenizer": "bpe",
            "data.vocab": 50_265,
            "data.packing": "concat",
            "data.corruption.kind": "masked",
            "model.kind": "encoder",
            "model.types": 1,
            "model.norm_eps": 1e-5,
            "objective.kind": "masked",
            "optim.learning_rate": 6e-4,
            "optim.b2": 0.98,
            "optim.eps": 1e-6,
            "optim.clip.by": "none",
            "optim.schedule.warmup": 24_000,
        },
    )


def of_model(model: dict):
    """`language_model` with another model's section, and the objective's leaves that masked words have."""
    sections = dict(language_model().items()) | {"model": model}
    leaves = {
        "objective.predictions": optional(int),  # masked, sentences: places of a row that are told; none: all
        "objective.label_tokens": optional(float),  # sentences: chosen tokens that a label weighs; none: 15 % of a row
    }
    return extend(config(**sections), leaves)
