"""Background preparation: in order, failures surface, waiting is counted, and nothing stays behind."""

import gc
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmjax.data import Prefetch, prefetch

ROOT = Path(__file__).resolve().parent.parent


def living():
    return [thread for thread in threading.enumerate() if thread.name == "lmjax-prefetch"]


def test_batches_come_in_order_from_the_start_asked_for():
    with Prefetch(lambda i: i * i, 3) as batches:
        assert list(itertools.islice(batches, 50)) == [i * i for i in range(3, 53)]


def test_a_bounded_one_ends():
    with Prefetch(lambda i: i, 2, stop=5) as batches:
        assert list(batches) == [2, 3, 4] and list(batches) == []


def test_batches_are_made_before_they_are_asked_for_and_not_without_bound():
    made, third = [], threading.Event()

    def make(i):
        made.append(i)
        if i == 3:
            third.set()
        return i

    with Prefetch(make, 0, ahead=3) as batches:
        assert third.wait(60)  # 0, 1, 2 are ready and 3 in hand, with nothing asked for
        assert made == [0, 1, 2, 3]
        assert next(batches) == 0


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), StopIteration(), SystemExit(3)])
def test_a_failure_surfaces_after_the_batches_before_it_and_stays(error):
    def make(i):
        if i == 2:
            raise error
        return i

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with Prefetch(make, 0, ahead=8) as batches:
        assert next(batches) == 0 and next(batches) == 1
        for _ in range(2):
            with pytest.raises(expected) as caught:
                next(batches)
        assert error in (caught.value, caught.value.__cause__)
    assert not living()


def test_only_waiting_is_counted(monkeypatch):
    asked, second = threading.Event(), threading.Event()
    seconds = itertools.count(step=5)

    def clock():  # read by the consumer just before and just after it waits
        asked.set()
        return next(seconds)

    def make(i):
        asked.wait(60)
        if i == 2:
            second.set()
        return i

    monkeypatch.setattr(prefetch.time, "perf_counter", clock)
    with Prefetch(make, 0) as batches:
        assert next(batches) == 0 and batches.waited == 5
        assert second.wait(60)  # batch 1 is ready
        assert next(batches) == 1 and batches.waited == 5


def test_closing_ends_the_thread_and_the_batches():
    batches = Prefetch(lambda i: i, 0)
    next(batches)
    batches.close()
    batches.close()
    assert not living() and list(batches) == []


def test_a_forgotten_one_ends_its_thread():
    batches = Prefetch(lambda i: i, 0)
    next(batches)
    del batches
    gc.collect()
    assert not living()


@pytest.mark.parametrize("make", ["lambda i: i", "lambda i: 1 / 0 if i else i", "lambda i: bytearray(1 << 20)"])
def test_the_interpreter_ends_with_one_still_open(make):
    code = f"from lmjax.data import Prefetch; batches = Prefetch({make}, 0); next(batches); print('end')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout, found.stderr) == (0, "end\n", "")
