"""Text to batches: sources, tokenizers, sealed token shards, packed rows, and their preparation in the background."""

from lmjax.data.loader import Dataset, open_dataset
from lmjax.data.loading import Loading
from lmjax.data.prefetch import Prefetch
from lmjax.data.tokenizers import load as load_tokenizer

__all__ = ["Dataset", "Loading", "Prefetch", "load_tokenizer", "open_dataset"]
