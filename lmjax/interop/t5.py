"""T5 1.0 and 1.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmjax.errors import UserError
from lmjax.interop.family import TENSORS, Family, Setting
from lmjax.interop.pairs import Pair, linear, norm

GATED = {"gated-gelu": "geglu_tanh", "gated-silu": "swiglu", "gated-relu": "reglu"}


def attention(ours: str, theirs: str) -> list[Pair]:
    """Its four maps, without biases."""
    pairs = [Pair(f"{ours}/out", f"{theirs}.o.weight", "hkd", "d hk")]
    return pairs + [
        Pair(f"{ours}/{part}", f"{theirs}.{part[0]}.weight", "dhk", "hk d") for part in ("query", "key", "value")
    ]


def side(name: str, leaves: Mapping[str, Any]) -> list[Pair]:
    """The encoder or the decoder; the first layer has the bias of positions for all of them."""
    block, ours, cross = f"{name}.block.{{l}}.layer", f"{name}/blocks", name == "decoder"
    last = f"{block}.{2 if cross else 1}"
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    pairs = [
        Pair(f"{name}/position", bias, "ch", "c h"),
        *attention(f"{ours}/attention", f"{block}.0.SelfAttention"),
        *norm(f"{ours}/attention_norm", f"{block}.0.layer_norm", bias=False),
        *norm(f"{ours}/mlp_norm", f"{last}.layer_norm", bias=False),
        *linear(f"{ours}/mlp/down", f"{last}.DenseReluDense.wo", "fd", "d f"),
        *norm(f"{name}/norm", f"{name}.final_layer_norm", bias=False),
    ]
    if leaves["model.mlp"] in GATED.values():
        pairs += linear(f"{ours}/mlp/gate", f"{last}.DenseReluDense.wi_0", "df", "f d")
        pairs += linear(f"{ours}/mlp/up", f"{last}.DenseReluDense.wi_1", "df", "f d")
    else:
        pairs += linear(f"{ours}/mlp/up", f"{last}.DenseReluDense.wi", "df", "f d")
    if cross:
        pairs += attention(f"{ours}/cross", f"{block}.1.EncDecAttention")
        pairs += norm(f"{ours}/cross_norm", f"{block}.1.layer_norm", bias=False)
    return pairs


def t5_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    pairs = [Pair("embed", "shared.weight", "vd", "v d"), *side("encoder", leaves), *side("decoder", leaves)]
    return pairs if leaves["model.tied"] else [*pairs, Pair("head", "lm_head.weight", "vd", "v d")]


def copies(leaves: Mapping[str, Any]) -> dict[str, str]:
    return {f"{name}.embed_tokens.weight": "shared.weight" for name in ("encoder", "decoder")}


def read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Whether there is a head of its own says only its presence: transformers 5 writes tie_word_embeddings=true for all.

    T5 1.0 scales what it reads out, and 1.1, whose config.json said tie_word_embeddings=false, does not.
    """
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True))
    return {"model.tied": "lm_head.weight" not in settings[TENSORS], "model.readout_scale": bool(scaled)}


def write(leaves: Mapping[str, Any]) -> dict[str, Any]:
    if leaves["model.tied"] != leaves["model.readout_scale"]:
        raise UserError(
            "a T5 is read out with model.readout_scale if its tables are tied, and without it if they are not"
        )
    return {"tie_word_embeddings": leaves["model.tied"], "is_encoder_decoder": True, "decoder_start_token_id": 0,
            "scale_decoder_outputs": leaves["model.readout_scale"]}  # fmt: skip


T5 = Family(
    model_type="t5", architecture="T5ForConditionalGeneration", recipe="configs/encdec.py:spans", pairs=t5_pairs,
    copies=copies, read=read, write=write, kinds=("seq2seq",),
    settings=(
        Setting("model.vocab", "vocab_size", 32_128),
        Setting("model.width", "d_model", 512),
        Setting("model.head_width", "d_kv", 64),
        Setting("model.mlp_width", "d_ff", 2048),
        Setting("model.depth", "num_layers", 6),
        Setting("model.decoder_depth", "num_decoder_layers", None),
        Setting("model.heads", "num_heads", 8),
        Setting("model.buckets", "relative_attention_num_buckets", 32),
        Setting("model.furthest", "relative_attention_max_distance", 128),
        Setting("model.norm_eps", "layer_norm_epsilon", 1e-6),
        Setting("model.mlp", "feed_forward_proj", "relu", {"relu": "relu", "gelu": "gelu"} | GATED),
    ),
    ours={"model.kind": "seq2seq", "model.norm": "rmsnorm", "model.norm_place": "pre", "model.embed_norm": False,
          "model.position": "t5", "model.scaled": False, "model.bias": False},
    reads=("model.tied", "model.readout_scale", "model.kv_heads", "model.rope_base", "model.max_length"),
    buffers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)  # fmt: skip
