"""One heap for the buffers of steps on CPUs. XLA takes them from malloc anew in every step.

By default glibc maps a large buffer for each call and gives it back afterwards, so that the kernel clears its pages again
in every step: of a small GPT-2's step in float32, 306 MB, a tenth of the time. Kept in a heap that all threads share, the
same pages serve every step. One copy of them is enough if a step begins after the one before has ended, which is why
`environment.start` has the CPU run what it is given at once. Nothing happens where there is no glibc.
"""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def share() -> None:
    """One heap for all threads to come: call it before there are any that allocate."""
    _set(ARENA_MAX, 1)


def trim() -> None:
    """Give what is free back to the system."""
    if there := getattr(ctypes.CDLL(None), "malloc_trim", None):
        there(0)


def keep() -> None:
    """From now on large buffers come from the heap as well, and stay there when they are free."""
    trim()
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, 2**31 - 1)


def _set(option: int, value: int) -> None:
    if there := getattr(ctypes.CDLL(None), "mallopt", None):
        there(option, value)
