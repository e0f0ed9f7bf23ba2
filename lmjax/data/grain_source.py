"""The same batches through Grain, for worker processes and for those whose pipelines are Grain's.

The state is one integer, the number of the next batch: an iterator that begins at batch i gives what one that has come
to i gives. Workers help where a row costs more than handing it between processes (decoding images or sound); packed
tokens are made faster than that, and `benchmarks/load_rows.py` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lmjax.data import packing

if TYPE_CHECKING:
    import grain

MOST = 1 << 40  # batches: Grain wants a length of a source without an end


class BatchSource:
    """Grain's random access over a host's part of each batch, from batch `start` on.

    make_stream() gives the rows. Workers call it in their own process, once each, for open files and caches of rows do
    not travel; it must be picklable: a function of a module, or functools.partial of one.
    """

    def __init__(
        self, make_stream: Callable[[], packing.Stream], batch: int, rows: slice, start: int, stop: int | None
    ):
        self._make_stream, self._stream = make_stream, None
        self._batch, self._rows, self._start = batch, rows, start
        self._length = (MOST if stop is None else stop) - start

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> packing.Row:
        import numpy as np

        if self._stream is None:
            self._stream = self._make_stream()
        return packing.batch(self._stream, (self._start + int(i)) * self._batch + np.arange(self._batch)[self._rows])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_stream": None}


def as_grain(make_stream: Callable[[], packing.Stream], batch: int, rows: slice = slice(None), *, start: int = 0,
             stop: int | None = None, workers: int = 0, ahead: int = 2) -> grain.IterDataset:  # fmt: skip
    """A Grain dataset of batches start, start + 1, .. of a stream, this host's `rows` of each.

    make_stream: functools.partial(train_stream, data, seed), or anything picklable that gives a Stream. The order is
    that of `Dataset.train_batch` for any number of hosts and workers. ahead: batches kept ready, of each worker.
    """
    import grain

    source = BatchSource(make_stream, batch, rows, start, stop)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
    dataset = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        from absl import flags

        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain reads its flags when it starts workers, and the command line is not absl's
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))
    return dataset


def train_stream(data: Any, seed: int) -> packing.Stream:
    """The training rows of config.data, prepared before: what a worker process opens."""
    from lmjax.data.loader import open_dataset

    return open_dataset(data, seed, lambda line: None).train
