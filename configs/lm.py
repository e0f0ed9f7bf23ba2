"""Decoder language models: what runs on a laptop, and the published GPT-2 and Llama shapes."""

from configs.base import language_model
from lmjax.config import update


def tiny():
    """Two layers of width 64 on bytes: for tests and for trying things."""
    return update(
        language_model(),
        {"data.length": 128, "model.depth": 2, "model.width": 64, "model.heads": 4},
    )


def quickstart():
    """The README's first run: byte-pair tokens of the Bible, two million parameters, for two CPU cores."""
    return update(
        language_model(),
        {
            "steps": 400,
            "batch": 16,
            "data.tokenizer": "bpe",
            "data.vocab": 1024,
            "data.length": 128,
            "model.depth": 4,
            "model.width": 192,
            "optim.name": "muon",
            "optim.learning_rate": 0.02,
            "optim.schedule.warmup": 20,
            "optim.schedule.end": 0.02,
            "eval.prompt": "In the beginning",
            "eval.sample_length": 80,
        },
    )


def bpe():
    """Byte-pair tokens of the AWS API documentation, 27 MB of English: 4 layers of width 256, vocabulary 8,192."""
    return update(
        language_model(),
        {
            "steps": 2000,
            "batch": 16,
            "data.source": "botocore",
            "data.tokenizer": "bpe",
            "data.vocab": 8192,
            "optim.learning_rate": 2e-3,
            "eval.prompt": "Creates a new",
            "eval.batches": 50,
            "eval.sample_length": 100,
        },
    )


def prefix():
    """A prefix language model of the Bible: the beginning of each text is seen in both directions, the rest is written."""
    return update(quickstart(), {"data.corruption.kind": "prefix"})


def infill():
    """A model of the Bible that fills the middle of a text in, after what is before and behind it (Bavarian et al. 2022)."""
    return update(quickstart(), {"data.corruption.kind": "infill", "data.corruption.rate": 0.5})


def gpt2_124m():
    """GPT-2 small: 12 layers of width 768, 124 million parameters (Radford et al. 2019, table 2)."""
    return _gpt2(depth=12, width=768, heads=12, learning_rate=6e-4, steps=4_800)


def gpt2_355m():
    """GPT-2 medium: 24 layers of width 1024, 355 million parameters (Radford et al. 2019, table 2)."""
    return _gpt2(depth=24, width=1024, heads=16, learning_rate=3e-4, steps=13_500)


def gpt2_774m():
    """GPT-2 large: 36 layers of width 1280, 774 million parameters (Radford et al. 2019, table 2)."""
    return _gpt2(depth=36, width=1280, heads=20, learning_rate=2.5e-4, steps=29_500)


def gpt2_1558m():
    """GPT-2 XL: 48 layers of width 1600, 1,558 million parameters (Radford et al. 2019, table 2)."""
    return _gpt2(depth=48, width=1600, heads=25, learning_rate=2e-4, steps=59_400)


def _gpt2(depth, width, heads, learning_rate, steps):
    """The shape, with half a million tokens a step and the learning rates of GPT-3 (Brown et al. 2020, table 2.1).

    `steps` is 20 tokens a parameter (Hoffmann et al. 2022). The text is yours: --config.data.source=FOLDER.
    """
    return update(
        language_model(),
        {
            "steps": steps,
            "batch": 512,
            "data.source": "botocore",
            "data.tokenizer": "bpe",
            "data.vocab": 50_257,
            "data.length": 1024,
            "model.depth": depth,
            "model.width": width,
            "model.heads": heads,
            "model.mlp": "gelu_tanh",
            "model.norm": "layernorm",
            "model.position": "learned",
            "model.bias": True,
            "optim.learning_rate": learning_rate,
            "optim.b2": 0.95,
            "optim.schedule.warmup": 700,  # 375 million tokens
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 500,
            "every.save": 500,
        },
    )


def gpt3_125m():
    """GPT-3 small: GPT-2 small's layers on 2048 tokens, every other one banded (Brown et al. 2020, table 2.1)."""
    return _gpt3(depth=12, width=768, heads=12, learning_rate=6e-4, batch=256)


def gpt3_175b():
    """GPT-3: 96 layers of width 12,288, 175 billion parameters (Brown et al. 2020, table 2.1)."""
    return update(_gpt3(depth=96, width=12_288, heads=96, learning_rate=0.6e-4, batch=1536), {"model.remat": "full"})


def _gpt3(depth, width, heads, learning_rate, batch):
    """300 billion tokens; how wide its bands are is not published, and 256 is GPT-Neo's."""
    return update(
        _gpt2(depth, width, heads, learning_rate, steps=300_000_000_000 // (batch * 2048)),
        {"batch": batch, "data.length": 2048, "model.window": 256, "model.window_layers": "alternate"},
    )


def llama_tiny():
    """A Llama in everything but size: 4 layers of width 128, grouped-query attention, bytes."""
    return update(
        language_model(),
        {"data.length": 256, "model.width": 128, "model.heads": 4, "model.kv_heads": 2, "model.tied": False},
    )


def llama_160m():
    """12 layers of width 768, 162 million parameters: the shape of JackFram/llama-160m."""
    return update(
        _llama(length=2048, learning_rate=6e-4, batch=256, steps=6_200),
        {"model.depth": 12, "model.width": 768, "model.heads": 12, "model.mlp_width": 3072},
    )


def llama_1b():
    """22 layers of width 2048, 4 key/value heads, 1,100 million parameters: TinyLlama (Zhang et al. 2024)."""
    return update(
        _llama(length=2048, learning_rate=4e-4, batch=1024, steps=10_500),
        {"model.depth": 22, "model.width": 2048, "model.heads": 32, "model.kv_heads": 4, "model.mlp_width": 5632},
    )


def llama_7b():
    """Llama 2 7B: 32 layers of width 4096, 6,738 million parameters, 2 trillion tokens (Touvron et al. 2023)."""
    return update(
        _llama(length=4096, learning_rate=3e-4, batch=1024, steps=500_000),
        {"model.depth": 32, "model.width": 4096, "model.heads": 32, "model.mlp_width": 11_008, "model.remat": "full"},
    )


def _llama(length, learning_rate, batch, steps):
    """Llama 2's optimizer and vocabulary size (Touvron et al. 2023, arXiv:2307.09288, section 2.2).

    The steps of the 160M and 1B shapes are 20 tokens a parameter. The text is yours: --config.data.source=FOLDER.
    """
    return update(
        language_model(),
        {
            "steps": steps,
            "batch": batch,
            "data.source": "botocore",
            "data.tokenizer": "bpe",
            "data.vocab": 32_000,
            "data.length": length,
            "model.tied": False,
            "optim.learning_rate": learning_rate,
            "optim.b1": 0.9,
            "optim.b2": 0.95,
            "optim.eps": 1e-5,
            "optim.schedule.warmup": 2000,
            "layout.mesh.data": 1,
            "layout.mesh.fsdp": -1,
            "every.eval": 500,
            "every.save": 500,
        },
    )
