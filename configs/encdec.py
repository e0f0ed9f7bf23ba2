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
        remat="minimal",  # none full minimal dots offload
        attention="auto",  # auto dense blocked chunked splash cudnn
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
    """Verses of the Bible from English to Japanese by the original Transformer, with four million parameters."""
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


def german():
    """LibreOffice's interface from English to German, small: words of menus, and sentences of up to 19 tokens."""
    return update(
        translation(),
        {
            "steps": 700,
            "batch": 64,
            "data.source": "libreoffice_de",
            "data.source_length": 20,
            "data.length": 20,
            "model.depth": 2,
            "model.norm_place": "pre",
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 40,
            "optim.schedule.end": 0.02,
            "every.eval": 350,
            "every.save": 350,
        },
    )


def spans():
    """T5's span corruption on the Bible: five million parameters for two CPU cores."""
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


def transformer_base():
    """The original Transformer: 6 + 6 layers of width 512, 63 million parameters (Vaswani et al. 2017, table 3)."""
    return _transformer(width=512, heads=8, dropout=0.1, steps=100_000)


def transformer_big():
    """The big one: width 1024, 16 heads, 214 million parameters (Vaswani et al. 2017, table 3)."""
    return _transformer(width=1024, heads=16, dropout=0.3, steps=300_000)


def _transformer(width, heads, dropout, steps):
    """Sections 5.1 to 5.4: 25,000 tokens a side and step, 4,000 steps of warm-up. Pairs of yours: data.source=FOLDER."""
    return update(
        translation(),
        {
            "steps": steps,
            "batch": 384,
            "data.vocab": 37_000,
            "data.source_length": 128,
            "data.length": 128,
            "model.depth": 6,
            "model.width": width,
            "model.heads": heads,
            "model.dropout": dropout,
            "optim.name": "adam",
            "optim.learning_rate": width**-0.5 * 4000**-0.5,
            "optim.b2": 0.98,
            "optim.eps": 1e-9,
            "optim.clip.by": "none",
            "optim.weight_decay": 0.0,
            "optim.schedule.name": "inverse_sqrt",
            "optim.schedule.warmup": 4000,
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 5000,
            "every.save": 5000,
        },
    )


def t5_small():
    """T5 1.0 small: 6 + 6 layers of width 512, 61 million parameters (Raffel et al. 2020, section 3.7)."""
    return update(_t5(depth=6, width=512, heads=8, mlp_width=2048), T5_1_0)


def t5_base():
    """T5 1.0 base: 12 + 12 layers of width 768, 223 million parameters (Raffel et al. 2020, section 3.1.1)."""
    return update(_t5(depth=12, width=768, heads=12, mlp_width=3072), T5_1_0)


def t5_1_1_small():
    """T5 1.1 small: 8 + 8 layers of width 512, gated GELU, a readout of its own, 77 million parameters."""
    return _t5(depth=8, width=512, heads=6, mlp_width=1024)


T5_1_0 = {"model.mlp": "relu", "model.tied": True, "model.readout_scale": True, "model.dropout": 0.1}


def _t5(depth, width, heads, mlp_width):
    """Span corruption as in sections 3.1.2 to 3.1.4, with Adafactor. The text is yours: --config.data.source=FOLDER."""
    return update(
        spans(),
        {
            "steps": 524_288,
            "batch": 128,
            "data.source": "botocore",
            "data.tokenizer": "unigram",
            "data.vocab": 32_128,
            "data.source_length": 512,
            "data.length": 114,
            "model.depth": depth,
            "model.width": width,
            "model.heads": heads,
            "model.head_width": 64,
            "model.mlp_width": mlp_width,
            "optim.schedule.name": "inverse_sqrt",
            "optim.schedule.warmup": 10_000,
            "optim.weight_decay": 0.0,
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 5000,
            "every.save": 5000,
        },
    )


def bart_base():
    """BART base: 6 + 6 layers of width 768, 139 million parameters, infilling (Lewis et al. 2020, section 4)."""
    return update(
        of_model(bart()),
        {
            "steps": 500_000,
            "batch": 8000,
            "data.source": "botocore",
            "data.tokenizer": "bpe",
            "data.vocab": 50_265,
            "data.source_length": 1024,
            "data.length": 1024,
            "data.packing": "none",
            "data.corruption.kind": "denoise",
            "data.corruption.rate": 0.3,
            "data.corruption.permute": True,
            "model.depth": 6,
            "model.width": 768,
            "model.heads": 12,
            "optim.learning_rate": 4e-4,
            "optim.schedule.name": "linear",
            "optim.schedule.warmup": 10_000,
            "optim.schedule.end": 0.0,
            "optim.weight_decay": 0.01,
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 5000,
            "every.save": 5000,
        },
    )


def denoising():
    """BART's infilling on the Bible: four million parameters for two CPU cores."""
    return update(
        spans(),
        {
            "data.length": 64,
            "data.source_length": 64,
            "data.corruption.kind": "denoise",
            "data.corruption.rate": 0.3,
        }
        | {f"model.{name}": value for name, value in bart().items() if name in DIFFERS},
    )


DIFFERS = ("mlp", "norm", "norm_eps", "norm_place", "embed_norm", "position", "scaled", "bias", "tied")


def of_model(model: dict):
    """`language_model` with another model's section."""
    base = language_model()
    return config(**{name: base[name] for name in base if name != "model"}, model=model)
