"""Batches through Grain are the batches, in their order, for any hosts and worker processes, wherever they resume."""

import contextlib
import functools
import itertools
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kind_folders
import numpy as np
import pytest

from configs import base
from lmjax.config import config, override
from lmjax.data import open_dataset
from lmjax.data.grain_source import BatchSource, Workers, as_grain, batches_of
from lmjax.data.loading import Automatic, Loading, helpful
from lmjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
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


def host_rows(host, hosts):
    return slice(host * BATCH // hosts, (host + 1) * BATCH // hosts)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype and type(found[name]) is np.ndarray


@pytest.mark.parametrize(("hosts", "start"), list(itertools.product((1, 2, 4), (0, 1, 5, 8))))
def test_hosts_see_the_batches_in_order_from_anywhere(data, hosts, start):
    dataset = open_dataset(data, 1)
    assert dataset.train.epoch_rows < BATCH * STEPS
    for rows in (host_rows(host, hosts) for host in range(hosts)):
        opened = functools.partial(batches_of, data, 1, "train", BATCH, rows)
        found = list(as_grain(opened, start=start, stop=STEPS))
        assert len(found) == STEPS - start
        for i, batch in enumerate(found, start):
            same(batch, dataset.train_batch(i, BATCH, rows))


@pytest.mark.parametrize(("workers", "first", "rows"), [(1, 0, slice(None)), (2, 3, host_rows(1, 4))])
def test_a_run_with_worker_processes_has_the_batches_of_one_without(data, workers, first, rows):
    dataset = open_dataset(data, 1)
    number = dataset.valid_batches(BATCH)
    data = SimpleNamespace(**{**data, "workers": workers})
    loading, twice = Loading(dataset, data, 1), lambda batch: (batch, batch["tokens"].sum())
    try:
        with loading.train(BATCH, rows, twice, first=first, stop=STEPS) as batches:
            found = list(batches)
        assert len(found) == STEPS - first
        for i, (batch, total) in enumerate(found, first):
            same(batch, dataset.train_batch(i, BATCH, rows))
            assert total == batch["tokens"].sum()
        for _ in range(2):  # the processes of the first evaluation make the second one's batches
            with loading.valid(BATCH, rows, twice, number) as batches:
                for i, (batch, _) in enumerate(batches):
                    same(batch, dataset.valid_batch(i, BATCH, rows))
                assert i == number - 1
    finally:
        loading.close()


def test_workers_hand_over_images_labels_and_captions_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    for kind in ("images", "image_labels"):
        chosen = kind_folders.data(kind_folders.folder_of(kind, tmp_path / kind), kind)
        dataset = open_dataset(chosen, 1, workers=1)
        workers = Workers(functools.partial(batches_of, chosen, 1, "train", BATCH), 1)
        for i in range(3):
            same(workers(i), dataset.train_batch(i, BATCH))
        workers.close()
        assert dataset.train_batch(0, BATCH)["image"].dtype == np.uint8


def test_a_run_goes_over_to_workers_at_any_batch(data):
    dataset = open_dataset(data, 1)
    opened = functools.partial(batches_of, data, 1, "train", BATCH)
    make = Automatic(lambda i: dataset.train_batch(i, BATCH), opened, STEPS)
    found = [make(i) for i in range(2)]
    make.hand_over(1)
    found += [make(i) for i in range(2, 5)]
    make.close()
    for i, batch in enumerate(found):
        same(batch, dataset.train_batch(i, BATCH))


@pytest.mark.parametrize(
    ("busy", "idle", "left", "cores", "count"),
    [
        (0.05, 0.0, 10_000, 16, 4),
        (0.05, 0.001, 10_000, 96, 8),
        (0.05, 0.1, 10_000, 16, 0),  # the step takes longer
        (0.001, 0.0, 100_000, 16, 0),  # as cheap as handing it over
        (0.05, 0.0, 100, 16, 0),  # done before workers are there
        (0.05, 0.0, 10_000, 2, 0),  # the step needs these cores
    ],
)
def test_workers_are_taken_when_the_run_waits_for_costly_batches(busy, idle, left, cores, count):
    assert helpful([busy] * 32, [idle] * 32, left, cores) == count


def test_a_source_travels_as_what_makes_its_batches_and_not_as_the_rows(data):
    source = BatchSource(functools.partial(batches_of, data, 1, "train", BATCH), 2)
    expected = source[3]["tokens"]
    sent = pickle.dumps(source)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent)[3]["tokens"], expected)
    np.testing.assert_array_equal(expected, open_dataset(data, 1).train_batch(5, BATCH)["tokens"])


def seen_by_a_worker():
    """Makes "batches" of what there is in the process that makes them."""
    return lambda i: {"jax": np.array("jax" in sys.modules), "pid": np.array(os.getpid())}


def test_workers_load_no_jax_and_one_that_is_killed_is_an_error():
    workers = Workers(seen_by_a_worker, 2)
    found = [workers(i) for i in range(4)]
    assert not any(batch["jax"] for batch in found)
    pids = [int(batch["pid"]) for batch in found]
    assert pids[:2] == pids[2:] and len({*pids, os.getpid()}) == 3
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"it was killed, perhaps for lack of memory.*--config\.data\.workers=0"):
        for i in range(4, 20):
            workers(i)
    workers.close()
    assert not (Path("/proc") / str(pids[0])).exists()


def test_a_source_that_changed_since_the_run_opened_it_is_an_error(data):
    with pytest.raises(RuntimeError, match="has changed since this run opened it"):
        batches_of(data, 1, "train", BATCH, fingerprint="another")


def test_a_negative_number_of_workers_is_named(data):
    with pytest.raises(UserError, match=r"data\.workers=-1"):
        Loading(open_dataset(data, 1), SimpleNamespace(workers=-1), 1)


# A user's script without `if __name__ == "__main__"`.
SCRIPT = """
import signal, sys
from lmjax.data.grain_source import Workers
from test_data_grain import seen_by_a_worker
workers = Workers(seen_by_a_worker, 2)
workers(0)
signal.signal(signal.SIGINT, lambda number, frame: print("interrupted", flush=True))
print("ready", flush=True)
sys.stdin.readline()
started = {process.pid for process in workers.processes}
print(len(started), {int(workers(i)["pid"]) for i in range(1, 9)} == started, flush=True)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, tmp_path / "script.py"], text=True, process_group=0,
                               env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its workers too, if the test failed
    process.communicate()


def test_ctrl_c_is_for_the_run_and_leaves_its_workers_and_nothing_stays_behind(script):
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert script.stdout.readline() == "interrupted\n"
    out, err = script.communicate("go on\n", timeout=60)
    assert (script.returncode, out, err) == (0, "2 True\n", "")


def test_workers_end_with_a_run_that_is_killed(script):
    script.kill()
    assert script.communicate(timeout=60)[0] == ""  # returns when the last process that has its output open is gone
