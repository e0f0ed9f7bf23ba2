"""Cells of a study, the store that hands them out, and sweeps that go on whatever ends."""

import io
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from lmjax import atomic, source
from lmjax.__main__ import main
from lmjax.config import loads
from lmjax.errors import UserError
from lmjax.study import cells, ending, sweep
from lmjax.study.live import Live, direction
from lmjax.study.records import collect
from lmjax.study.store import DEATHS, Lease, Store
from tests import runs, sweeps

ORDERS = {"two": {"model.order": 2}, "two/more": {"data.length": 64}, "four": {"model.order": 4}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a study of n-grams, which is the current one."""
    folder = sweeps.write_study(tmp_path / "here", "counted", ORDERS)
    monkeypatch.chdir(folder)
    return folder


def chosen(seeds=(0, 1), **options):
    study, source = cells.study_named("small")
    return cells.cells_of(study, source, variants=study.names(), seeds=seeds, **options)


# --- cells ----------------------------------------------------------------------------------------------------------


def test_a_study_has_a_cell_for_every_variant_and_seed_each_with_its_own_config(folder):
    made = chosen(overrides=["batch=2"])
    assert [(cell.variant, cell.seed) for cell in made[:5]] == [
        ("base", 0), ("two", 0), ("two/more", 0), ("four", 0), ("base", 1)
    ]  # fmt: skip
    assert len({cell.key for cell in made}) == len({cell.folder for cell in made}) == 8
    nested = loads(made[2].config)
    assert (nested.model.order, nested.data.length, nested.batch, nested.seed) == (2, 64, 2, 0)
    assert (made[2].folder, made[2].experiment) == ("two.more/seed0", "small/two/more")
    assert made[2].overrides == ("batch=2", "seed=0")


@pytest.mark.parametrize("text, expected", [(None, (0,)), ("3", (0, 1, 2)), ("7,2", (7, 2)), ("4,", (4,))])
def test_seeds_are_how_many_or_which(folder, text, expected):
    assert cells.seeds_of(cells.study_named("small")[0], text) == expected
    with pytest.raises(UserError, match="each once"):
        cells.seeds_of(cells.study_named("small")[0], f"{text or ''},,")


@pytest.mark.parametrize("words, message", [
    (["smal"], "did you mean 'small'"),
    (["small/two"], "is a variant: name the study"),
    (["configs/lm.py:tiny"], "is no study"),
    (["small", "--variants", "fuor"], "did you mean 'four'"),
    (["small", "--variants="], "Legal: base"),
    (["small", "--seeds=0"], "--seeds=0"),
    (["small", "--seeds=1,1"], "each once"),
    (["small", "--seeds=two"], "--seeds=two"),
    (["small", "--jobs=0"], "--jobs=0"),
    (["small", "--config.seed=3"], "--seeds="),
    (["small", "--config.model.ordr=3"], "model.order"),
    (["small", "--config.model.order=4"], "same config"),
])  # fmt: skip
def test_what_is_wrong_with_a_sweep_is_said_before_anything_runs(folder, capsys, words, message):
    assert main(["sweep", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


# --- the store ------------------------------------------------------------------------------------------------------


def test_no_cell_is_given_to_two_workers(folder, tmp_path):
    made, got = chosen(range(10)), []
    Store(tmp_path / "w").add("small", made)

    def take():
        store, lease = Store(tmp_path / "w"), Lease(tmp_path / "w")
        while cell := store.claim(lease.name):
            got.append(cell.key)
        leases.append(lease)  # it lives until all is claimed

    leases = []
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(cell.key for cell in made)


def test_a_dead_workers_cell_is_given_again_and_a_living_ones_is_not(folder, tmp_path):
    store = Store(tmp_path)
    store.add("small", chosen()[:1])
    code = ("import sys; from pathlib import Path; from lmjax.study.store import Lease, Store; p = Path(sys.argv[1]);"
            "lease = Lease(p); print(Store(p).claim(lease.name).folder, flush=True); sys.stdin.read()")  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=runs.ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert other.stdout.readline() == "base/seed0\n"
    mine = Lease(tmp_path)
    assert store.claim(mine.name) is None and store.claimable() == 0
    other.kill()
    other.communicate()
    assert store.claimable() == 1
    assert store.claim(mine.name).folder == "base/seed0"
    assert store.entries()[0].attempts == 2 and store.claim(mine.name) is None
    mine.release()


def test_a_cell_that_kills_every_worker_has_failed_in_the_end(folder, tmp_path):
    store = Store(tmp_path)
    store.add("small", chosen()[:1])
    claims = 0
    while store.claim(f"nobody-{claims}"):
        claims += 1
    entry = store.entries()[0]
    assert claims == DEATHS and (entry.status, entry.failures) == ("failed", 1) and "died on it" in entry.cause
    assert store.claimable(retries=0) == 0 and store.claimable(retries=1) == 1


def test_a_failed_cell_is_retried_as_often_as_asked_and_recorded(folder, tmp_path):
    store, lease = Store(tmp_path), Lease(tmp_path)
    store.add("small", chosen()[:1])
    key = store.claim(lease.name, retries=1).key
    assert store.finish(key, lease.name, "failed", "first")
    assert store.claim(lease.name, retries=0) is None
    assert store.claim(lease.name, retries=1).key == key
    assert not store.finish(key, "another", "completed")  # it is not its cell
    assert store.finish(key, lease.name, "failed", "second")
    assert store.claim(lease.name, retries=1) is None
    assert (store.entries()[0].failures, store.entries()[0].cause) == (2, "second")
    lease.release()


def test_a_workspace_is_of_one_study_and_of_one_config(folder, tmp_path):
    store, made = Store(tmp_path), chosen()
    store.add("small", made)
    with pytest.raises(UserError, match="the study small, not of large"):
        store.add("large", made)
    changed = chosen(overrides=["batch=2"])
    store.add("small", changed)  # nothing has begun
    assert [entry.cell.key for entry in store.entries()] == [cell.key for cell in changed]
    (tmp_path / "base" / "seed0").mkdir(parents=True)
    (tmp_path / "base" / "seed0" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="batch was 2, is 4"):
        store.add("small", made)


def test_a_damaged_store_is_named_and_can_be_made_again(folder, capsys):
    store = Store(folder / "there")
    store.add("small", chosen())
    store.close()
    path = folder / "there" / "store.sqlite"
    whole = path.read_bytes()
    for damaged in (b"no database" * 500, whole[:4096] + bytes(byte ^ 90 for byte in whole[4096:])):
        path.write_bytes(damaged)
        assert main(["sweep", "small", "--workdir=there"]) == 2
        assert "store.sqlite is damaged" in (told := capsys.readouterr().err) and "Move it away" in told
        assert path.read_bytes() == damaged  # and nothing was written over
    path.unlink()
    Store(folder / "there").add("small", chosen())


def test_a_run_that_the_store_does_not_know_is_taken_for_the_cell_only_if_it_is_its(folder, tmp_path):
    cell, other = chosen()[0], chosen(overrides=["batch=2"])[0]
    (tmp_path / cell.folder).mkdir(parents=True)
    (tmp_path / cell.folder / "config.json").write_text(other.config)
    (tmp_path / cell.folder / "manifest.json").write_text(atomic.dumps({"config_hash": other.key}))
    with pytest.raises(UserError, match="another config .batch was 2, is 4"):
        Store(tmp_path).add("small", [cell])
    Store(tmp_path).add("small", [other])


def test_a_sweep_says_before_it_runs_that_finished_cells_ran_another_lmjax(folder, tmp_path):
    made = chosen()
    assert cells.other_code(made, tmp_path) == ""
    facts = {"code": source.code(made[0].source)}
    for cell in made[:2]:
        (tmp_path / cell.folder).mkdir(parents=True)
        (tmp_path / cell.folder / "manifest.json").write_text(atomic.dumps(facts))
    assert cells.other_code(made, tmp_path) == ""
    with open(made[0].source, "a") as file:
        file.write("# another variant\n")
    assert cells.other_code(made, tmp_path) == ""  # of the study's file only what it resolves to matters
    own = [cell._replace(config=cell.config.replace('"next_token"', '"mine:loss"')) for cell in made]
    assert own != made and cells.other_code(own, tmp_path).startswith("base/seed0, two/seed0 ran with other code")
    facts["code"]["lmjax"]["package_sha256"] = "0" * 64
    (tmp_path / made[1].folder / "manifest.json").write_text(atomic.dumps(facts))
    said = cells.other_code(made, tmp_path)
    assert said.startswith("two/seed0 ran with other code") and "--workdir" in said


def test_a_sweep_does_not_write_into_a_search(folder, capsys):
    (folder / "searched").mkdir()
    (folder / "searched" / "search.json").write_text("{}")
    assert main(["sweep", "small", "--workdir=searched"]) == 2
    assert "searched is the workspace of a search" in capsys.readouterr().err
    assert [path.name for path in (folder / "searched").iterdir()] == ["search.json"]


# --- whole sweeps ---------------------------------------------------------------------------------------------------


def test_a_sweep_whose_worker_is_killed_finishes_and_then_has_nothing_to_do(folder, tmp_path, capsys, monkeypatch):
    workspace, words = tmp_path / "w", ["sweep", "small", "--seeds=2", f"--workdir={tmp_path / 'w'}"]
    words += ["--variants", "base", "two"]
    watching = threading.Thread(target=kill_one, args=(workspace,))
    watching.start()
    assert main(words) == 0
    watching.join()
    study, _ = cells.study_named("small")
    records = collect(study, workspace, variants=("base", "two"))
    cells_there = [(record.variant, record.seed) for record in records]
    assert cells_there == [("base", 0), ("base", 1), ("two", 0), ("two", 1)]
    assert all(sweeps.sessions(record.folder).count("completed") == 1 for record in records)
    attempts = [entry.attempts for entry in Store(workspace).entries()]
    assert sum(attempts) == 4 + 1
    assert "4 finished" not in capsys.readouterr().out
    assert main(words) == 0
    assert "4 cells, 4 finished" in capsys.readouterr().out
    assert [entry.attempts for entry in Store(workspace).entries()] == attempts
    misspell(folder, monkeypatch)
    assert main(words) == 2  # all is finished, and the table is refused
    assert (
        "unknown metric of small 'valid/bits_per_bite'; did you mean 'valid/bits_per_byte'" in capsys.readouterr().err
    )


def misspell(folder, monkeypatch):
    """The study again, with a metric that no run measures."""
    file = folder / "experiments" / "small.py"
    file.write_text(file.read_text().replace("variants=", 'metrics=("valid/bits_per_bite",), variants='))
    monkeypatch.delitem(sys.modules, "experiments.small")


def test_a_misspelt_metric_of_the_study_is_told_before_a_cell_trains(folder, tmp_path, capsys, monkeypatch):
    chosen()
    misspell(folder, monkeypatch)
    assert main(["sweep", "small", f"--workdir={tmp_path / 'w'}", "--variants=two"]) == 2
    said = capsys.readouterr().err
    assert "unknown metric of the study 'valid/bits_per_bite'; did you mean 'valid/bits_per_byte'" in said
    assert not list((tmp_path / "w").glob("*/*/m*")) and not sweeps.workers(tmp_path / "w")
    entry = Store(tmp_path / "w").entries()[0]
    assert (entry.status, entry.failures) == ("waiting", 0)


def entries(store, *, failed=(), causes=(), metrics=()):
    """Those of a store whose cells have come to an end: by number, they failed for these reasons, or measured this."""
    while cell := store.claim("me"):
        number = [entry.cell.key for entry in store.entries()].index(cell.key)
        if number in failed:
            store.finish(cell.key, "me", "failed", causes[failed.index(number)])
        else:
            store.finish(cell.key, "me", "completed", None, {"valid/f1": metrics[number]} if metrics else {})
    return store.entries()


def test_a_sweep_says_2_where_every_failure_is_the_users_mistake_and_each_reason_once(folder, tmp_path, capsys):
    made = chosen(seeds=(0,))
    for number, (causes, code) in enumerate([
        (["UserError: no such file"] * 3, 2), (["UserError: no such file"] * 2 + ["ValueError: odd"], 1), ([], 0)
    ]):  # fmt: skip
        store = Store(tmp_path / str(number))
        store.add("small", made)
        ended = entries(store, failed=[0, 1, 3][: len(causes)], causes=causes)
        assert sweep.ended(ended) == code
        ending.failures(sweep.Outcome(code, ended), tmp_path, 0)
        said = capsys.readouterr().err
        assert said.count("no such file") == (code > 0) and said.count("odd") == (code == 1)
        assert ("base/seed0 and 2 more" in said) == (code == 2)


def test_the_live_table_is_of_the_studys_metric_and_knows_which_is_best(folder, tmp_path):
    store, made = Store(tmp_path), chosen(seeds=(0,))
    store.add("small", made)
    held = entries(store, metrics=[0.25, 0.75, 0.5, 0.125])
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(tmp_path, console, metric="valid/f1").showing(held):
        pass
    lines = console.file.getvalue().splitlines()
    assert any("valid/f1 ↑" in line for line in lines) and not any("valid/nll" in line for line in lines)
    assert {line.split()[0] for line in lines if "best" in line} == {"two"}
    assert [direction(name) for name in ("valid/bits_per_byte", "eval/bleu", "train/odd")] == ["min", "max", ""]


def kill_one(workspace):
    """kill -9 of the first worker that has begun a run."""
    while not (here := list(workspace.glob("*/*/lock")) and sweeps.workers(workspace)):
        threading.Event().wait(0.005)  # between looks at another process
    sweeps.kill(here[0])


def test_workers_share_the_cores_and_a_worker_that_cannot_begin_ends_the_sweep(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="5 workers ended before they had begun"):
        sweep.sweep("small", chosen(), tmp_path / "w", jobs=2)
    assert os.listdir(tmp_path / "w" / "workers") == []


@pytest.mark.slow
def test_a_stopped_sweep_says_75_and_goes_on_and_a_cell_that_fails_is_told_and_tried_again(tmp_path, monkeypatch):
    wild = {"wild": {"optim.learning_rate": 1e9, "optim.skip.stop_after": 1}}
    folder = sweeps.write_study(tmp_path / "here", "trained", wild)
    monkeypatch.chdir(folder)
    workspace, flags = tmp_path / "w", ("--seeds=1", "--config.steps=40", "--config.every.save=40")
    first = sweeps.start(folder, workspace, *flags)
    while not (workspace / "base" / "seed0" / "metrics.jsonl").exists():
        threading.Event().wait(0.01)  # between looks at another process
    first.terminate()
    assert first.wait() == 75 and not sweeps.workers(workspace)
    entry = Store(workspace).entries()[0]
    assert entry.status == "waiting" and entry.cause == "stopped by SIGTERM"
    assert sweeps.start(folder, workspace, *flags, "--retries=1").wait() == 1
    good, bad = Store(workspace).entries()
    assert good.status == "completed" and sweeps.sessions(workspace / "base/seed0") == ["preempted", "completed"]
    assert (bad.status, bad.failures) == ("failed", 2) and "learning_rate" in bad.cause
