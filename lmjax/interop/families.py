"""The families of models that are read and written, by the model_type of their config.json."""

from lmjax.interop.decoders import GPT2, LLAMA, MISTRAL, QWEN2, QWEN3
from lmjax.interop.encoders import BERT, ROBERTA
from lmjax.interop.t5 import T5
from lmjax.interop.vision import CLIP, VIT

ALL = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, BERT, ROBERTA, T5, VIT, CLIP)
FAMILIES = {family.model_type: family for family in ALL}
