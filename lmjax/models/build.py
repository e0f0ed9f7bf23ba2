"""From a config's `model` section to a Linen module, with every choice checked and every default resolved."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.attentions import ATTENTIONS
from lmjax.layers.backends import choose
from lmjax.layers.mlp import MLPS, default_width
from lmjax.layers.norms import NORMS
from lmjax.layers.positions import POSITIONS, ROPE_SCALINGS
from lmjax.layers.stack import REMATS
from lmjax.models import heads, multi_task
from lmjax.models.classifier import POOLING, Classifier
from lmjax.models.decoder import Decoder
from lmjax.models.dual_encoder import dual_encoder
from lmjax.models.encoder import encoder
from lmjax.models.fit import TEXT, check_fit
from lmjax.models.images import image_classifier
from lmjax.models.joint import joint
from lmjax.models.rnn import rnn
from lmjax.models.rnn_seq2seq import rnn_seq2seq
from lmjax.models.routing import routing
from lmjax.models.seq2seq import seq2seq
from lmjax.parts import pick

LAYERS = ("scan", "unroll")
CHOICES = {
    "mlp": MLPS, "norm": NORMS, "norm_place": ("pre", "post"), "position": POSITIONS, "rope_scaling": ROPE_SCALINGS,
    "remat": REMATS, "layers": LAYERS, "attention": ("auto", *ATTENTIONS), "patch_pattern": ("causal", "bidirectional"),
}  # fmt: skip
POSITIVE = ("depth", "width", "heads", "kv_heads", "head_width", "mlp_width", "max_length", "window", "vocab_multiple",
            "attention_softcap", "logit_softcap", "rope_base", "rope_factor", "init_scale", "norm_eps", "rope_trained",
            "vocab")  # fmt: skip


def _check(section: ConfigDict) -> None:
    for name, legal in CHOICES.items():
        if name in section and section[name] not in legal:
            raise unknown(f"value of model.{name}", section[name], legal)
    for name in POSITIVE:
        if name in section and section[name] is not None and not section[name] > 0:
            raise UserError(f"model.{name}={section[name]}: it must be positive")
    if not 0 <= section.dropout < 1:
        raise UserError(f"model.dropout={section.dropout}: from 0 to below 1")
    if section.head_width is None and section.width % section.heads:
        legal = [heads for heads in range(1, section.width + 1) if section.width % heads == 0]
        near = sorted(sorted(legal, key=lambda heads: abs(heads - section.heads))[:4])
        raise UserError(
            f"model.heads={section.heads} does not divide model.width={section.width}; heads that do, near it: "
            f"{', '.join(map(str, near))} (or set model.head_width)"
        )
    kv_heads = section.kv_heads or section.heads
    if section.heads % kv_heads:
        raise UserError(f"model.kv_heads={kv_heads} does not divide model.heads={section.heads}")


def decoder(
    section: ConfigDict, *, vocab: int, length: int, platform: str, dtype: Any, image: int = 0, tokens: bool = True,
    multiple: int | None = None, fields: Collection[str] = TEXT, **_: Any,
) -> Decoder:  # fmt: skip
    """A `Decoder`; `attention="auto"` goes by platform, mask and length.

    image: pixels a side; tokens: whether rows have some; multiple: rows are of any multiple of it up to `length` tokens.
    """
    _check(section)
    patch = _patch(section, image)
    head = section.head_width or section.width // section.heads
    if section.position == "rope" and head % 2:
        raise UserError(f"model.position=rope needs an even head width, and it is {head} (width / heads)")
    if section.rope_scaling == "ntk" and head == 2:
        raise UserError("model.rope_scaling=ntk slows every pair of a head but the first, and a head of 2 has no other")
    max_length = section.max_length or length
    if section.position == "learned" and max_length < length:
        raise UserError(f"model.max_length={max_length} is shorter than data.length={length}: positions would run out")
    bias = section.position in ("alibi", "t5")
    positions = ((image // patch) ** 2 if patch else 0) + (multiple or length if tokens else 0)
    prefix = "prefix" in fields
    both_ways = prefix or (patch is not None and getattr(section, "patch_pattern", "causal") == "bidirectional")
    attention = choose(
        section.attention, platform=platform, length=positions, bias=bias, prefix=both_ways, head=head,
        softcap=section.attention_softcap is not None, dtype=jnp.dtype(dtype).name,
    )  # fmt: skip
    _check_windows(section)
    same = ("depth", "width", "heads", "mlp", "norm", "norm_place", "position", "rope_base", "rope_scaling",
            "rope_factor", "window", "attention_softcap", "logit_softcap", "qk_norm", "bias", "tied",
            "vocab_multiple", "dropout", "remat", "init_scale")  # fmt: skip
    # Runs from before have no such leaves.
    late = ("qkv_bias", "norm_eps", "rope_trained", "rope_low", "rope_high", "window_layers", "patch_pattern")
    return Decoder(
        vocab=vocab, kv_heads=section.kv_heads or section.heads, head=head, max_length=max_length,
        mlp_width=section.mlp_width or default_width(section.mlp, section.width), dtype=dtype,
        scan=section.layers == "scan",
        attend=ATTENTIONS[attention], patch=patch, image=image,
        moe=routing(section, platform), prefix=prefix, **{name: section[name] for name in same},
        **{name: section[name] for name in late if name in section},
    )  # fmt: skip


def _check_windows(section: ConfigDict) -> None:
    layers = getattr(section, "window_layers", "all")
    if layers not in ("all", "alternate"):
        raise unknown("value of model.window_layers", layers, ("all", "alternate"))
    if layers == "alternate" and (section.window is None or section.depth % 2):
        raise UserError(
            f"model.window_layers=alternate: every other layer sees model.window tokens, so that is set (it is "
            f"{section.window}) and model.depth={section.depth} must be even"
        )


def classifier(section: ConfigDict, *, classes: int, **given: Any) -> Classifier:
    """A `Classifier` over a `Decoder`'s stack, of data with at least two classes."""
    pool = getattr(section, "pool", "last")
    if pool not in POOLING:
        raise unknown("value of model.pool", pool, POOLING)
    if classes < 2:
        raise UserError(
            f"model.kind=classifier: the training data has {classes} class, and there must be two to tell apart"
        )
    return Classifier(decoder(section, **given), classes, pool)


def _patch(section: ConfigDict, image: int) -> int | None:
    """model.patch, checked."""
    patch = getattr(section, "patch", None)  # runs from before there were images have no such leaf
    if patch is None:
        return None
    if patch < 1 or image % patch:
        legal = [size for size in range(1, image + 1) if image % size == 0]
        raise UserError(
            f"model.patch={patch}: squares of so many pixels a side do not tile images of data.image_size={image}; "
            f"legal: {', '.join(map(str, legal))}"
        )
    return patch


MODELS = {
    "decoder": decoder,
    "classifier": classifier,
    "encoder": encoder,
    "encoder_classifier": heads.classifier,
    "encoder_regressor": heads.regressor,
    "encoder_tagger": heads.tagger,
    "encoder_spans": heads.spans,
    "encoder_chooser": heads.chooser,
    "encoder_sentences": heads.sentences,
    "multi_task_sentences": multi_task.sentences,
    "seq2seq": seq2seq,
    "vit": image_classifier,
    "convnext": image_classifier,
    "dual_encoder": dual_encoder,
    "joint": joint,
    "rnn": rnn,
    "rnn_seq2seq": rnn_seq2seq,
}
WIDTHS = 8  # that of data.buckets are multiples of
COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _table(section: ConfigDict, vocab: int) -> int:
    """How many ids the tables are for: those of the tokenizer, or model.vocab, which may be more."""
    table = getattr(section, "vocab", None) if vocab else None
    if table is not None and table < vocab:
        raise UserError(f"model.vocab={table}: the tokenizer has {vocab} ids, and each needs a row; set it to {vocab} or "
                        "more, or give data.tokenizer the one that belongs to the model")  # fmt: skip
    return table or vocab


def build(
    config: ConfigDict, *, vocab: int, platform: str, classes: int = 0, fields: Collection[str] = TEXT
) -> nn.Module:
    """The model of a whole config, for so many ids and labels, and rows of these fields (kinds.fields).

    Its maker, of `MODELS` or the user's own, gets its section and by keyword all of what follows.
    XLA:CPU is four times slower in bfloat16, so `auto` is float32 there.
    """
    check_fit(config, fields)
    make = pick("model in model.kind", config.model.kind, MODELS)
    compute = config.precision.compute
    if compute not in ("auto", *COMPUTE):
        raise unknown("value of precision.compute", compute, ("auto", *COMPUTE))
    if compute == "auto":
        compute = "float32" if platform == "cpu" else "bfloat16"
    data = config.data
    given = {
        "vocab": _table(config.model, vocab),
        "length": data.length,
        "source_length": getattr(data, "source_length", None) or 0,  # tokens of a source, where it has a row of its own
        "classes": classes,
        "fields": fields,
        "image": data.image_size if "image" in fields else 0,  # pixels a side
        "tokens": "tokens" in fields,
        "multiple": WIDTHS if getattr(data, "buckets", None) else None,
        "platform": platform,
        "dtype": COMPUTE[compute],
    }
    return make(config.model, **given)
