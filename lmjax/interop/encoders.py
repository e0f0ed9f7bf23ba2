"""BERT and RoBERTa, with masked words or a head over the first token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmjax.errors import UserError
from lmjax.interop.family import Family, Setting
from lmjax.interop.pairs import Pair, linear, norm

RECIPE = "configs/encoders.py:masked"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
# What follows the family's name in `architectures`, and the kind of model that it is here.
KINDS = {
    "ForMaskedLM": "encoder", "ForPreTraining": "encoder", "Model": "encoder",
    "ForSequenceClassification": "encoder_classifier", "ForTokenClassification": "encoder_tagger",
    "ForQuestionAnswering": "encoder_spans", "ForMultipleChoice": "encoder_chooser",
}  # fmt: skip
POOLED = ("encoder_classifier", "encoder_regressor", "encoder_chooser")  # kinds with a head over the first token
TASKS = {  # kind: data.kind, objective.kind, eval.metric, eval.mode
    "encoder_classifier": ("labels", "classification", "valid/accuracy", "max"),
    "encoder_chooser": ("choices", "classification", "valid/accuracy", "max"),
    "encoder_regressor": ("numbers", "regression", "valid/loss", "min"),
    "encoder_tagger": ("tags", "tagging", "valid/accuracy", "max"),
    "encoder_spans": ("spans", "span", "valid/loss", "min"),
}
UNUSED = ("model.kv_heads", "model.head_width", "model.rope_base", "model.buckets", "model.furthest")


def trunk(name: str, leaves: Mapping[str, Any], skip: int = 0) -> list[Pair]:
    """Embeddings and blocks; `skip`: rows of the table of positions that no position has."""
    embeddings, block = f"{name}.embeddings", f"{name}.encoder.layer.{{l}}"
    pairs = [
        Pair("embed", f"{embeddings}.word_embeddings.weight", "vd", "v d"),
        Pair("position", f"{embeddings}.position_embeddings.weight", "td", "t d", skip),
        *norm("embed_norm", f"{embeddings}.LayerNorm", bias=True),
        *norm("blocks/attention_norm", f"{block}.attention.output.LayerNorm", bias=True),
        *norm("blocks/mlp_norm", f"{block}.output.LayerNorm", bias=True),
        *linear("blocks/attention/out", f"{block}.attention.output.dense", "hkd", "d hk", "d"),
        *linear("blocks/mlp/up", f"{block}.intermediate.dense", "df", "f d", "f"),
        *linear("blocks/mlp/down", f"{block}.output.dense", "fd", "d f", "d"),
    ]
    for part in ("query", "key", "value"):
        pairs += linear(f"blocks/attention/{part}", f"{block}.attention.self.{part}", "dhk", "hk d", "hk")
    types = Pair("types", f"{embeddings}.token_type_embeddings.weight", "nd", "n d")
    return [*pairs, types] if leaves["model.types"] else pairs


def masked_head(leaves: Mapping[str, Any], transform: str, scale: str, bias: str, table: str) -> list[Pair]:
    """The head of masked words, by the names of its parts."""
    pairs = [*linear("transform", transform, "fd", "d f", "d"), *norm("transform_norm", scale, bias=True)]
    pairs.append(Pair("head_bias", bias, "v", "v"))
    return pairs if leaves["model.tied"] else [*pairs, Pair("head", table, "vd", "v d")]


def bert_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    pairs = trunk("bert", leaves)
    if leaves["model.kind"] == "encoder":
        cls = "cls.predictions"
        return pairs + masked_head(leaves, f"{cls}.transform.dense", f"{cls}.transform.LayerNorm", f"{cls}.bias",
                                   f"{cls}.decoder.weight")  # fmt: skip
    return pairs + task_head(leaves, "bert.pooler.dense", "classifier")


def roberta_pairs(leaves: Mapping[str, Any]) -> list[Pair]:
    """Its positions begin at 2, behind that of padding; its pooler is the head's but for choices."""
    pairs, kind = trunk("roberta", leaves, skip=2), leaves["model.kind"]
    if kind == "encoder":
        return pairs + masked_head(
            leaves, "lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"
        )
    if kind in ("encoder_classifier", "encoder_regressor"):
        return pairs + task_head(leaves, "classifier.dense", "classifier.out_proj")
    return pairs + task_head(leaves, "roberta.pooler.dense", "classifier")


def task_head(leaves: Mapping[str, Any], pooler: str, head: str) -> list[Pair]:
    """The head of any other task, and the pooler where the kind has one."""
    kind = leaves["model.kind"]
    pairs = linear("head", "qa_outputs" if kind == "encoder_spans" else head, "nd", "n d", "n")
    if kind in POOLED and leaves["model.pooler"]:
        pairs += linear("pooler", pooler, "fd", "d f", "d")
    return pairs


def bert_copies(leaves: Mapping[str, Any]) -> dict[str, str]:
    tied = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"} if leaves["model.tied"] else {}
    return {"cls.predictions.decoder.bias": "cls.predictions.bias", **tied}


def roberta_copies(leaves: Mapping[str, Any]) -> dict[str, str]:
    tied = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"} if leaves["model.tied"] else {}
    return {"lm_head.decoder.bias": "lm_head.bias", **tied}


def read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The kind of model, from the name of its class."""
    name = (settings.get("architectures") or ["BertForMaskedLM"])[0]
    ending = name[name.index("For") :] if "For" in name else "Model"
    if ending not in KINDS:
        raise UserError(
            f"architectures={name!r} is not supported; there are {', '.join(f'...{word}' for word in KINDS)}"
        )
    kind = KINDS[ending]
    if ending == "ForSequenceClassification" and settings.get("problem_type") == "regression":
        kind = "encoder_regressor"
    if kind not in TASKS:
        return {"model.kind": kind}
    data, objective, metric, mode = TASKS[kind]
    return {"model.kind": kind, "model.pooler": True, "data.kind": data, "data.packing": "none", "data.marks": "cls",
            "data.corruption.kind": "none", "objective.kind": objective, "objective.predictions": None,
            "eval.metric": metric, "eval.mode": mode}  # fmt: skip


def read_roberta(settings: Mapping[str, Any]) -> dict[str, Any]:
    return read(settings) | {"model.max_length": settings.get("max_position_embeddings", 512) - 2}


def _architecture(leaves: Mapping[str, Any], name: str) -> dict[str, Any]:
    kind = leaves["model.kind"]
    if kind in POOLED and not (leaves["model.pooler"] and leaves["model.pool"] == "first"):
        raise UserError(f"a {name} of transformers for model.kind={kind} has model.pool=first and model.pooler=true")
    if kind == "encoder_regressor":
        return {"architectures": [f"{name}ForSequenceClassification"], "problem_type": "regression", "num_labels": 1}
    return {"architectures": [name + next(ending for ending, ours in KINDS.items() if ours == kind)]}


def write_bert(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return _architecture(leaves, "Bert") | {"pad_token_id": 0}


def write_roberta(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return _architecture(leaves, "Roberta") | {
        "pad_token_id": 1,
        "max_position_embeddings": leaves["model.max_length"] + 2,
    }


def _encoder(model_type: str, **changes: Any) -> Family:
    settings = (
        Setting("model.vocab", "vocab_size", 30_522),
        Setting("model.width", "hidden_size", 768),
        Setting("model.depth", "num_hidden_layers", 12),
        Setting("model.heads", "num_attention_heads", 12),
        Setting("model.mlp_width", "intermediate_size", 3072),
        Setting("model.max_length", "max_position_embeddings", 512),
        Setting("model.types", "type_vocab_size", 2),
        Setting("model.norm_eps", "layer_norm_eps", 1e-12),
        Setting("model.tied", "tie_word_embeddings", True),
        Setting("model.mlp", "hidden_act", "gelu", ACTIVATIONS),
    )
    ours = {"model.norm": "layernorm", "model.norm_place": "post", "model.embed_norm": True, "model.bias": True,
            "model.position": "learned"}  # fmt: skip
    theirs = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
    return Family(model_type=model_type, recipe=RECIPE, settings=settings, ours=ours, theirs=theirs,
                  reads=("model.kind", "model.pooler", *UNUSED), prefix=f"{model_type}.",
                  kinds=("encoder", *TASKS),
                  buffers=rf"({model_type}\.)?embeddings\.position_ids", **changes)  # fmt: skip


BERT = _encoder(
    "bert", architecture="BertForMaskedLM", pairs=bert_pairs, copies=bert_copies, read=read, write=write_bert
)
ROBERTA = _encoder("roberta", architecture="RobertaForMaskedLM", pairs=roberta_pairs, copies=roberta_copies,
                   read=read_roberta, write=write_roberta)  # fmt: skip
