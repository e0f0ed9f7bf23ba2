"""Provenance: the manifest says what ran, the history is whole, one process trains in a folder."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import atomic, provenance, source
from lmjax.errors import UserError
from lmjax.history import History, HistoryError
from lmjax.provenance import Manifest, RunLock, params_sha256

REPOSITORY = pathlib.Path(__file__).parents[1]
FACTS = {"experiment": "quickstart", "config_hash": "abc", "seed": 0, "devices": {"count": 1}, "mesh": (1, 1)}


def python(code, folder, **environment):
    """Runs `code` in a Python of its own, in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------------- manifest


def test_the_manifest_is_on_disk_from_the_start_and_names_every_session(tmp_path):
    Manifest(tmp_path).start(0, **FACTS, packages={"jax": "1"})
    assert Manifest(tmp_path).facts["status"] == "running"
    second = Manifest(tmp_path)  # the first process was killed
    second.start(100, **{**FACTS, "devices": {"count": 8}, "packages": {"jax": "2"}})
    second.update(data_fingerprint="f")
    second.finish("completed", result={"step": 200, "params_sha256": "0", "valid/nll": math.nan})
    facts = Manifest(tmp_path).facts
    assert (facts["status"], facts["experiment"], facts["data_fingerprint"]) == ("completed", "quickstart", "f")
    assert facts["packages"] == {"jax": "1"} and math.isnan(facts["result"]["valid/nll"])
    first, last = facts["sessions"]
    assert (first["status"], first["from_step"], first["devices"], first["changed"]) == ("killed", 0, {"count": 1}, {})
    assert (last["status"], last["from_step"], last["devices"]) == ("completed", 100, {"count": 8})
    assert last["changed"] == {"packages": {"jax": "2"}}
    assert facts["ended"] and facts["wall_seconds"] == pytest.approx(sum(s["wall_seconds"] for s in facts["sessions"]))


@pytest.mark.parametrize("text", ["", '{"status": "runn', "[]", '{"status": "running"}', "\x00\xff"])
def test_a_manifest_that_cannot_be_read_is_refused_and_never_overwritten(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json.*nothing was changed"):
        Manifest(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_manifest_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match="directory"):
        Manifest(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/00000100"])
def test_a_history_without_its_manifest_is_refused(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="no manifest.json"):
        Manifest(tmp_path)


def test_a_manifest_that_cannot_be_written_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        Manifest(tmp_path / "file" / "run").start(0)


def test_a_file_is_replaced_at_once_and_stays_as_it_was_when_that_fails(tmp_path):
    path = tmp_path / "manifest.json"
    atomic.write(path, "older")
    with open(path) as reader:
        atomic.write(path, "old")
        assert reader.read() == "older"
    assert path.read_text() == "old"
    with pytest.raises(UnicodeEncodeError):
        atomic.write(path, "new \ud800")
    assert path.read_text() == "old"
    assert atomic.loads(atomic.dumps({"name": "new \ud800", "x": -math.inf})) == {"name": "new \ud800", "x": -math.inf}


def test_the_environment_is_json_and_says_versions_flags_and_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS_NOTE", "x")
    monkeypatch.setenv("SECRET_TOKEN", "never recorded")
    facts = provenance.environment()
    assert json.loads(atomic.dumps(facts)) == atomic.loads(atomic.dumps(facts))
    assert facts["packages"]["jax"] == jax.__version__ and facts["packages"]["numpy"] == np.__version__
    assert facts["flags"]["XLA_FLAGS_NOTE"] == "x" and "never recorded" not in atomic.dumps(facts)
    assert facts["devices"]["count"] == len(jax.devices())


# ----------------------------------------------------------------------------------------------------------- code


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def study(tmp_path):
    """A repository of somebody's own with one committed experiment file."""
    folder = tmp_path / "study"
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "mine.py").write_text("depth = 4\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder / "experiments" / "mine.py"


def test_the_code_is_known_by_its_commit_its_diff_and_its_untracked_sources(study):
    clean = source.code(study)["experiment"]
    assert len(clean["commit"]) == 40 and clean["dirty"] is False and clean["diff"] == ""
    study.write_text("depth = 5\n")
    (study.parent / "new.py").write_text("x = 1\n")
    dirty = source.code(study)["experiment"]
    assert dirty["commit"] == clean["commit"] and dirty["dirty"] is True
    assert "+depth = 5" in dirty["diff"] and dirty["diff_sha256"] == hashlib.sha256(dirty["diff"].encode()).hexdigest()
    assert dirty["untracked"]["experiments/new.py"]["text"] == "x = 1\n"


def test_the_recorded_diff_makes_the_code_again(study, tmp_path):
    study.write_text("depth = 5\n")
    recorded = source.code(study)["experiment"]
    git(study.parent, "checkout", "-q", ".")
    (tmp_path / "patch").write_text(recorded["diff"])
    git(study.parents[1], "apply", tmp_path / "patch")
    assert study.read_text() == "depth = 5\n"


def test_an_experiment_outside_any_repository_is_recorded_whole(tmp_path):
    file = tmp_path / "loose.py"
    file.write_text("width = 8\n")
    found = source.code(file)["experiment"]
    assert (found["commit"], found["text"]) == ("unknown", "width = 8\n")
    assert found["sha256"] == hashlib.sha256(b"width = 8\n").hexdigest()


def test_without_git_the_commit_is_unknown(study, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = source.code(study)
    assert found["experiment"]["commit"] == "unknown" and found["lmjax"]["commit"] == "unknown"


def test_a_repository_without_a_commit_is_unknown_and_recorded_by_its_files(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "mine.py").write_text("x = 2\n")
    found = source.code(tmp_path / "mine.py")["experiment"]
    assert found["commit"] == "unknown" and found["untracked"]["mine.py"]["text"] == "x = 2\n"


def test_an_installed_wheel_is_known_by_its_record_not_by_the_repository_around_it(study, tmp_path):
    site = study.parents[1] / "venv" / "site-packages"
    (site / "lmjax").mkdir(parents=True)
    for name in ("__init__.py", "source.py"):
        shutil.copy(REPOSITORY / "lmjax" / name, site / "lmjax")
    about = site / "lmjax-0.0.7.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lmjax\nVersion: 0.0.7\n")
    record = "lmjax/source.py,sha256=x,1\nlmjax-0.0.7.dist-info/METADATA,,\nlmjax-0.0.7.dist-info/RECORD,,\n"
    (about / "RECORD").write_text(record)
    out = python("import json; from lmjax import source; print(json.dumps(source.code()))", site, PYTHONPATH=str(site))
    found = json.loads(out)["lmjax"]
    sha = hashlib.sha256(record.encode()).hexdigest()
    package = source.package_sha256(site / "lmjax")
    assert found == {"commit": "unknown", "version": "0.0.7", "record_sha256": sha, "package_sha256": package}
    assert package != source.package_sha256(REPOSITORY / "lmjax")


# ----------------------------------------------------------------------------------------------- parameters, lock


class Reversed(NamedTuple):
    b: np.ndarray
    a: np.ndarray


def test_the_hash_of_parameters_sees_names_shapes_dtypes_and_bytes_and_not_the_order():
    w = np.arange(6, dtype=np.float32)
    same = [{"a": w, "b": w[:0]}, {"b": jnp.zeros(0), "a": jnp.arange(6.0)}, Reversed(b=w[:0], a=w)]
    assert len({params_sha256(tree) for tree in same}) == 1
    changed = w.copy()
    changed[3] = np.nextafter(changed[3], 9, dtype=np.float32)
    others = [
        {"a": changed, "b": w[:0]},
        {"a": w.reshape(2, 3), "b": w[:0]},
        {"a": w.view(np.int32), "b": w[:0]},
        {"a": w, "c": w[:0]},
        {"a": w[:3], "b": w[3:]},
        {"a": {"a": w}, "b": w[:0]},
    ]
    assert len({params_sha256(tree) for tree in [same[0], *others]}) == 7


def test_the_hash_of_parameters_is_pinned():
    tree = {"w": jnp.arange(3, dtype=jnp.float32), "n": jnp.ones((), jnp.bfloat16)}
    head = b'["n", "bfloat16", []]\n\x80\x3f' + b'["w", "float32", [3]]\n'
    bytes_of_w = bytes.fromhex("000000000000803f00000040")
    assert params_sha256(tree) == hashlib.sha256(head + bytes_of_w).hexdigest()


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lmjax.provenance import params_sha256
n = len(jax.devices())
mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,))
w = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
for spec in (P(), P("data"), P(None, "data")):
    print(params_sha256({"w": jax.device_put(w, NamedSharding(mesh, spec))}))
"""


def test_the_hash_of_parameters_does_not_depend_on_their_sharding(tmp_path):
    out = python(SHARDED, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    w = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    assert out.split() == [params_sha256({"w": w})] * 3


def test_only_one_process_trains_in_a_folder_and_a_killed_one_lets_go(tmp_path):
    code = "import sys; from lmjax.provenance import RunLock; RunLock(sys.argv[1]); print('locked'); input()"
    command, environment = [sys.executable, "-u", "-c", code, tmp_path], {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {child.pid} on .* is training in"):
            RunLock(tmp_path)
        child.kill()
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


ORPHAN = """
import os, signal, sys
from lmjax.provenance import RunLock
lock = RunLock(sys.argv[1])
if os.fork() == 0:  # a worker process that outlives the run
    os.kill(os.getppid(), 9)
    os.read(0, 1)
    os._exit(0)
signal.pause()
"""


def test_a_worker_that_outlives_the_run_does_not_hold_its_lock(tmp_path):
    command, environment = [sys.executable, "-c", ORPHAN, tmp_path], {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as run:
        assert run.wait(300) == -9
        RunLock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        RunLock(tmp_path / "file")


# -------------------------------------------------------------------------------------------------------- history


def test_the_history_reads_back_as_it_was_written_and_every_line_is_json(tmp_path):
    history = History(tmp_path / "metrics.jsonl")
    assert history.read() == []
    lines = [{"step": 1, "train/loss": 1 / 3}, {"step": 2, "train/loss": math.inf, "note": "ä\n"}]
    for line in lines:
        history.append(line)
    history.append({"step": 3, "train/loss": np.float32("nan"), "n": np.int64(7)})
    found = History(history.path).read()
    assert found[:2] == lines and math.isnan(found[2]["train/loss"]) and found[2]["n"] == 7
    lines = history.path.read_text().splitlines()
    strict = [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in lines]
    assert [line["step"] for line in strict] == [1, 2, 3] and strict[1]["train/loss"] == "Infinity"
    history.close()


def test_resuming_drops_the_lines_of_later_steps_and_goes_on_behind_the_others(tmp_path):
    history = History(tmp_path / "metrics.jsonl")
    for step in (10, 20, 20, 30, 40):
        history.append({"step": step})
    assert history.truncate_after(20) == 2
    history.append({"step": 30, "again": 1})
    history.close()
    assert [line["step"] for line in history.read()] == [10, 20, 20, 30]
    before = history.path.stat()
    assert history.truncate_after(30) == 0
    assert (history.path.stat().st_ino, history.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("tail, kept", [('{"step": 30, "trai', 2), ('{"step": 30}', 3), ("\x00\x00", 2)])
def test_a_torn_last_line_is_dropped_and_a_whole_one_without_its_newline_is_not(tail, kept, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n' + tail)
    history = History(path)
    assert len(history.read()) == kept
    history.truncate_after(99)
    history.append({"step": 40})
    history.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30][:kept] + [40]


@pytest.mark.parametrize("line", ['{"step": 20, "tr', "[1]", '{"loss": 1}', '{"step": "20"}', "\x00\x00", ""])
def test_any_other_line_that_cannot_be_read_stops_with_its_number_and_changes_nothing(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 10}}\n{line}\n{{"step": 30}}\n')
    before = path.read_bytes()
    for look in (History(path).read, lambda: History(path).truncate_after(10)):
        with pytest.raises(HistoryError, match=f"line 2 of {path}"):
            look()
    assert path.read_bytes() == before


def test_a_history_that_cannot_be_written_says_why():
    history = History("/dev/full")
    with pytest.raises(HistoryError, match="step 3.*No space left on device"):
        history.append({"step": 3})
    history.close()


def test_a_line_needs_its_step(tmp_path):
    with pytest.raises(ValueError, match="step"):
        History(tmp_path / "metrics.jsonl").append({"loss": 1.0})
