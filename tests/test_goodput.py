"""The account of a run's time: it adds up, and steps that were taken twice are lost ones."""

import json
import shutil
import time

import pytest
import runs

from lmjax import goodput
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


def test_a_run_accounts_for_its_sessions_and_for_the_steps_it_takes_again(tmp_path, capfd, quick_runs):
    text = runs.write_text(tmp_path / "text")
    assert runs.train(text, tmp_path / "run", {"every.eval": 6}, "--until=6") == 75
    assert "goodput" in capfd.readouterr().out
    shutil.rmtree(tmp_path / "run/checkpoints/00000006")  # as if it had been killed before that was saved
    assert runs.train(text, tmp_path / "run", {"every.eval": 6}) == 0
    account = json.loads((tmp_path / "run" / goodput.NAME).read_text())
    first, second = account["sessions"]
    assert (first["from_step"], first["steps"], first["lost_steps"]) == (0, 6, 3)
    assert (second["from_step"], second["steps"], second["lost_steps"]) == (3, 9, 0)
    assert account["steps"] == 15 and account["lost_steps"] == 3 and 0 < account["goodput"] < 1
    assert all(second["seconds"][kind] > 0 for kind in ("start", "step", "evaluation", "save"))
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("goodput"))
    assert f"{account['goodput']:.1%}" in line and "3 steps lost and taken again" in line
    walls = [session["wall_seconds"] for session in runs.manifest(tmp_path / "run")["sessions"]]
    assert sum(account["seconds"].values()) > 0.9 * sum(walls)
