"""A GGUF file, as llama.cpp reads it: what of it would stand in a folder of Hugging Face's, quantised tensors as floats.

Its tokenizer of byte pairs becomes a tokenizer.json. The format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.errors import UserError, unknown
from lmjax.interop.importing import Given
from lmjax.interop.tensors import Tensor

ARCHITECTURES = ("llama", "qwen2")
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SETTINGS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon", "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
}  # fmt: skip
PRE = ("smollm", "gpt-2")  # what cuts texts before byte pairs are merged
CONTROL = 3  # the type of a token that stands for no text


def open_gguf(file: Path, folder: Path) -> Given:
    """The checkpoint in a GGUF file; its tokenizer.json is written into `folder`."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise UserError("reading GGUF needs a package: pip install gguf") from None
    if not file.is_file():
        raise UserError(f"{file} is no file; expected a .gguf one")
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, IndexError) as error:  # what it raises for other files and for a part of one
        raise UserError(f"{file} is not a whole GGUF file: {error}") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise unknown(f"general.architecture in {file}:", kind, ARCHITECTURES)
    settings = {ours: fields[f"{kind}.{theirs}"] for ours, theirs in SETTINGS.items() if f"{kind}.{theirs}" in fields}
    parts = {part.name: part for part in reader.tensors}
    tokens = fields["tokenizer.ggml.tokens"]
    settings |= {"model_type": kind, "vocab_size": len(tokens), "tie_word_embeddings": "output.weight" not in parts}
    heads = {"attn_q": settings["num_attention_heads"], "attn_k": settings["num_key_value_heads"]}
    tensors = {_name(name): Tensor(file, tuple(map(int, part.shape[::-1])), _reader(part, kind, heads))
               for name, part in parts.items() if name != "rope_freqs.weight"}  # fmt: skip
    return Given(settings, file, tensors, _write_tokenizer(fields, tokens, file, folder))


def _name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; a name that is not known is left as it is."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found or found[2] not in NAMES:
        return name
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{NAMES[found[2]]}.{found[3]}"


def _reader(part: Any, kind: str, heads: dict[str, int]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        from gguf import quants

        array = quants.dequantize(part.data, part.tensor_type)
        shape, head = array.shape, heads.get(part.name.split(".")[-2]) if kind == "llama" else None
        if head:  # llama.cpp rotates the pairs (2i, 2i + 1), and its converter has put rows in that order
            array = array.reshape(head, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        return array

    return read


def _write_tokenizer(fields: dict, tokens: list[str], file: Path, folder: Path) -> Path | None:
    """tokenizer.json for byte pairs; None for another kind of tokenizer."""
    if fields.get("tokenizer.ggml.model") != "gpt2" or fields.get("tokenizer.ggml.pre") not in PRE:
        return None
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(text.split(" ", 1)) for text in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    before = [pre_tokenizers.Digits(individual_digits=True)] if fields["tokenizer.ggml.pre"] == "smollm" else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False)
                             for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])  # fmt: skip
    if made.get_vocab_size() != len(tokens):
        raise UserError(f"{file}: its tokenizer has {made.get_vocab_size()} ids, and it says {len(tokens)}")
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"
