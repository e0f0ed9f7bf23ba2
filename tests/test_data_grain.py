"""Batches through Grain are the batches, in their order, for any hosts and worker processes, wherever they resume."""

import functools
import itertools
import pickle

import numpy as np
import pytest

from configs import base
from lmjax.config import config, override
from lmjax.data import open_dataset
from lmjax.data.grain_source import BatchSource, as_grain, train_stream

BATCH, STEPS = 8, 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A mixture of two folders, best fit, of which 9 batches are more than an epoch."""
    root = tmp_path_factory.mktemp("grain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMJAX_CACHE", str(root / "cache"))
        for name in ("one", "two"):
            (root / name).mkdir()
            for n in range(15):
                (root / name / f"{n}.txt").write_text(f"{name} {n} sheep went up the hill. "[: 12 + n] * (1 + n % 3))
        words = [f"data.source={root / 'one'}", f"data.mixture.sources={root / 'two'}", "data.packing=best_fit"]
        chosen = override(config(data=base.data()), [*words, "data.length=32", "data.valid_fraction=0.2"]).data
        open_dataset(chosen, 1)
        yield chosen


def check(data, hosts, workers, start):
    dataset = open_dataset(data, 1)
    stream = functools.partial(train_stream, data, 1)
    for host in range(hosts):
        rows = slice(host * BATCH // hosts, (host + 1) * BATCH // hosts)
        found = list(as_grain(stream, BATCH, rows, start=start, stop=STEPS, workers=workers))
        assert len(found) == STEPS - start
        for i, batch in enumerate(found, start):
            for name, expected in dataset.train_batch(i, BATCH, rows).items():
                np.testing.assert_array_equal(batch[name], expected)


@pytest.mark.parametrize(("hosts", "start"), list(itertools.product((1, 2, 4), (0, 1, 5, 8))))
def test_hosts_see_the_batches_in_order_from_anywhere(data, hosts, start):
    assert open_dataset(data, 1).train.epoch_rows < BATCH * STEPS
    check(data, hosts, 0, start)


@pytest.mark.parametrize(("workers", "start"), [(1, 0), (2, 3)])
def test_worker_processes_do_not_change_the_order(data, workers, start):
    check(data, 1, workers, start)


def test_a_source_travels_as_what_makes_its_rows_and_not_as_the_rows(data):
    source = BatchSource(functools.partial(train_stream, data, 1), BATCH, slice(None), 2, None)
    expected = source[3]["tokens"]
    sent = pickle.dumps(source)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent)[3]["tokens"], expected)
    np.testing.assert_array_equal(expected, open_dataset(data, 1).train_batch(5, BATCH)["tokens"])
