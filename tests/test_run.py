"""Runs through the command line: exactly resumable, on any mesh, and with provenance."""

import json
import re
import shutil
import signal
import socket
import sys

import jax
import numpy as np
import pytest
import runs

from lmjax.__main__ import main


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """A run of 12 steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert runs.train(text, folder) == 0
    return folder


def same(folder, whole):
    assert runs.history(folder) == runs.history(whole)
    assert runs.parameters(folder) == runs.parameters(whole)


def test_a_run_learns_and_says_what_made_it(whole):
    losses, facts = runs.losses(whole), runs.manifest(whole)
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.5
    assert facts["status"] == "completed" and facts["result"]["step"] == 12
    assert facts["result"]["metrics"]["valid/nll"] == runs.history(whole)[-1]["valid/nll"]
    for name in ("config_hash", "seed", "packages", "flags", "devices", "code", "overrides", "sessions"):
        assert name in facts, name
    assert len(facts["data"]["fingerprint"]) == 64 and facts["data"]["tokenizer"]


def test_killed_at_any_moment_and_started_again_it_is_the_same_run_bit_for_bit(text, whole, tmp_path):
    words = runs.arguments(text, tmp_path / "run")
    for lines in (1, 5, 9):  # before the first checkpoint, after it, and across the epoch's end
        process = runs.start(words)
        runs.wait_for_line(tmp_path / "run", lines, process)
        process.kill()
        runs.finish(process)
    code, out, err = runs.finish(runs.start(words))
    assert code == 0, err
    same(tmp_path / "run", whole)
    account = json.loads((tmp_path / "run/goodput.json").read_text())
    assert account["steps"] - account["lost_steps"] == 12 and len(account["sessions"]) == 4
    assert f"goodput {account['goodput']:.1%}" in out and 0 < account["goodput"] < 1
    statuses = [session["status"] for session in runs.manifest(tmp_path / "run")["sessions"]]
    assert len(statuses) == 4 and set(statuses[:-1]) == {"killed"}


def test_sigterm_saves_and_exits_75_and_the_run_goes_on_the_same_with_microbatches(text, tmp_path):
    changes = {"optim.microbatches": 2, "model.dropout": 0.1, "optim.ema": 0.9}
    assert runs.train(text, tmp_path / "whole", changes) == 0
    words = runs.arguments(text, tmp_path / "run", changes)
    process = runs.start(words)
    runs.wait_for_line(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = runs.finish(process)
    assert code == 75 and "SIGTERM" in out, err
    facts = runs.manifest(tmp_path / "run")
    assert facts["status"] == "preempted" and (tmp_path / "run/checkpoints" / f"{facts['result']['step']:08d}").is_dir()
    assert runs.train(text, tmp_path / "run", changes) == 0
    same(tmp_path / "run", tmp_path / "whole")


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(text, whole, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    facts = runs.manifest(folder) | {"status": "running"}
    (folder / "manifest.json").write_text(json.dumps(facts))
    newest = next(path for path in (folder / "checkpoints/00000012").rglob("*") if path.stat().st_size > 5000)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert runs.train(text, folder) == 0
    out, err = capfd.readouterr()
    assert "goes on from step 9" in out and newest.name in err
    same(folder, whole)


def test_when_no_checkpoint_can_be_read_it_stops_and_writes_over_nothing(text, whole, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "manifest.json").write_text(json.dumps(runs.manifest(folder) | {"status": "running"}))
    for seal in folder.glob("checkpoints/*/seal.json"):
        seal.write_text("{}")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert runs.train(text, folder) == 2
    assert "checkpoint" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_is_left_as_it_is(text, whole, capfd):
    before = (whole / "manifest.json").read_bytes()
    assert runs.train(text, whole) == 0
    assert "nothing to do" in capfd.readouterr().out and (whole / "manifest.json").read_bytes() == before


def test_a_changed_config_is_refused_by_name_unless_allowed(text, whole, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    assert runs.train(text, folder, {"steps": 15}) == 2
    assert "steps: was 12, is 15" in capfd.readouterr().err
    assert runs.train(text, folder, {"steps": 15}, "--allow-config-change") == 0
    assert runs.losses(folder)[:12] == runs.losses(whole) and len(runs.losses(folder)) == 15


def test_text_that_changed_under_a_run_is_refused(text, whole, tmp_path, capfd):
    folder, other = tmp_path / "run", tmp_path / "text"
    shutil.copytree(whole, folder)
    shutil.copytree(text, other)
    with open(other / "text.jsonl", "a") as file:
        file.write('{"text": "one more document"}\n')
    (folder / "manifest.json").write_text(json.dumps(runs.manifest(folder) | {"status": "running"}))
    config = json.loads((folder / "config.json").read_text())
    config["data"]["source"] = str(other)
    (folder / "config.json").write_text(json.dumps(config))
    assert runs.train(other, folder) == 2
    assert "data is not what this run began with" in capfd.readouterr().err


def test_a_folder_that_is_no_run_is_not_written_into(text, tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert runs.train(text, tmp_path) == 2
    assert "thesis.tex" in capfd.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert runs.train(text, "/proc/lmjax") == 2
    assert "/proc/lmjax" in capfd.readouterr().err


def test_steps_that_are_not_finite_are_skipped_and_too_many_end_the_run(text, tmp_path, capfd):
    changes = {"optim.learning_rate": 1e38, "optim.clip.by": "none", "optim.skip.stop_after": 3, "optim.name": "sgd"}
    assert runs.train(text, tmp_path / "run", changes) == 1
    err = capfd.readouterr().err
    assert "3 steps in a row" in err and "Traceback" not in err
    assert runs.manifest(tmp_path / "run")["status"] == "failed"


def test_patience_stops_early_and_the_best_checkpoint_is_kept(text, tmp_path, capfd):
    changes = {"optim.learning_rate": 0.5, "optim.schedule.name": "constant", "every.eval": 1, "every.save": 100,
               "every.keep": 1, "eval.patience": 2, "steps": 40}  # fmt: skip
    assert runs.train(text, tmp_path / "run", changes) == 0
    assert "stopped early" in capfd.readouterr().out
    values = {line["step"]: line["valid/nll"] for line in runs.history(tmp_path / "run") if "valid/nll" in line}
    best, last = min(values, key=values.get), max(values)
    assert last == best + 2 < 40
    kept = {int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {best, last}
    assert main(["eval", str(tmp_path / "run"), "--best"]) == 0
    assert f"step {best}" in capfd.readouterr().out


def test_evaluation_of_a_run_does_not_depend_on_its_batch_size_and_generation_is_repeatable(whole, capfd):
    shown = []
    for batch in (1, 3, 8):
        assert main(["eval", str(whole), f"--batch={batch}"]) == 0
        line = capfd.readouterr().out
        assert "bits_per_byte" in line
        shown.append([float(number) for number in re.findall(r"\d+\.\d+", line)])
    np.testing.assert_allclose(shown, [shown[0]] * 3, rtol=1e-5, atol=1e-4)  # what is shown has four digits
    texts = []
    for seed in (1, 1, 2):
        assert main(["generate", str(whole), "--prompt=the ", "--length=24", f"--seed={seed}"]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("the ")


MESHES = {
    "data x8": {"layout.mesh.data": 8},
    "fsdp x8": {"layout.mesh.data": 1, "layout.mesh.fsdp": 8},
    "fsdp x4, tensor x2": {"layout.mesh.data": 1, "layout.mesh.fsdp": 4, "layout.mesh.tensor": 2},
}


@pytest.fixture(scope="module")
def of_8_rows(text, tmp_path_factory):
    """An undisturbed run on one device with a batch that 8 can share."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert runs.train(text, folder, {"batch": 8}) == 0
    return folder


@pytest.mark.parametrize(
    "mesh", [pytest.param(name, marks=pytest.mark.slow if "tensor" not in name else ()) for name in MESHES]
)
def test_a_run_on_8_devices_agrees_with_one_device_and_goes_on_with_1_and_with_4(mesh, text, of_8_rows, tmp_path):
    changes = {"batch": 8}
    words = runs.arguments(text, tmp_path / "run", {**changes, **MESHES[mesh]})
    process = runs.start(words, devices=8)
    runs.wait_for_line(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGTERM)
    code, _, err = runs.finish(process)
    assert code == 75, err
    shutil.copytree(tmp_path / "run", tmp_path / "four")
    assert runs.train(text, tmp_path / "run", changes) == 0
    code, _, err = runs.finish(runs.start(runs.arguments(text, tmp_path / "four", changes), devices=4))
    assert code == 0, err
    for folder in ("run", "four"):
        np.testing.assert_allclose(runs.losses(tmp_path / folder), runs.losses(of_8_rows), rtol=2e-5)


def test_two_processes_that_share_the_parameters_train_the_losses_of_one_and_sigterm_to_one_saves_both(
    text, whole, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = runs.arguments(
        text, tmp_path / "run", {"layout.mesh.data": 1, "layout.mesh.fsdp": 2, "every.histograms": 6}
    )

    def both(port):
        env = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
        return [runs.start(words, JAX_PROCESS_ID=str(i), **env) for i in range(2)]

    processes = both(port)
    runs.wait_for_line(tmp_path / "run", 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    for code, out, err in map(runs.finish, processes):
        assert code == 75, out + err
    for code, out, err in map(runs.finish, both(port + 1)):
        assert code == 0, out + err
    np.testing.assert_allclose(runs.losses(tmp_path / "run"), runs.losses(whole), rtol=2e-5)
    assert runs.manifest(tmp_path / "run")["process_count"] == 2
    assert "gradients/blocks/attention/query" in runs.events(tmp_path / "run").Tags()["histograms"]


def test_nothing_compiles_after_the_first_evaluation_and_tensorflow_is_never_imported(text, tmp_path):
    compiled = []

    def heard(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            path = tmp_path / "run/metrics.jsonl"
            compiled.append(path.read_text().count("\n") if path.exists() else 0)

    jax.monitoring.register_event_duration_secs_listener(heard)
    assert runs.train(text, tmp_path / "run", {"every.eval": 2}) == 0
    assert compiled and max(compiled) <= 3  # two steps and the first evaluation's line
    assert "tensorflow" not in sys.modules


def test_a_profile_and_histograms_are_written_when_asked_for(text, tmp_path):
    assert runs.train(text, tmp_path / "run", {"every.histograms": 6, "steps": 6}, "--profile=2:4") == 0
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))
    events = runs.events(tmp_path / "run")
    assert "gradients/blocks/attention/query" in events.Tags()["histograms"]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 7))
