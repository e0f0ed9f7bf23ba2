"""kill -9 of a sweep and of its workers, at random, changes nothing of what it measures."""

import random
import time

import pytest

from lmjax.study import cells
from lmjax.study.records import collect
from lmjax.study.store import Store, lives
from lmjax.study.table import table
from lmjax.study.wording import aligned
from tests import sweeps

VARIANTS = {"alibi": {"model.position": "alibi"}, "none": {"model.position": "none"}}
FLAGS = ("--seeds=4", "--jobs=2")
KILLS = 25
SHORT = {"steps": 6, "every.eval": 3, "every.save": 2, "model.depth": 1, "model.width": 16}


@pytest.mark.slow
def test_twenty_five_kills_leave_the_table_of_an_undisturbed_sweep(tmp_path, monkeypatch):
    folder = sweeps.write_study(tmp_path / "here", "trained", VARIANTS, SHORT)
    monkeypatch.chdir(folder)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert sweeps.start(folder, undisturbed, *FLAGS).wait() == 0
    kills = disturb(folder, killed)
    assert kills == KILLS, "the cells were finished before the last kill: they are too short"
    study, _ = cells.study_named("small")
    assert sweeps.measured(study, killed) == sweeps.measured(study, undisturbed)
    tables = [aligned(table(study, collect(study, workspace))) for workspace in (undisturbed, killed)]
    assert tables[0] == tables[1] and tables[0].count("\n") > 3
    for record in collect(study, killed):
        ends = sweeps.sessions(record.folder)
        assert ends[-1] == "completed" and "completed" not in ends[:-1]  # what was finished did not begin again


def disturb(folder, workspace):
    """Sweep until all is finished, killing the sweep, a worker or all of them KILLS times; how often."""
    chance, kills = random.Random(25), 0
    sweep = sweeps.start(folder, workspace, *FLAGS)
    while kills < KILLS and sweep.poll() is None:
        wait_for_work(workspace, sweep)
        time.sleep(chance.uniform(0, 8))
        here, victim = sweeps.workers(workspace), chance.choice(("sweep", "worker", "all"))
        if sweep.poll() is not None:
            break
        kills += 1
        if victim == "worker" and here:
            sweeps.kill(chance.choice(here))
            continue
        sweep.kill()
        sweep.wait()
        for process in here if victim == "all" else ():
            sweeps.kill(process)
        sweep = sweeps.start(folder, workspace, *FLAGS)
    assert sweep.wait() == 0
    return kills


def wait_for_work(workspace, sweep):
    """Return when a worker has a cell, or the sweep has ended."""
    while sweep.poll() is None and not any(at_work(workspace)):
        time.sleep(0.1)  # between looks at other processes


def at_work(workspace):
    """Of every cell, whether a living worker has it."""
    store = Store(workspace)
    try:
        return [entry.status == "running" and lives(workspace, entry.worker, entry.host) for entry in store.entries()]
    finally:
        store.close()
