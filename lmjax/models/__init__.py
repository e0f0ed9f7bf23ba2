"""Models: Linen modules, and the dict from `model.kind` to the function that builds one from a config."""

from lmjax.models.build import MODELS, build
from lmjax.models.fit import check_fit

__all__ = ["MODELS", "build", "check_fit"]
