"""lmjax: Transformer language-model research in JAX and Flax, with numbers that can be traced and repeated."""

__version__ = "0.1.0"
