"""Batches made by Grain, in this process or in workers of it, in the order and with the bits of those made here.

The state is one integer, the number of the next batch: an iterator that begins at batch i gives what one that has come
to i gives. Workers help where a row costs more than handing it between processes, about a millisecond a batch; packed
tokens are made faster than that, and `benchmarks/load_rows.py` measures both.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import multiprocessing
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import grain

MOST = 1 << 40  # batches: Grain wants a length of a source without an end
Batch = dict[str, np.ndarray]
Make = Callable[[int], Batch]  # the batch of a number
SPAWNING = threading.Lock()
STARTING = 10.0  # seconds: what could not be started by then says why when its batch is asked for


class BatchSource:
    """Grain's random access to batches start, start + 1, ..; from `cycle` on they begin again at 0.

    opened() gives what makes them. Workers call it in their own process, once each, for open files and caches of rows
    do not travel; it must be picklable: a function of a module, or functools.partial of one.
    """

    def __init__(self, opened: Callable[[], Make], start: int, stop: int | None = None, cycle: int | None = None):
        self._opened, self._make = opened, None
        self._start, self._length, self._cycle = start, (MOST if stop is None else stop) - start, cycle

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Batch:
        if self._make is None:
            self._make = self._opened()
        number = self._start + int(i)
        return self._make(number % self._cycle if self._cycle else number)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_make": None}


def as_grain(opened: Callable[[], Make], *, start: int = 0, stop: int | None = None, cycle: int | None = None,
             workers: int = 0, ahead: int = 2) -> grain.IterDataset:  # fmt: skip
    """A Grain dataset of batches start, start + 1, .., up to `stop` or for ever.

    opened: functools.partial(batches_of, data, seed, "train", batch), or anything picklable whose call gives a function
    of the batch's number. The order is that of `Dataset.train_batch` for any number of workers. ahead: batches kept
    ready, of each worker. Iterate it directly, or by `Workers`, whose processes end when they should.
    """
    import grain

    threads = 0 if workers else 1  # a worker's process is itself the thread that works ahead
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead if threads else 0)
    dataset = grain.MapDataset.source(BatchSource(opened, start, stop, cycle)).to_iter_dataset(options)
    if workers:
        from absl import flags

        from lmjax.data import apart

        if not flags.FLAGS.is_parsed():  # Grain reads its flags when it starts workers; our command line is not absl's
            flags.FLAGS.mark_as_parsed()
        chosen = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
        dataset = dataset.mp_prefetch(chosen, worker_init_fn=apart.begin)
    return dataset


def batches_of(data: Any, seed: int, split: str, batch: int, rows: Any = slice(None),
               fingerprint: str | None = None) -> Make:  # fmt: skip
    """Makes the batches of a split of config.data, prepared before, this host's `rows` of each: what a worker opens.

    RuntimeError when the data is not what the parent process has: its source has changed meanwhile.
    """
    from lmjax.data.loader import open_dataset

    dataset = open_dataset(data, seed, lambda line: None, workers=1)
    if fingerprint not in (None, dataset.fingerprint):
        raise RuntimeError(
            f"data.source={data.source} has changed since this run opened it: leave it as it is meanwhile"
        )
    make = {"train": dataset.train_batch, "valid": dataset.valid_batch}[split]
    return lambda i: make(i, batch, rows)


class Workers:
    """Batches made by Grain's worker processes: `workers(i)` for i, i + 1, ..; any other i starts them anew.

    What a worker raises is raised here; one that ends is a RuntimeError. The processes end with `close`, with this
    process, however it ends, and not by a terminal's Ctrl-C, which is for this process.
    """

    def __init__(self, opened: Callable[[], Make], workers: int, *, cycle: int | None = None):
        self._opened, self._count, self._cycle = opened, workers, cycle
        self._running: list[grain.DatasetIterator] = []  # one, or none
        self._next, self.processes = 0, []
        weakref.finalize(self, _end, self._running)

    def __call__(self, i: int) -> Batch:
        if not self._running or i != self._next:
            self.close()
            self._start(i)
        try:
            found = next(self._running[0])
        except RuntimeError as error:
            raise self._ended() or error from None
        self._next = (i + 1) % self._cycle if self._cycle else i + 1
        return restored(found)

    def close(self) -> None:
        """Ends the processes. Another call starts them again."""
        _end(self._running)
        self.processes = []

    def _start(self, i: int) -> None:
        from lmjax.data import apart  # not above: a worker runs it, and must not have imported it before

        iterator = iter(
            as_grain(functools.partial(flattening, self._opened), start=i, cycle=self._cycle, workers=self._count)
        )
        self._running.append(iterator)
        with SPAWNING, _main(apart), _deaf():
            before, until = set(multiprocessing.active_children()), time.monotonic() + STARTING
            iterator.get_state()  # makes the iterators of the workers
            iterator.start_prefetch()  # each starts its process in a thread of its own
            while len(self.processes) < self._count and time.monotonic() < until:
                time.sleep(0.001)
                self.processes = [process for process in multiprocessing.active_children() if process not in before]
        self._next = i

    def _ended(self) -> RuntimeError | None:
        codes = [process.exitcode for process in self.processes if process.exitcode]
        if not codes:
            return None
        why = {
            -signal.SIGKILL: "it was killed, perhaps for lack of memory",
            -signal.SIGBUS: "there is too little shared memory in /dev/shm",
        }.get(codes[0], f"exit code {codes[0]}")
        return RuntimeError(
            f"a process that makes batches ended ({why}). What was saved is there: the same command goes on from it, and "
            "with --config.data.workers=0 batches are made in this process"
        )


def flattening(opened: Callable[[], Make]) -> Callable[[int], dict[str, Any]]:
    """Makes batches as one array each: Grain opens a piece of shared memory for every array that a worker hands over."""
    make = opened()

    def flat(i: int) -> dict[str, Any]:
        batch = {name: np.asarray(values, order="C") for name, values in make(i).items()}
        batch = dict(sorted(batch.items(), key=lambda item: -item[1].itemsize))  # each begins where its type may
        about = json.dumps([[name, values.dtype.str, values.shape] for name, values in batch.items()])
        content = [values.reshape(-1).view(np.uint8) for values in batch.values()]
        return {"about": about, "content": np.concatenate(content)}

    return flat


def restored(flat: dict[str, Any]) -> Batch:
    """The batch, in memory of this process."""
    batch, content, at = {}, np.array(flat["content"]), 0
    for name, dtype, shape in json.loads(flat["about"]):
        end = at + math.prod(shape) * np.dtype(dtype).itemsize
        batch[name], at = content[at:end].view(dtype).reshape(shape), end
    return batch


def _end(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()


@contextlib.contextmanager
def _main(module: Any) -> Iterator[None]:
    """Processes spawned meanwhile run this module before anything else, and not the user's script."""
    main, sys.modules["__main__"] = sys.modules["__main__"], sys.modules[module.__name__]
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes spawned meanwhile, by this thread, are not reached by Ctrl-C nor by a SIGTERM to all of a job."""
    resource_tracker.ensure_running()  # its start would let the signals in again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
