"""The verbs of the command line, a file for each family; none imports JAX before it runs."""

from lmjax.verbs import (
    bundling,
    comparing,
    data,
    evaluating,
    generating,
    interop,
    planning,
    planning_seeds,
    reporting,
    reproducing,
    searching,
    sweeping,
    training,
)

FAMILIES = (
    training,
    sweeping,
    planning_seeds,
    searching,
    reporting,
    reproducing,
    comparing,
    bundling,
    evaluating,
    generating,
    data,
    interop,
    planning,
)  # in the order of `lmjax --help`

__all__ = ["FAMILIES"]
