"""Which cases of a test run every time, and which only with `pytest -m slow`."""

import pytest


def apart(cases, *often):
    """The cases as parameters; those that are not among `often` are slow."""
    cases = list(cases)
    assert set(often) <= set(cases), "a case that is not there"
    several = {True: lambda case: case, False: lambda case: (case,)}
    return [pytest.param(*several[isinstance(case, tuple)](case), marks=() if case in often else pytest.mark.slow)
            for case in cases]  # fmt: skip
