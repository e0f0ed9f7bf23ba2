"""Processes that make the parts of a build side by side, each with one core and without JAX.

They are plain subprocesses in a conversation of pickles, not `multiprocessing`'s: that would run the user's main script
once more in each, and its processes outlive a parent that is killed. These end when their standard input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lmjax.data.store import Unfinished

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lmjax.data.worker import main; main()"
ALONE = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt(3)
# How many processes of this machine; or what makes the parts elsewhere, as lmjax/data/beam.py does.
Workers = int | Callable[[Callable[[int], Any], list[int]], Iterator[Any]]


def each(job: Callable[[int], Any], numbers: list[int], workers: Workers) -> Iterator[Any]:
    """job(n) for each n in their order, made by that many processes. job must be picklable.

    What it raises is raised here, that of the first n first. Unfinished when a process ends on its own.
    """
    if callable(workers):
        yield from workers(job, numbers)
        return
    if min(workers, len(numbers)) <= 1:
        yield from map(job, numbers)
        return
    processes = [_start(job) for _ in range(min(workers, len(numbers)))]
    idle = queue.SimpleQueue()
    for process in processes:
        idle.put(process)
    pool = ThreadPoolExecutor(len(processes))
    try:
        yield from pool.map(lambda number: _ask(idle, number), numbers)
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.communicate()


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Blocks from 256 KiB on go back to the system as soon as they are freed.

    The C library (glibc) else keeps ever larger ones for itself, up to 32 MiB: by a long build, half of what it holds.
    """
    try:
        library = ctypes.CDLL(None)
        change, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        yield
        return
    change(MMAP_THRESHOLD, 256 << 10)
    try:
        yield
    finally:
        change(MMAP_THRESHOLD, 32 << 20)
        trim(0)


def _start(job: Callable[[int], Any]) -> subprocess.Popen:
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    words = [sys.executable, "-c", START, path]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ALONE})
    try:
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended: whoever asks it is told
    return process


def _ask(idle: queue.SimpleQueue, number: int) -> Any:
    process = idle.get()
    try:
        process.stdin.write(pickle.dumps(number))
        process.stdin.flush()
        answer = pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)  # its pipes may close before it has ended
        code = process.poll()
        why = "it was killed, perhaps for lack of memory" if code == -signal.SIGKILL else f"exit code {code}"
        raise Unfinished(
            f"a process that prepared part {number} of the data ended ({why}). The parts that are done are kept: the "
            "same command goes on from there, and with --workers=1 it needs the least memory"
        ) from None
    finally:
        idle.put(process)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def main() -> None:
    """A process: the job and then its numbers from standard input, the answers to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be part of an answer
    job, numbers = pickle.load(source), queue.SimpleQueue()
    threading.Thread(target=_listen, args=(source, numbers), daemon=True).start()
    with lean():
        while True:
            number = numbers.get()
            try:
                answer = job(number)
            except Exception as error:
                answer = _sendable(error)
            pickle.dump(answer, answers)
            answers.flush()


def _listen(source: Any, numbers: queue.SimpleQueue) -> None:
    while True:
        try:
            numbers.put(pickle.load(source))
        except EOFError:
            os._exit(1)  # the parent is gone, or done: at once, for another build may be about to write the same files


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the user's own error class does when it is pickled; its words are kept
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
