"""Dimension names, layouts over mesh axes, and the start-up of several processes."""

from lmjax.sharding.layout import AXES, Layout, constrain, current, gathered, placed
from lmjax.sharding.names import DIMENSIONS, Named, dimension, dims_of, param, unbox

__all__ = [
    "AXES",
    "DIMENSIONS",
    "Layout",
    "Named",
    "constrain",
    "current",
    "dimension",
    "dims_of",
    "gathered",
    "param",
    "placed",
    "unbox",
]
