"""The account of a run's time: it adds up, and steps that were taken twice are lost ones."""

import json
import time

import pytest

from lmjax import goodput
from lmjax.chain import Chain
from lmjax.goodput import Account

SESSION = {"from_step": 4, "steps": 6, "lost_steps": 0, "lost_seconds": 0.0,
           "seconds": dict.fromkeys(goodput.KINDS, 0.0) | {"start": 2.0, "step": 3.0}}  # fmt: skip


def test_time_is_counted_once_as_what_is_innermost():
    account, began = Account(), time.monotonic()
    account.become("step")
    with account("evaluation"):
        inside = time.monotonic()
        with account("compile"):
            sum(range(10000))
    account.waited(0.5)
    account.become("save")
    ended = time.monotonic()
    assert account.seconds["data"] == 0.5 and account.seconds["compile"] > 0
    assert 0 < account.seconds["evaluation"] < ended - inside
    assert sum(account.seconds.values()) == pytest.approx(ended - began, abs=0.01)


def test_steps_behind_the_checkpoint_that_a_run_goes_on_from_are_lost_whichever_session_took_them():
    kept = goodput.lost([SESSION], reached=10, first=10)
    assert kept == [SESSION] and goodput.summed(kept)["goodput"] == 0.6
    [killed] = goodput.lost([SESSION], reached=10, first=8)
    assert (killed["lost_steps"], killed["lost_seconds"]) == (2, 1.0)
    [killed] = goodput.lost([SESSION], reached=12, first=8)  # two more than its last account says
    assert (killed["steps"], killed["lost_steps"], killed["seconds"]["step"]) == (8, 4, 4.0)
    later = {**SESSION, "from_step": 8, "steps": 2, "seconds": SESSION["seconds"] | {"step": 1.0}}
    both = goodput.lost(
        [{**killed, "lost_steps": 4}, later], reached=10, first=4
    )  # the checkpoint of step 8 was damaged
    assert [one["lost_steps"] for one in both] == [8, 2] and goodput.summed(both)["goodput"] == 0.0
    assert goodput.lost([], 0, 0) == []


def test_a_session_goes_on_with_the_account_of_the_one_before(tmp_path):
    first, second, said = Account(), Account(), []
    first.open(tmp_path, 0, said.append)
    first.become("step")
    steps = Chain(tmp_path, 0)
    for step in range(1, 6):
        steps.step(step, "batch", "3f800000")
    first.steps = 3
    first.write()
    steps.close()
    second.open(tmp_path, 4, said.append)
    second.write()
    assert [(one["steps"], one["lost_steps"]) for one in second.whole["sessions"]] == [(5, 1), (0, 0)]
    assert second.whole == json.loads((tmp_path / goodput.NAME).read_text())
    assert "; 1 steps lost and taken again" in second.line() and not said
    (tmp_path / goodput.NAME).write_text("{")
    Account().open(tmp_path, 4, said.append)
    assert "cannot be read" in said[0]
    assert len(json.loads((tmp_path / goodput.NAME).read_text())["sessions"]) == 1
