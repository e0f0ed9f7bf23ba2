"""The loop records every step once and in order, pauses when it is due, and lets nothing move in a step."""

from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.loop import Hooks, due, run


@jax.jit
def add(state, batch):
    return state + batch, {"sum": state + batch}


def batches(first=0):
    return (jnp.float32(i) for i in count(first))


class Diary:
    """Hooks that write down what happened; pauses after the steps in `pausing`, and stops with `reason` after `stop`."""

    def __init__(self, pausing=(), stop=None, reason="enough"):
        self.lines, self.pausing, self.stop, self.reason = [], pausing, stop, reason

    def hooks(self):
        return Hooks(self.before, self.record, lambda done: done in self.pausing, self.pause)

    def before(self, done):
        self.lines.append(("before", done))

    def record(self, done, metrics):
        assert isinstance(metrics["sum"], np.generic | np.ndarray), "metrics come on the host"
        self.lines.append(("record", done, float(metrics["sum"])))

    def pause(self, done, state):
        self.lines.append(("pause", done, float(state)))
        return self.reason if done == self.stop else ""


def test_every_step_is_recorded_once_in_order_and_while_the_next_one_runs():
    diary = Diary(pausing=(2,))
    ending = run(add, jnp.float32(0), batches(), first=0, last=4, hooks=diary.hooks())
    assert (float(ending.state), ending.done, ending.reason) == (0 + 1 + 2 + 3, 4, "")
    assert diary.lines == [
        ("before", 0), ("before", 1), ("record", 1, 0.0), ("record", 2, 1.0), ("pause", 2, 1.0),
        ("before", 2), ("before", 3), ("record", 3, 3.0), ("record", 4, 6.0), ("pause", 4, 6.0),
    ]  # fmt: skip


def test_it_goes_on_from_where_it_was():
    diary = Diary()
    ending = run(add, jnp.float32(3), batches(3), first=3, last=5, hooks=diary.hooks())
    assert float(ending.state) == 3 + 3 + 4
    assert [line[1] for line in diary.lines if line[0] == "record"] == [4, 5]


def test_a_reason_to_stop_ends_it_with_everything_recorded():
    diary = Diary(pausing=(2, 3), stop=3)
    ending = run(add, jnp.float32(0), batches(), first=0, last=9, hooks=diary.hooks())
    assert (float(ending.state), ending.done, ending.reason) == (3.0, 3, "enough")
    assert diary.lines[-2:] == [("record", 3, 3.0), ("pause", 3, 3.0)]


def test_nothing_is_left_to_do_after_the_last_step():
    diary = Diary()
    ending = run(add, jnp.float32(7), batches(), first=5, last=5, hooks=diary.hooks())
    assert (float(ending.state), ending.done, ending.reason, diary.lines) == (7.0, 5, "", [])


def test_a_batch_that_is_not_on_the_device_is_an_error():
    with pytest.raises(Exception, match="host-to-device transfer"):
        run(add, jnp.float32(0), iter([np.float32(0)]), first=0, last=1, hooks=Diary().hooks())


def test_a_failure_of_the_input_or_the_step_is_not_swallowed():
    def fails():
        yield jnp.float32(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(add, jnp.float32(0), fails(), first=0, last=3, hooks=Diary().hooks())


def test_what_is_due():
    assert [done for done in range(1, 11) if due(done, 4, 10)] == [4, 8, 10]
    assert [done for done in range(1, 11) if due(done, None, 10)] == [10] == [d for d in range(1, 11) if due(d, 0, 10)]
