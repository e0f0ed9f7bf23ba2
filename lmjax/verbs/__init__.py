"""The verbs of the command line, a file for each family; none imports JAX before it runs."""

from lmjax.verbs import data, evaluating, generating, interop, training

FAMILIES = (training, evaluating, generating, data, interop)  # in the order of `lmjax --help`

__all__ = ["FAMILIES"]
