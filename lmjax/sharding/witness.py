"""Says why, when a process of several ends without a word.

JAX ends a process from within, by an abort and a stack trace, when another one has died: nothing in Python sees it. A
small child does: it reads a pipe whose other end only this process holds, and speaks when that end closes unreleased.
"""

from __future__ import annotations

import atexit
import subprocess
import sys

WATCH = "import os, sys; os.setsid(); said = sys.stdin.buffer.read(); said or sys.stderr.write(sys.argv[1])"
WORDS = (
    "lmjax: process {index} of {count} stopped in the middle: killed, or by the error above, or because another process "
    "has ended (their outputs say which).\nEvery checkpoint saved before is whole: the same command on all hosts goes "
    "on from the newest.\n"
)
_children: list[subprocess.Popen] = []


def watch(index: int, count: int) -> None:
    """Begin to watch this process, `index` of `count`."""
    command = [sys.executable, "-I", "-S", "-c", WATCH, WORDS.format(index=index, count=count)]
    _children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
    atexit.register(release)


def release() -> None:
    """This process ends as it should: nothing is to be said."""
    while _children:
        child = _children.pop()
        child.communicate(b".")
