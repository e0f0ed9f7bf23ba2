"""ViT classifiers of images, and CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmjax.errors import UserError
from lmjax.interop.family import PREPROCESSOR, Family
from lmjax.interop.pairs import Pair, linear, norm

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "relu": "relu"}  # fmt: skip
TOWER = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
         "mlp_width": "intermediate_size", "norm_eps": "layer_norm_eps"}  # fmt: skip
CLIP_COLOURS = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}


def squares(ours: str, theirs: str, patch: int) -> Pair:
    """The convolution over squares: rows, columns and colours here, colours first there."""
    return Pair(ours, theirs, "rcx d", "d x r c", given={"r": patch, "c": patch, "x": 3})


def vit_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    block, embeddings = "vit.encoder.layer.{l}", "vit.embeddings"
    pairs = [
        Pair("class", f"{embeddings}.cls_token", "d", "1 1 d"),
        Pair("position", f"{embeddings}.position_embeddings", "pd", "1 p d"),
        squares("patches/kernel", f"{embeddings}.patch_embeddings.projection.weight", leaves["model.vit.patch"]),
        Pair("patches/bias", f"{embeddings}.patch_embeddings.projection.bias", "d", "d"),
        *norm("blocks/attention_norm", f"{block}.layernorm_before", bias=True),
        *norm("blocks/mlp_norm", f"{block}.layernorm_after", bias=True),
        *linear("blocks/attention/out", f"{block}.attention.output.dense", "hkd", "d hk", "d"),
        *linear("blocks/mlp/up", f"{block}.intermediate.dense", "df", "f d", "f"),
        *linear("blocks/mlp/down", f"{block}.output.dense", "fd", "d f", "d"),
        *norm("norm", "vit.layernorm", bias=True),
        *linear("head", "classifier", "nd", "n d", "n"),
    ]
    for part in ("query", "key", "value"):
        pairs += linear(f"blocks/attention/{part}", f"{block}.attention.attention.{part}", "dhk", "hk d", "hk")
    return pairs


def clip_tower(ours: str, theirs: str) -> list[Pair]:
    """The blocks of either side."""
    block, blocks = f"{theirs}.encoder.layers.{{l}}", f"{ours}/blocks"
    pairs = [
        *norm(f"{blocks}/attention_norm", f"{block}.layer_norm1", bias=True),
        *norm(f"{blocks}/mlp_norm", f"{block}.layer_norm2", bias=True),
        *linear(f"{blocks}/attention/out", f"{block}.self_attn.out_proj", "hkd", "d hk", "d"),
        *linear(f"{blocks}/mlp/up", f"{block}.mlp.fc1", "df", "f d", "f"),
        *linear(f"{blocks}/mlp/down", f"{block}.mlp.fc2", "fd", "d f", "d"),
    ]
    for part in ("query", "key", "value"):
        pairs += linear(f"{blocks}/attention/{part}", f"{block}.self_attn.{part[0]}_proj", "dhk", "hk d", "hk")
    return pairs


def clip_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    image, text = "vision_model.embeddings", "text_model.embeddings"
    return [
        Pair("image/class", f"{image}.class_embedding", "d", "d"),
        Pair("image/position", f"{image}.position_embedding.weight", "pd", "p d"),
        squares("image/patches/kernel", f"{image}.patch_embedding.weight", leaves["model.vit.patch"]),
        *norm("image/pre_norm", "vision_model.pre_layrnorm", bias=True),
        *clip_tower("image", "vision_model"),
        *norm("image/norm", "vision_model.post_layernorm", bias=True),
        Pair("text/embed", f"{text}.token_embedding.weight", "vd", "v d"),
        Pair("text/position", f"{text}.position_embedding.weight", "td", "t d"),
        *clip_tower("text", "text_model"),
        *norm("text/norm", "text_model.final_layer_norm", bias=True),
        Pair("image_projection", "visual_projection.weight", "do", "o d"),
        Pair("text_projection", "text_projection.weight", "do", "o d"),
        Pair("log_scale", "logit_scale", "", ""),
    ]


def read_tower(settings: Mapping[str, Any], section: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a side."""
    leaves = {f"{section}.{ours}": settings.get(theirs, defaults[theirs]) for ours, theirs in TOWER.items()}
    activation = settings.get("hidden_act", defaults["hidden_act"])
    if activation not in ACTIVATIONS:
        raise UserError(f"hidden_act={activation!r} is not supported; there are {', '.join(ACTIVATIONS)}")
    if settings.get("num_channels", 3) != 3:
        raise UserError(f"num_channels={settings['num_channels']}: images here have three colours")
    return leaves | {f"{section}.mlp": ACTIVATIONS[activation]}


def write_tower(leaves: Mapping[str, Any], section: str) -> dict[str, Any]:
    """`read_tower` backwards."""
    made = {theirs: leaves[f"{section}.{ours}"] for ours, theirs in TOWER.items()}
    mlp = leaves[f"{section}.mlp"]
    word = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == mlp), None)
    if word is None:
        raise UserError(f"{section}.mlp={mlp!r} is not one of {', '.join(dict.fromkeys(ACTIVATIONS.values()))}")
    return made | {"hidden_act": word}


def colours(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What images are normalised with, from preprocessor_config.json where there is one."""
    said = defaults | settings.get(PREPROCESSOR, {})
    return {"model.vit.mean": tuple(said["image_mean"]), "model.vit.std": tuple(said["image_std"])}


def processor(leaves: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`colours` backwards: a file of its own."""
    edge = leaves["data.image_size"]
    return {PREPROCESSOR: {"image_processor_type": name, "size": {"height": edge, "width": edge}, "do_normalize": True,
                           "image_mean": list(leaves["model.vit.mean"]),
                           "image_std": list(leaves["model.vit.std"])}}  # fmt: skip


def square(size: Any, name: str) -> int:
    """An edge, from a number or a pair of equal ones."""
    edges = {size} if isinstance(size, int) else set(size)
    if len(edges) != 1:
        raise UserError(f"{name}={size}: images and their patches are square here")
    return edges.pop()


def read_vit(settings: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                "layer_norm_eps": 1e-12, "hidden_act": "gelu"}  # fmt: skip
    name = (settings.get("architectures") or ["ViTForImageClassification"])[0]
    if name != "ViTForImageClassification":
        raise UserError(f"architectures={name!r} is not supported; there is ViTForImageClassification")
    sizes = {"data.image_size": square(settings.get("image_size", 224), "image_size"),
             "model.vit.patch": square(settings.get("patch_size", 16), "patch_size")}  # fmt: skip
    half = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
    return read_tower(settings, "model.vit", defaults) | sizes | colours(settings, half)


def write_vit(leaves: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"image_size": leaves["data.image_size"], "patch_size": leaves["model.vit.patch"]}
    return write_tower(leaves, "model.vit") | sizes | processor(leaves, "ViTImageProcessor")


def read_clip(settings: Mapping[str, Any]) -> dict[str, Any]:
    text, image = settings.get("text_config") or {}, settings.get("vision_config") or {}
    small = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
             "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}  # fmt: skip
    large = small | {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    length = text.get("max_position_embeddings", 77)
    return {
        **read_tower(text, "model.text", small), **read_tower(image, "model.vit", large),
        **colours(settings, CLIP_COLOURS), "model.width": settings.get("projection_dim", 512),
        "model.vocab": text.get("vocab_size", 49_408), "model.text.max_length": length,
        "data.length": min(length, 1024), "data.image_size": square(image.get("image_size", 224), "image_size"),
        "model.vit.patch": square(image.get("patch_size", 32), "patch_size"),
    }  # fmt: skip


def write_clip(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Its text stands in the last token, which transformers finds by the id that ends a text: the highest one."""
    width = leaves["model.width"]
    text = write_tower(leaves, "model.text") | {
        "max_position_embeddings": leaves["model.text.max_length"], "vocab_size": leaves["model.vocab"],
        "projection_dim": width, "model_type": "clip_text_model",
        "bos_token_id": leaves["model.vocab"] - 2, "eos_token_id": leaves["model.vocab"] - 1}  # fmt: skip
    image = write_tower(leaves, "model.vit") | {
        "image_size": leaves["data.image_size"], "patch_size": leaves["model.vit.patch"],
        "projection_dim": width, "model_type": "clip_vision_model"}  # fmt: skip
    return {"text_config": text, "vision_config": image, "projection_dim": width} | processor(
        leaves, "CLIPImageProcessor"
    )


_VIT_LEAVES = ("patch", "mlp", "mean", "std", *TOWER)
VIT = Family(
    model_type="vit", architecture="ViTForImageClassification", recipe="configs/vision.py:vit", pairs=vit_pairs,
    read=read_vit, write=write_vit, prefix="vit.", kinds=("vit",), unread=("model.convnext.",),
    ours={"model.kind": "vit", "model.vit.pool": "class", "model.vit.patch_bias": True, "model.vit.pre_norm": False},
    theirs={"qkv_bias": True}, reads=tuple(f"model.vit.{name}" for name in _VIT_LEAVES), settings=(),
)  # fmt: skip
CLIP = Family(
    model_type="clip", architecture="CLIPModel", recipe="configs/vision.py:emoji", pairs=clip_pairs,
    read=read_clip, write=write_clip, kinds=("dual_encoder",), unread=("model.convnext.",),
    ours={"model.kind": "dual_encoder", "model.encoder": "vit", "model.vit.pool": "class", "model.bias": None,
          "model.vit.patch_bias": False, "model.vit.pre_norm": True, "model.text.pattern": "causal",
          "model.text.pool": "last"},
    reads=("model.width", "model.vocab", "model.temperature", "model.text.max_length", "model.text.vocab_multiple",
           *(f"model.vit.{name}" for name in _VIT_LEAVES), *(f"model.text.{name}" for name in ("mlp", *TOWER))),
    buffers=r"(text|vision)_model\.embeddings\.position_ids", settings=(),
)  # fmt: skip
