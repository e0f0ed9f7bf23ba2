"""Two runs compared: identical, or the first step that differs, and each cause of it named."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import optax
import pytest
import runs

from lmjax import atomic, chain
from lmjax.config import dumps, loads, update
from lmjax.environment import STRICT, strict
from lmjax.errors import UserError
from lmjax.provenance import environment as here
from lmjax.study import causes, reproduce
from lmjax.verbs import reproducing

TINY = {"steps": 4, "every.eval": 2, "every.save": 3, "data.length": 16, "model.depth": 1, "model.width": 16,
        "model.heads": 1, "optim.schedule.warmup": 1}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(text, tmp_path_factory, kept_programs):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert runs.train(text, folder, TINY) == 0
    return folder


def compared(a, b):
    return reproduce.compare(causes.evidence(a), causes.evidence(b))


def copied(run, folder, *, facts=(), step=None, what="loss"):
    """A copy of a run whose manifest says other `facts`, and whose chain is another from `step` on."""
    shutil.copytree(run, folder)
    manifest = atomic.loads((run / "manifest.json").read_text()) | dict(facts)
    for name in {"devices", "host"} & set(facts):
        manifest["sessions"] = [session | {name: facts[name]} for session in manifest["sessions"]]
    lines, before = chain.read(run), chain.FIRST
    for line in lines:
        if step is not None and line["step"] >= step and what in line:
            line[what] = f"{int(line[what], 16) ^ 1:0{len(line[what])}x}"
        line["head"] = before = chain.head(before, line)
    (folder / "chain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if step is not None:
        manifest["result"] |= {"params_sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def changed(manifest, path, value):
    """{section: the section with one leaf changed} of a manifest."""
    section, name = path.split(".", 1)
    return {section: manifest[section] | {name: value}}


@pytest.mark.slow
def test_the_same_run_again_is_identical(run, text, tmp_path):
    assert runs.train(text, tmp_path / "again", TINY) == 0
    found = compared(run, tmp_path / "again")
    assert found.parted is None and found.whole and found.steps == 4 and not found.why and not found.besides
    assert found.lines()[0].startswith("identical: 4 steps of")


@pytest.mark.slow
def test_another_config_is_named_by_its_leaf(run, text, tmp_path):
    assert runs.train(text, tmp_path / "other", TINY | {"optim.learning_rate": 0.01}) == 0
    found = compared(run, tmp_path / "other")
    assert (found.parted.what, found.why[0].cause) == ("loss", "config") and found.parted.step > 1
    assert "optim.learning_rate was 0.003, is 0.01" in found.why[0].text


@pytest.mark.slow
def test_changed_text_is_named_as_the_data(run, text, tmp_path):
    try:
        original = (text / "text.jsonl").read_text()
        (text / "text.jsonl").write_text(original.replace("the", "thy"))
        assert runs.train(text, tmp_path / "other", TINY) == 0
    finally:
        (text / "text.jsonl").write_text(original)
    found = compared(run, tmp_path / "other")
    assert found.parted == (1, "batch") and [one.cause for one in found.why] == ["data"]


@pytest.mark.slow
def test_another_program_from_the_same_files_is_named_as_the_hlo(run, text, tmp_path, monkeypatch):
    adam = optax.scale_by_adam
    monkeypatch.setattr(optax, "scale_by_adam", lambda b1, b2, eps, **rest: adam(b1, b2, 1e-3, **rest))
    assert runs.train(text, tmp_path / "other", TINY) == 0
    found = compared(run, tmp_path / "other")
    assert found.parted and [one.cause for one in found.why] == ["HLO"]


PERTURBED = {
    "tokenizer": ("data.tokenizer", "feed", 1, "batch"),
    "code": ("sources.step.py", "feed", 2, "loss"),
    "library": ("packages.jaxlib", "0.0.1", 1, "loss"),
    "XLA flags": ("flags.XLA_FLAGS", "--xla_cpu_enable_fast_math=true", 2, "loss"),
    "HLO": ("program.16", "feed", 1, "loss"),
    "device kind": ("devices.kind", "TPU v5e", 2, "loss"),
}


@pytest.mark.parametrize("cause", PERTURBED)
def test_a_cause_is_named_with_what_it_was_and_is(run, tmp_path, cause):
    path, value, step, what = PERTURBED[cause]
    manifest = runs.manifest(run)
    other = copied(run, tmp_path / "other", facts=changed(manifest, path, value), step=step, what=what)
    found = compared(run, other)
    assert found.parted == (step, what)
    assert [one.cause for one in found.why] == [cause] and not found.besides
    without = compared(run, copied(run, tmp_path / "same", facts=changed(manifest, path, value)))
    assert without.parted is None and [one.cause for one in without.besides] == [cause]


def test_what_cannot_have_made_the_difference_is_not_blamed(run, tmp_path):
    manifest = runs.manifest(run)
    facts = changed(manifest, "flags.XLA_FLAGS", "--xla_cpu_enable_fast_math=true") | changed(
        manifest, "packages.numpy", "0.1"
    )
    rows = compared(run, copied(run, tmp_path / "rows", facts=facts, step=1, what="batch"))
    assert [one.cause for one in rows.why] == ["library"] and [one.cause for one in rows.besides] == ["XLA flags"]
    sums = compared(run, copied(run, tmp_path / "sums", facts=facts, step=1))
    assert [one.cause for one in sums.why] == ["XLA flags", "library"]  # below the same program


def lines(folder):
    return [json.loads(line) for line in (folder / "chain.jsonl").read_text().splitlines()]


def test_every_step_has_a_line_with_its_loss_and_parameters_where_the_config_asks(run):
    found = lines(run)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert [line["step"] for line in found if "params" in line] == [2, 3, 4]
    assert [chain.loss(line) for line in found] == pytest.approx(runs.losses(run), rel=1e-6)
    assert len({line["batch"] for line in found}) == 4


def test_the_manifest_seals_the_head_of_the_chain_and_the_metrics(run):
    result = runs.manifest(run)["result"]
    assert result["chain"] == lines(run)[-1]["head"]
    assert lines(run)[-1]["params"] == result["params_sha256"]
    assert len(result["metrics_sha256"]) == 64


def test_a_run_that_was_stopped_is_identical_to_one_that_was_not(text, run, tmp_path):
    assert runs.train(text, tmp_path / "broken", TINY, "--until=1") == 75
    assert runs.train(text, tmp_path / "broken", TINY) == 0
    assert (tmp_path / "broken" / "chain.jsonl").read_bytes() == (run / "chain.jsonl").read_bytes()
    assert compared(run, tmp_path / "broken").parted is None


def test_without_a_cause_it_says_that_the_computation_does_not_repeat_itself(run, tmp_path):
    found = compared(run, copied(run, tmp_path / "other", step=3, what="params"))
    assert found.parted == (3, "params") and not found.why
    assert "does not repeat itself" in "\n".join(found.lines())


def test_commits_that_leave_the_imported_files_alone_are_no_difference(run, tmp_path):
    code = runs.manifest(run)["code"]
    facts = {"code": code | {"lmjax": code["lmjax"] | {"commit": "f" * 40, "diff_sha256": "f"}}}
    assert not compared(run, copied(run, tmp_path / "other", facts=facts)).besides


def test_a_run_that_began_from_a_config_json_has_no_other_experiment_file(run, tmp_path):
    code = runs.manifest(run)["code"]
    file = {"commit": "unknown", "file": "/a/experiments/mini.py", "sha256": "1" * 64}
    record = {"commit": "unknown", "file": "/a/runs/mini/base/seed0/config.json", "sha256": "2" * 64}
    first, again, edited = (
        copied(run, tmp_path / name, facts={"code": code | {"experiment": own}})
        for name, own in (("first", file), ("again", record), ("edited", file | {"sha256": "3" * 64}))
    )
    assert not compared(first, again).besides
    assert [one.cause for one in compared(first, edited).besides] == ["code"]


def test_a_session_that_went_on_with_other_packages_counts_where_it_began_before(run, tmp_path):
    sessions = runs.manifest(run)["sessions"]
    later = sessions[0] | {"from_step": 2, "changed": {"packages": {"jax": "0.0.1"}}}
    other = copied(run, tmp_path / "late", facts={"sessions": [*sessions, later]}, step=3)
    assert [one.cause for one in compared(run, other).why] == ["library"]
    other = copied(run, tmp_path / "early", facts={"sessions": [*sessions, later]}, step=2)
    assert not compared(run, other).why


def test_a_config_edited_after_its_run_is_named(run, tmp_path):
    other = copied(run, tmp_path / "other", step=2)
    config = update(loads((run / "config.json").read_text()), {"optim.learning_rate": 0.5})
    (other / "config.json").write_text(dumps(config))
    text = compared(run, other).why[0].text
    assert "optim.learning_rate" in text or "was changed after the run" in text
    assert any("was changed after the run" in one.text for one in compared(run, other).why)


def test_an_altered_chain_is_refused(run, tmp_path):
    other = copied(run, tmp_path / "other")
    path = other / "chain.jsonl"
    path.write_text(path.read_text().replace(chain.read(run)[1]["loss"], "3f800000"))
    with pytest.raises(UserError, match="step 2"):
        causes.evidence(other)


def test_a_run_is_made_again_under_its_own_flags_and_cpus(run, tmp_path):
    manifest = runs.manifest(run)
    found = reproduce.environment(manifest | {"flags": {"XLA_FLAGS": "--a=1", "LMJAX_CACHE": "/there"}},
                                  {"XLA_FLAGS": "--b=2", "LMJAX_CACHE": "/here", "HOME": "/root"})  # fmt: skip
    assert found == {"XLA_FLAGS": "--a=1", "LMJAX_CACHE": "/here", "HOME": "/root"}
    usable = here()["host"]["usable_cpus"]
    assert reproduce.cores(manifest | {"host": {"usable_cpus": usable}}) is None
    if usable > 1:
        assert len(reproduce.cores(manifest | {"host": {"usable_cpus": usable - 1}})) == usable - 1


def test_the_recorded_commit_is_put_back_with_its_changes(tmp_path):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=runs.ROOT, capture_output=True, text=True)
    if head.returncode:
        pytest.skip("this is no clone")
    diff = "diff --git a/NEW.txt b/NEW.txt\nnew file mode 100644\n--- /dev/null\n+++ b/NEW.txt\n@@ -0,0 +1 @@\n+new\n"
    code = {"commit": head.stdout.strip(), "diff": diff, "untracked": {"mine.py": {"text": "x = 1\n"}}}

    def of(code):
        return causes.Evidence(tmp_path / "bundle/rope/seed0", None, {"code": {"lmjax": code}}, [])

    home = reproduce.checkout(of(code), tmp_path)
    assert (home / "NEW.txt").read_text() == "new\n" and (home / "mine.py").read_text() == "x = 1\n"
    assert (home / "lmjax" / "run.py").exists()
    with pytest.raises(UserError, match="is not in"):
        reproduce.checkout(of(code | {"commit": "f" * 40}), tmp_path)
    (tmp_path / "bundle/code").mkdir(parents=True)
    with tarfile.open(tmp_path / "bundle/code" / f"{'f' * 40}.tar", "w") as packed:
        packed.add(home / "NEW.txt", "OLD.txt")
    old = reproduce.checkout(of({"commit": "f" * 40}), tmp_path / "old")
    assert (old / "OLD.txt").read_text() == "new\n"  # a bundle has the code with it


def test_a_run_is_made_again_where_the_paths_in_its_config_lead_somewhere(run, tmp_path, monkeypatch):
    before = causes.evidence(run)
    assert before.manifest["cwd"] == os.getcwd()
    before.config.unlock().data.source = "my/text"
    before.manifest["cwd"] = str(tmp_path)
    assert reproduce.place_of(before) == Path(".")  # it is nowhere: the error names this folder
    (tmp_path / "my/text").mkdir(parents=True)
    assert reproduce.place_of(before) == tmp_path
    (tmp_path / "here/my/text").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert reproduce.place_of(before) == Path(".")


def test_nothing_is_added_to_a_bundle(tmp_path):
    one = tmp_path / "rope" / "seed0"
    assert reproducing.again(one) == tmp_path / "rope" / "seed0-again"
    (tmp_path / "bundle.json").write_text("{}")
    assert reproducing.again(one) == Path("runs/rope-seed0-again")


def elsewhere(text, folder, home=runs.ROOT, **env):
    """Train the run in a process of its own, by the lmjax in the folder `home`."""
    words = [sys.executable, "-c", reproduce.START, str(home), *runs.arguments(text, folder, TINY)]
    done = subprocess.run(words, cwd=home, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_another_flag_of_xla_that_changes_numbers_is_named(run, text, tmp_path):
    flags = "--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_min_max=true"
    found = compared(run, elsewhere(text, tmp_path / "other", XLA_FLAGS=flags))
    causes = found.why if found.parted else found.besides
    assert causes[0].cause == "XLA flags" and "xla_cpu_enable_fast_math" in causes[0].text


@pytest.mark.slow
def test_a_changed_file_of_lmjax_is_named(run, text, tmp_path):
    home = reproduce.checkout(causes.evidence(run), tmp_path / "code")
    file = home / "lmjax" / "optim" / "optimizers.py"
    changed = file.read_text().replace('h["eps"]', '(100 * h["eps"])')
    assert changed != file.read_text()
    file.write_text(changed)
    found = compared(run, elsewhere(text, tmp_path / "other", home))
    assert found.parted and found.why[0].cause == "code" and "optim/optimizers.py" in found.why[0].text
    assert "HLO" in [one.cause for one in found.why]


@pytest.mark.slow
def test_reproduce_trains_again_in_another_process_and_is_identical(run, capfd):
    assert runs.main(["reproduce", str(run)]) == 0
    assert "identical: 4 steps" in capfd.readouterr().out
    assert runs.main(["reproduce", str(run)]) == 2  # it is there already


@pytest.mark.slow
def test_the_recorded_code_makes_a_run_again_after_commits_that_changed_what_it_computes(tmp_path):
    """In a clone: the run had an uncommitted change and a relative path; then its code was committed otherwise."""
    clone, git = tmp_path / "clone", ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "clone", "-q", str(runs.ROOT), str(clone)], check=True)
    env = {**os.environ, "PYTHONPATH": str(clone)}
    runs.write_text(clone / "my" / "text")

    def lmjax(*words, cwd=clone):
        done = subprocess.run([sys.executable, "-m", "lmjax", *words], cwd=cwd, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def edit(old, new):
        file = clone / "lmjax" / "optim" / "optimizers.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    edit('h["eps"]', '(10 * h["eps"])')
    code, said = lmjax(*runs.arguments("my/text", "runs/one", TINY))
    assert code == 0, said
    edit('(10 * h["eps"])', '(100 * h["eps"])')
    subprocess.run([*git, "commit", "-q", "-a", "-m", "another epsilon"], cwd=clone, check=True)
    code, said = lmjax("reproduce", str(clone / "runs/one"), cwd=tmp_path)
    assert code == 1 and "why    code: lmjax/optim/optimizers.py" in said and f"beginning in {clone}" in said
    code, said = lmjax("reproduce", "runs/one", "--code=recorded", "--workdir=runs/two")
    assert code == 0 and "identical: 4 steps" in said, said


def test_strict_determinism_adds_its_flags_to_those_that_are_there_once():
    found = strict("--xla_a=1 --xla_gpu_autotune_level=4")
    assert found.split() == ["--xla_a=1", *STRICT] == strict(found).split()


def test_the_step_times_of_both_runs_say_what_the_other_way_costs(run, tmp_path):
    other = copied(run, tmp_path / "other")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "perf/step_seconds" in line:
            line["perf/step_seconds"] = 2 * reproduce.step_seconds(run)
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compared(run, other)
    assert found.facts()["step_seconds"][1] == 2 * found.facts()["step_seconds"][0]
    assert "+100%" in "\n".join(found.lines())
