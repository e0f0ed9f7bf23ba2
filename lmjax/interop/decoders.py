"""GPT-2, Llama, Mistral, Qwen2 and Qwen3: the decoders whose parts the decoder here has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmjax.errors import UserError
from lmjax.interop.family import Family, Setting
from lmjax.interop.pairs import Pair, norm

RECIPE = "configs/base.py:language_model"
KIND = {"model.kind": "decoder", "model.norm_place": "pre", "model.window_layers": "all"}


def gpt2_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    """Its linear maps are stored input first, and those of query, key and value as one."""
    block, attention, mlp = "transformer.h.{l}", "blocks/attention/", "blocks/mlp/"
    three = tuple(f"{attention}{name}" for name in ("query", "key", "value"))
    pairs = [
        Pair("embed", "transformer.wte.weight", "vd", "v d"),
        Pair("position", "transformer.wpe.weight", "td", "t d"),
        *norm("blocks/attention_norm", f"{block}.ln_1", bias=True),
        Pair(three, f"{block}.attn.c_attn.weight", "dhk", "d mhk"),
        Pair(tuple(f"{name}_bias" for name in three), f"{block}.attn.c_attn.bias", "hk", "mhk"),
        Pair(f"{attention}out", f"{block}.attn.c_proj.weight", "hkd", "hk d"),
        Pair(f"{attention}out_bias", f"{block}.attn.c_proj.bias", "d", "d"),
        *norm("blocks/mlp_norm", f"{block}.ln_2", bias=True),
        Pair(f"{mlp}up", f"{block}.mlp.c_fc.weight", "df", "d f"),
        Pair(f"{mlp}up_bias", f"{block}.mlp.c_fc.bias", "f", "f"),
        Pair(f"{mlp}down", f"{block}.mlp.c_proj.weight", "fd", "f d"),
        Pair(f"{mlp}down_bias", f"{block}.mlp.c_proj.bias", "d", "d"),
        *norm("norm", "transformer.ln_f", bias=True),
    ]
    return pairs if leaves["model.tied"] else [*pairs, Pair("head", "lm_head.weight", "vd", "v d")]


def llama_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    """Those of Llama and of what followed it, with biases and norms of queries and keys where there are such."""
    block, attention, mlp = "model.layers.{l}", "blocks/attention/", "blocks/mlp/"
    pairs = [
        Pair("embed", "model.embed_tokens.weight", "vd", "v d"),
        *norm("blocks/attention_norm", f"{block}.input_layernorm", bias=False),
        *norm("blocks/mlp_norm", f"{block}.post_attention_layernorm", bias=False),
        *norm("norm", "model.norm", bias=False),
    ]
    for name in ("query", "key", "value"):
        theirs = f"{block}.self_attn.{name[0]}_proj"
        pairs.append(Pair(f"{attention}{name}", f"{theirs}.weight", "dhk", "hk d"))
        if leaves["model.bias"] or leaves["model.qkv_bias"]:
            pairs.append(Pair(f"{attention}{name}_bias", f"{theirs}.bias", "hk", "hk"))
    maps = [(f"{attention}out", f"{block}.self_attn.o_proj", "hkd", "d hk", "d")]
    maps += [(f"{mlp}{name}", f"{block}.mlp.{name}_proj", *how) for name, how in
             {"gate": ("df", "f d", "f"), "up": ("df", "f d", "f"), "down": ("fd", "d f", "d")}.items()]  # fmt: skip
    for ours, theirs, letters, axes, bias in maps:
        pairs.append(Pair(ours, f"{theirs}.weight", letters, axes))
        if leaves["model.bias"]:
            pairs.append(Pair(f"{ours}_bias", f"{theirs}.bias", bias, bias))
    if leaves["model.qk_norm"]:
        pairs += [Pair(f"{attention}{name}_scale", f"{block}.self_attn.{name[0]}_norm.weight", "k", "k")
                  for name in ("query", "key")]  # fmt: skip
    return pairs if leaves["model.tied"] else [*pairs, Pair("head", "lm_head.weight", "vd", "v d")]


ROPE = ("model.rope_base", "model.rope_scaling", "model.rope_factor", "model.rope_trained", "model.rope_low",
        "model.rope_high")  # fmt: skip
ROPE_TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}


def read_rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters, or rope_theta and rope_scaling as they were before."""
    said = settings.get("rope_parameters") or {}
    scaling = said or settings.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise UserError(f"rotary positions of type {kind!r} are not supported; there are {', '.join(ROPE_TYPES)}")
    leaves = {"model.rope_base": float(said.get("rope_theta", settings.get("rope_theta", 10_000.0)))}
    leaves |= {"model.rope_scaling": ROPE_TYPES[kind], "model.rope_factor": float(scaling.get("factor", 1.0))}
    if kind == "llama3":
        leaves |= {"model.rope_trained": int(scaling["original_max_position_embeddings"]),
                   "model.rope_low": float(scaling["low_freq_factor"]),
                   "model.rope_high": float(scaling["high_freq_factor"])}  # fmt: skip
    return leaves


def write_rope(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings, so that every version of transformers reads one of them."""
    kind = next((theirs for theirs, ours in ROPE_TYPES.items() if ours == leaves["model.rope_scaling"]), None)
    if kind is None:
        raise UserError(
            f"model.rope_scaling={leaves['model.rope_scaling']} is not one that transformers has by this name"
        )
    scaling = {"rope_type": kind}
    if kind != "default":
        scaling["factor"] = leaves["model.rope_factor"]
    if kind == "llama3":
        scaling |= {"original_max_position_embeddings": leaves["model.rope_trained"],
                    "low_freq_factor": leaves["model.rope_low"],
                    "high_freq_factor": leaves["model.rope_high"]}  # fmt: skip
    base = leaves["model.rope_base"]
    return {
        "rope_theta": base,
        "rope_scaling": None if kind == "default" else scaling,
        "rope_parameters": {"rope_theta": base, **scaling},
    }


def read_llama(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Its biases are everywhere or nowhere here."""
    attention, mlp = settings.get("attention_bias", False), settings.get("mlp_bias", False)
    if attention != mlp:
        raise UserError(
            f"attention_bias={attention} and mlp_bias={mlp}: here linear maps have biases everywhere or nowhere"
        )
    return read_rope(settings) | _heads(settings) | {"model.bias": attention}


def write_llama(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return write_rope(leaves) | {"attention_bias": leaves["model.bias"], "mlp_bias": leaves["model.bias"]}


def read_decoder(settings: Mapping[str, Any]) -> dict[str, Any]:
    return read_rope(settings) | _heads(settings)


def _heads(settings: Mapping[str, Any]) -> dict[str, Any]:
    heads = settings["num_attention_heads"]
    return {"model.head_width": settings.get("head_dim") or settings["hidden_size"] // heads,
            "model.kv_heads": settings.get("num_key_value_heads") or heads}  # fmt: skip


def head_copy(leaves: Mapping[str, Any]) -> dict[str, str]:
    """A tied readout repeats the embeddings in some checkpoints."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if leaves["model.tied"] else {}


def gpt2_head_copy(leaves: Mapping[str, Any]) -> dict[str, str]:
    return {"lm_head.weight": "transformer.wte.weight"} if leaves["model.tied"] else {}


def write_gpt2(leaves: Mapping[str, Any]) -> dict[str, Any]:
    heads, head = leaves["model.heads"], leaves["model.head_width"]
    if leaves["model.kv_heads"] != heads or head * heads != leaves["model.width"]:
        raise UserError(f"model.kv_heads={leaves['model.kv_heads']} and model.head_width={head}: a GPT-2 has as many "
                        f"key/value heads as heads, {heads}, of width {leaves['model.width']} / {heads}")  # fmt: skip
    return {}


GPT2 = Family(
    model_type="gpt2", architecture="GPT2LMHeadModel", recipe=RECIPE, pairs=gpt2_pairs, prefix="transformer.",
    kinds=("decoder",), copies=gpt2_head_copy, buffers=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
    settings=(
        Setting("model.vocab", "vocab_size", 50_257),
        Setting("model.max_length", "n_positions", 1024),
        Setting("model.width", "n_embd", 768),
        Setting("model.depth", "n_layer", 12),
        Setting("model.heads", "n_head", 12),
        Setting("model.mlp_width", "n_inner", None),
        Setting("model.norm_eps", "layer_norm_epsilon", 1e-5),
        Setting("model.tied", "tie_word_embeddings", True),
        Setting("model.mlp", "activation_function", "gelu_new",
                {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}),
    ),
    ours=KIND | {"model.norm": "layernorm", "model.position": "learned", "model.bias": True, "model.qkv_bias": False,
                 "model.qk_norm": False, "model.window": None},
    theirs={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    write=write_gpt2, reads=("model.kv_heads", "model.head_width", *ROPE),
)  # fmt: skip

_LLAMA = (
    Setting("model.vocab", "vocab_size"),
    Setting("model.max_length", "max_position_embeddings", 2048),
    Setting("model.width", "hidden_size"),
    Setting("model.depth", "num_hidden_layers"),
    Setting("model.heads", "num_attention_heads"),
    Setting("model.kv_heads", "num_key_value_heads", None),
    Setting("model.head_width", "head_dim", None),
    Setting("model.mlp_width", "intermediate_size"),
    Setting("model.norm_eps", "rms_norm_eps", 1e-6),
    Setting("model.tied", "tie_word_embeddings", False),
    Setting("model.mlp", "hidden_act", "silu", {"silu": "swiglu", "gelu": "geglu", "relu": "reglu"}),
)
_OURS = KIND | {"model.norm": "rmsnorm", "model.position": "rope"}
_BUFFERS = r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"


def _llama(model_type: str, architecture: str, **changes: Any) -> Family:
    given = {"read": read_decoder, "write": write_rope, "reads": ROPE, "settings": _LLAMA, **changes}
    return Family(model_type=model_type, architecture=architecture, recipe=RECIPE, pairs=llama_pairs, prefix="model.",
                  kinds=("decoder",), copies=head_copy, buffers=_BUFFERS, **given)  # fmt: skip


LLAMA = _llama(
    "llama", "LlamaForCausalLM", read=read_llama, write=write_llama, reads=("model.bias", *ROPE),
    ours=_OURS | {"model.qkv_bias": False, "model.qk_norm": False, "model.window": None},
)  # fmt: skip
MISTRAL = _llama(
    "mistral", "MistralForCausalLM", settings=(*_LLAMA, Setting("model.window", "sliding_window", 4096)),
    ours=_OURS | {"model.qkv_bias": False, "model.qk_norm": False, "model.bias": False},
)  # fmt: skip
QWEN2 = _llama(
    "qwen2", "Qwen2ForCausalLM", theirs={"use_sliding_window": False},
    ours=_OURS | {"model.qkv_bias": True, "model.qk_norm": False, "model.bias": False, "model.window": None},
)  # fmt: skip
QWEN3 = _llama(
    "qwen3", "Qwen3ForCausalLM", theirs={"use_sliding_window": False, "attention_bias": False},
    ours=_OURS | {"model.qkv_bias": False, "model.qk_norm": True, "model.bias": False, "model.window": None},
)  # fmt: skip
