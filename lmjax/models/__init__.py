"""Models: Linen modules, and the dict from `model.kind` to the function that builds one from a config."""

from lmjax.models.build import MODELS, build

__all__ = ["MODELS", "build"]
