"""How the batches of a run are made: ahead of the step by a thread of this process, or by worker processes of Grain.

Both give the same bits, so a run may change from one to the other at any batch, and between sessions.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lmjax.data.grain_source import Batch, Make, Workers, batches_of
from lmjax.data.loader import Dataset
from lmjax.data.prefetch import Prefetch
from lmjax.errors import UserError

LOG = logging.getLogger(__name__)
WATCHED = 32  # batches whose times decide whether workers would help
COSTLY = 0.005  # seconds: several times what handing a batch over from a worker takes
WORTH = 30.0  # seconds of a thread's work still to come: several times what starting workers takes


class Loading:
    """The batches of a run. workers (data.workers): 0 is a thread; n also that many processes of Grain, once for the
    training rows and once for the validation split; none begins with the thread and takes workers when they `help`."""

    def __init__(self, dataset: Dataset, data: Any, seed: int):
        self.workers = getattr(data, "workers", 0)  # runs from before there were workers have no such leaf
        if self.workers is not None and self.workers < 0:
            raise UserError(f"data.workers={self.workers}: 0 for a thread of this process, n for processes, or none")
        self._dataset, self._data, self._seed = dataset, data, seed
        self._train: Automatic | Workers | None = None
        self._valid: Workers | None = None

    def train(self, batch: int, rows: Any, place: Callable[[Batch], Any], *, first: int, stop: int) -> Prefetch:
        """The training batches `first` .. `stop` - 1, this host's `rows` of each, made ahead and placed by `place`."""
        make = functools.partial(self._dataset.train_batch, batch=batch, rows=rows)
        opened = self._opened("train", batch, rows)
        if self.workers:
            make = self._train = Workers(opened, self.workers)
        elif self.workers is None:
            make = self._train = Automatic(make, opened, stop)
        return Prefetch(lambda i: place(make(i)), first, stop=stop)

    def valid(self, batch: int, rows: Any, place: Callable[[Batch], Any], number: int) -> Prefetch:
        """The first `number` batches of the validation split. Workers stay for the next evaluation, and begin with it."""
        make = functools.partial(self._dataset.valid_batch, batch=batch, rows=rows)
        if self.workers:
            self._valid = self._valid or Workers(self._opened("valid", batch, rows), self.workers, cycle=number)
            make = self._valid
        return Prefetch(lambda i: place(make(i)), 0, stop=number)

    def close(self) -> None:
        """Ends the worker processes."""
        for workers in (self._train, self._valid):
            if workers is not None:
                workers.close()

    def _opened(self, split: str, batch: int, rows: Any) -> Callable[[], Make]:
        fingerprint = getattr(self._dataset, "fingerprint", None)
        return functools.partial(batches_of, self._data, self._seed, split, batch, rows, fingerprint)


class Automatic:
    """Batches made by the calling thread, until it is what the run waits for and processes would do better."""

    def __init__(self, make: Make, opened: Callable[[], Make], stop: int):
        self._make, self._opened, self._stop = make, opened, stop
        self._busy, self._idle = deque(maxlen=WATCHED), deque(maxlen=WATCHED)
        self._last: float | None = None
        self._workers: Workers | None = None

    def __call__(self, i: int) -> Batch:
        if self._workers is not None:
            return self._workers(i)
        began = time.perf_counter()
        made = self._make(i)
        ended = time.perf_counter()
        if self._last is not None:
            self._busy.append(ended - began)
            self._idle.append(began - self._last)
        self._last = ended
        if len(self._busy) == WATCHED and (count := helpful(self._busy, self._idle, self._stop - i, _cores())):
            self.hand_over(count)
        return made

    def hand_over(self, count: int) -> None:
        """The next batches are made by that many processes."""
        LOG.info("batches are what the run waits for: %d processes make them from now on (data.workers)", count)
        self._workers = Workers(self._opened, count)

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()


def helpful(busy: Any, idle: Any, left: int, cores: int) -> int:
    """How many processes should make the batches that a thread made so far, 0 for none.

    busy, idle: seconds that it worked on each of the last batches, and was not asked for one before; left: batches to
    come; cores: a quarter of them may be taken, for on CPU the step needs them too.
    """
    worked, rested = sum(busy), sum(idle)
    mean = worked / max(len(busy), 1)
    if rested > 0.1 * worked or mean < COSTLY or mean * left < WORTH:
        return 0
    return min(cores // 4, 8)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
