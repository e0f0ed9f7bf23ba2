"""The families of models that are read and written, by the model_type of their config.json."""

from lmjax.interop.decoders import GPT2, LLAMA, MISTRAL, QWEN2, QWEN3

FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3)}
