"""Tables of real runs: what is in them, and what they are refused for."""

import json
import shutil
from dataclasses import replace

import pytest

from configs import lm
from lmjax import seal
from lmjax.__main__ import main
from lmjax.atomic import dumps, loads
from lmjax.config import config_hash, update
from lmjax.errors import UserError
from lmjax.experiment import Experiment, register
from lmjax.smoke import smoke
from lmjax.study import records, statistics
from lmjax.study.checks import KINDS, declared, names_own_parts
from lmjax.study.planned import needed
from lmjax.study.table import table
from tests import runs, sweeps

SOURCE = runs.ROOT / "configs" / "lm.py"
SLOW = {**runs.SMALL, "steps": 3, "model.depth": 1, "every.eval": 3, "every.save": 3, "optim.schedule.warmup": 1}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return str(runs.write_text(tmp_path_factory.mktemp("study") / "text"))


@pytest.fixture(scope="module")
def study(text):
    return sweeps.orders(text)


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    return sweeps.carried_out(study, tmp_path_factory.mktemp("workspace"), SOURCE)


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of the workspace, to spoil."""
    return shutil.copytree(finished, tmp_path / "copy")


def edit(folder, change, name="manifest.json"):
    """Change a JSON file of a run as somebody with an editor would, who gives a manifest the hash that it then has."""
    facts = loads((folder / name).read_text())
    change(facts)
    (folder / name).write_text(dumps(seal.stamped(facts) if name == "manifest.json" else facts, indent=1))


def reconfigure(folder, **changes):
    """A run whose config says otherwise, and whose manifest agrees with it."""
    text = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        section, _, leaf = path.rpartition("__")
        (text[section] if section else text)[leaf] = value
    (folder / "config.json").write_text(json.dumps(text))
    from lmjax.config import loads as config_loads

    sha = config_hash(config_loads(json.dumps(text)))
    edit(folder, lambda facts: facts.update(config_hash=sha))


def refused(study, workspace, *words, **options):
    """The message with which a table is refused; it has all of the words."""
    with pytest.raises(UserError) as caught:
        table(study, records.collect(study, workspace), **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


def test_a_table_has_every_variant_with_its_seeds_and_pairs(study, finished):
    made = table(study, records.collect(study, finished))
    assert made.metrics == ("valid/nll",) and made.marks == ()
    assert [(row.variant, row.seeds) for row in made.rows] == [("base", (0, 1)), ("short", (0, 1))]
    written = {}
    for row in made.rows:
        paths = [finished / row.variant / f"seed{seed}" / "metrics.jsonl" for seed in row.seeds]
        written[row.variant] = tuple(json.loads(path.read_text().splitlines()[-1])["valid/nll"] for path in paths)
        assert row.cells[0].values == written[row.variant]
    base, short = (row.cells[0] for row in made.rows)
    assert base.mean.value == pytest.approx(written["base"][0]) and base.difference is None
    assert short.difference.value == pytest.approx(written["short"][0] - written["base"][0]) and short.pairs == 2
    assert [row.changes for row in made.rows] == [(), (("model.order", 8, 2),)]
    assert "Nothing is random in base and short" in " ".join(made.notes)
    assert "short: valid/nll is the same with every seed" in " ".join(made.notes)


@pytest.mark.slow
def test_the_notes_say_what_varied_between_trained_runs(text, tmp_path):
    base = update(lm.tiny(), {**SLOW, "data.source": text})
    variants = {"fast": {"optim.learning_rate": 0.01}, "longer": {"data.length": 40}}
    trained = Experiment("rates", "Does a higher rate learn faster?", lambda: base, variants, (0, 1))
    made = table(trained, records.collect(trained, sweeps.carried_out(trained, tmp_path, SOURCE)))
    notes = " ".join(made.notes)
    assert "From seed to seed the initial parameters and the order of the training data vary." in notes
    assert "gave every variant the same batches" in notes and "except longer, whose batches differ" in notes
    assert "longer changes data.length, and with it what is evaluated" in notes
    assert "evaluation sample does not vary: the whole validation split" in notes
    for row in made.rows:
        assert row.cells[0].mean.low < row.cells[0].mean.value < row.cells[0].mean.high
    (tmp_path / "fast" / "seed1" / "chain.jsonl").write_bytes(
        (tmp_path / "fast" / "seed0" / "chain.jsonl").read_bytes()
    )
    refused(trained, tmp_path, "fast/seed1/chain.jsonl is not the chain")


def test_a_table_is_the_same_whatever_the_order_of_its_records(study, finished):
    found = records.collect(study, finished)
    assert repr(table(study, found)) == repr(table(study, found[::-1]))


def test_edited_metrics_are_caught(study, workspace):
    path = workspace / "short" / "seed1" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    last = {**json.loads(lines[-1]), "valid/nll": 0.5}
    path.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    refused(study, workspace, "short/seed1", "altered by hand", "valid/nll")


def test_an_edited_result_is_caught(study, workspace):
    edit(workspace / "base" / "seed0", lambda facts: facts["result"]["metrics"].update({"valid/nll": 9.0}))
    refused(study, workspace, "base/seed0", "altered by hand", "9.0")


def test_an_edited_curve_is_caught(study, workspace):
    """Not its end, which the manifest repeats, but its middle."""
    path = workspace / "base" / "seed1" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), "train/loss": 1.0}), *lines[1:]]) + "\n")
    refused(study, workspace, "base/seed1", "SHA-256")


@pytest.mark.parametrize("name", ["parameters", "wall_seconds", "seed", "code", "a new one"])
def test_a_manifest_that_was_edited_is_caught(study, workspace, name):
    path = workspace / "base" / "seed1" / "manifest.json"
    path.write_text(dumps(loads(path.read_text()) | {name: 7}))
    refused(study, workspace, "base/seed1/manifest.json was altered by hand")


def test_a_table_says_which_variants_have_no_run(study, workspace):
    assert "Not in this table" not in " ".join(table(study, records.collect(study, workspace)).notes)
    shutil.rmtree(workspace / "short")
    notes = table(study, records.collect(study, workspace)).notes
    assert "Not in this table, for no finished run of it is here: short." in notes


def test_an_edited_config_is_caught(study, workspace):
    edit(workspace / "short" / "seed0", lambda facts: facts["model"].update(order=4), "config.json")
    refused(study, workspace, "short/seed0", "config.json was altered")


def test_a_hidden_second_change_is_caught(study, workspace):
    for seed in study.seeds:
        reconfigure(workspace / "short" / f"seed{seed}", batch=9, optim__weight_decay=0.5)
    refused(
        study,
        workspace,
        "short/seed0",
        "short/seed1",
        "hidden second change",
        "optim.weight_decay from",
        "batch from 32 to 9",
    )


def test_a_second_change_that_is_declared_is_none(study, workspace):
    for seed in study.seeds:
        reconfigure(workspace / "short" / f"seed{seed}", optim__weight_decay=0.5)
    variants = {"short": {**study.variants["short"], "optim.weight_decay": 0.5}}
    declared = Experiment(
        study.name, study.question, study.base, variants, study.seeds, factors={"short": ("model", "optim")}
    )
    assert table(declared, records.collect(declared, workspace)).marks == ()
    refused(study, workspace, "short/seed0", "hidden second change")


def test_a_run_without_what_its_variant_declares_is_caught(study, workspace):
    reconfigure(workspace / "short" / "seed1", model__order=3)
    refused(study, workspace, "short/seed1", "model.order=3", "model.order=2")


def test_a_duplicated_seed_is_caught(study, workspace):
    folder = shutil.copytree(workspace / "base" / "seed0", workspace / "base" / "seed2")
    refused(study, workspace, "base/seed2", "seed=0, not 2")
    reconfigure(folder, seed=2)
    refused(study, workspace, "base/seed2 is a copy of", "base/seed0")
    with pytest.raises(UserError, match="duplicated seed"):
        again = records.read(workspace / "base" / "seed0")
        table(study, [again, again._replace(folder=folder)])


def test_a_run_from_another_commit_is_caught(study, workspace):
    def older(facts):
        facts["code"]["lmjax"] = {"commit": "0123456789abcdef", "dirty": False, "diff_sha256": ""}

    edit(workspace / "short" / "seed0", older)
    refused(study, workspace, "mixed commits", "short/seed0", "0123456789ab")


def test_a_run_that_another_commit_went_on_with_is_caught(study, workspace):
    later = {"code": {"lmjax": {"commit": "fedcba9876543210", "dirty": False}}}
    edit(workspace / "short" / "seed0", lambda facts: facts["sessions"][0]["changed"].update(later))
    refused(study, workspace, "mixed commits", "short/seed0", "fedcba987654")


def code(commit, package):
    return {"code": {"lmjax": {"commit": commit * 40, "dirty": False, "package_sha256": package * 64}}}


def test_another_commit_and_another_lmjax_of_one_commit_are_caught_and_other_edits_are_not(study, workspace):
    for folder in workspace.glob("*/seed*"):
        edit(folder, lambda facts: facts.update(code("a", "1")))
    changed = workspace / "short" / "seed0"
    edit(changed, lambda facts: facts["code"]["lmjax"].update(dirty=True, diff_sha256="e" * 64))
    assert table(study, records.collect(study, workspace)).marks == ()  # of a README, or of the study's own file
    edit(changed, lambda facts: facts["code"]["lmjax"].update(package_sha256="2" * 64))
    refused(study, workspace, "mixed commits", "short/seed0", "a" * 12 + "+", "--mixed-commits")
    edit(changed, lambda facts: facts.update(code("b", "1")))
    refused(study, workspace, "short/seed0", "b" * 12, "the package lmjax is the same in all", "--mixed-commits")
    made = table(study, records.collect(study, workspace), insist=("code",))
    assert len(made.marks) == 1 and made.rows[1].marks == made.marks and made.rows[0].marks == ()
    edit(changed, lambda facts: facts["data"].update(fingerprint="beef" * 16))
    refused(study, workspace, "beefbeef", "--insist", insist=("code",))


def test_code_of_ones_own_that_a_config_names_must_be_of_one_commit(study, workspace):
    for number, folder in enumerate(sorted(workspace.glob("*/seed*"))):
        reconfigure(folder, objective__kind="experiments.mine:loss")
        edit(folder, lambda facts, number=number: facts.update(code("ab"[number == 0], "1")))
    mine = replace(study, base=lambda: update(study.base(), {"objective.kind": "experiments.mine:loss"}))
    refused(mine, workspace, "mixed commits", "base/seed0", "b" * 12)
    for leaf, own in (({"data.augment.text": ("mine:noise",)}, True), ({"data.source": "mine:texts"}, False)):
        assert names_own_parts(update(lm.tiny(), leaf)) == own


def test_runs_from_before_the_base_was_edited_are_caught(study, workspace):
    edited = replace(study, base=lambda: update(study.base(), {"data.length": 48}))
    refused(edited, workspace, "orders has changed since", "base/seed0", "data.length=32 (the study says 48)")
    for folder in workspace.glob("*/seed*"):
        edit(folder, lambda facts: facts.update(overrides=["data.length=32", "seed=9"]))
    assert table(edited, records.collect(edited, workspace)).marks == ()  # the command line had it so


def test_runs_of_a_smoke_sweep_are_runs_of_their_study(study, finished):
    long = replace(study, base=lambda: update(study.base(), {"steps": 30}), variants={"short": {"steps": 20}})
    ran = records.read(finished / "short" / "seed0")
    for variant in long.names():
        small = smoke(long.config(variant))
        assert declared(ran._replace(config=update(small, {"seed": 1})), long.config(variant)) == (small, [])


def test_another_evaluation_set_is_caught(study, workspace):
    edit(workspace / "base" / "seed1", lambda facts: facts["data"].update(fingerprint="beef" * 16))
    refused(study, workspace, "base/seed1", "other data", "beefbeefbeef")


def test_a_run_of_another_study_is_caught(study, workspace):
    edit(workspace / "base" / "seed1", lambda facts: facts.update(experiment="positions"))
    refused(study, workspace, "base/seed1", "another study", "positions")
    stranger = records.read(workspace / "base" / "seed1")
    with pytest.raises(UserError, match="another study"):
        table(study, [stranger])


def test_what_lmjax_eval_measured_is_a_metric_of_the_table(study, workspace, capsys):
    metrics = ("eval/bits_per_byte",)
    refused(study, workspace, "unknown metric", "`lmjax eval", metrics=metrics)
    folders = sorted(workspace.glob("*/seed*"))
    for folder in folders:
        if folder == folders[-1]:
            refused(study, workspace, f"{folder} has no eval/bits_per_byte", "`lmjax eval", metrics=metrics)
        assert main(["eval", str(folder)]) == 0
    made = table(study, records.collect(study, workspace), metrics)
    told = [loads((folder / "evaluation.json").read_text())["metrics"]["bits_per_byte"]["value"] for folder in folders]
    assert [value for row in made.rows for value in row.cells[0].values] == told
    assert "eval/bits_per_byte: by `lmjax eval` at the end of each run, over " in " ".join(made.notes)
    edit(folders[0], lambda facts: facts["metrics"]["bits_per_byte"].update(value=0.5), "evaluation.json")
    refused(study, workspace, "base/seed0/evaluation.json was altered by hand", metrics=metrics)
    edit(folders[0], lambda facts: facts.update(seal.stamped(facts | {"examples": 3})), "evaluation.json")
    refused(study, workspace, "base/seed0", "were evaluated otherwise", metrics=metrics)
    edit(folders[0], lambda facts: facts.update(seal.stamped(facts | {"step": 2})), "evaluation.json")
    refused(study, workspace, "eval/bits_per_byte", metrics=metrics)


def test_an_unfinished_run_is_refused_or_left_out(study, workspace):
    edit(workspace / "base" / "seed1", lambda facts: facts.update(status="preempted", cause="SIGTERM"))
    refused(study, workspace, "base/seed1", "not finished", "SIGTERM")
    left = records.collect(study, workspace, unfinished="skip")
    assert [(record.variant, record.seed) for record in left] == [("base", 0), ("short", 0), ("short", 1)]
    assert table(study, left).rows[1].cells[0].pairs == 1


def test_a_table_that_is_insisted_on_is_marked(study, workspace):
    edit(workspace / "base" / "seed1", lambda facts: facts["data"].update(fingerprint="beef" * 16))
    made = table(study, records.collect(study, workspace), insist=KINDS)
    assert len(made.marks) == 1 and "beefbeefbeef" in made.marks[0]
    assert made.rows[0].marks == made.marks and made.rows[1].marks == ()


def test_an_unknown_metric_names_the_nearest(study, finished):
    refused(study, finished, "valid/nl", "did you mean 'valid/nll'", metrics=["valid/nl"])


@pytest.fixture
def measured(study, finished):
    """A study of eight seeds of three variants, and records with known numbers in the place of what a run measured."""
    first = records.collect(study, finished, [0])[0]
    variants = {"fast": {"model.order": 3}, "faster": {"model.order": 4}}
    wider = Experiment(study.name, study.question, study.base, variants, tuple(range(8)))
    found = []
    for number, (variant, moved) in enumerate({"base": 0.0, "fast": -0.1, "faster": 0.001}.items()):
        for seed in range(8):
            config = update(wider.config(variant), {"seed": seed})
            noise = (0.0, 0.01 * (seed % 3), 0.02 * (-1) ** seed)[number]
            metrics = {**first.metrics, "valid/nll": 2.0 + seed + moved + noise}
            manifest = {**first.manifest, "config_hash": config_hash(config)}
            manifest["result"] = {**manifest["result"], "params_sha256": f"{variant}{seed}"}
            found.append(first._replace(folder=first.folder / variant / str(seed), variant=variant, seed=seed, config=config,
                                        manifest=manifest, metrics=metrics, history=[metrics]))  # fmt: skip
    return wider, found


def test_comparisons_are_corrected_over_the_whole_table(measured):
    base, fast, faster = (row.cells[0] for row in table(*measured).rows)
    assert fast.difference.high < 0 < fast.mean.value  # found, although seeds differ by ten times as much
    assert faster.difference.low < 0 < faster.difference.high
    assert fast.holm == pytest.approx(2 * fast.p) and fast.holm < 0.05 < faster.holm == faster.p
    assert fast.effect < -2 and base.bootstrap.low < base.mean.value < base.bootstrap.high


def test_tests_may_be_wilcoxons(measured):
    made = table(*measured, test="wilcoxon")
    assert made.rows[1].cells[0].p == 2 / 2**8  # all eight differences have one sign
    assert "Wilcoxon" in " ".join(made.notes)


def test_the_seeds_that_are_needed_find_the_difference_as_often_as_asked(measured):
    """By the power of each comparison: one seed less is too few."""
    found = {one.variant: one for one in needed(*measured, 0.01, target=0.9)}
    assert list(found) == ["fast", "faster"] and {one.pairs for one in found.values()} == {8}
    wide = found["faster"]
    assert wide.spread == pytest.approx(0.02 * (8 / 7) ** 0.5)  # seeds differ by one, and that is paired away
    assert statistics.power(0.01, wide.spread, wide.seeds - 1) < 0.9 <= statistics.power(0.01, wide.spread, wide.seeds)
    assert found["fast"].seeds < wide.seeds < wide.corrected < wide.careful
    assert found["fast"].power > wide.power == pytest.approx(statistics.power(0.01, wide.spread, 8))


def test_seeds_are_asked_for_where_too_few_have_run(study, finished):
    with pytest.raises(UserError, match="lmjax sweep orders --seeds=3"):
        needed(study, records.collect(study, finished, [0]), 0.01)
    with pytest.raises(UserError, match="--difference=0"):
        needed(study, records.collect(study, finished), 0.0)


@pytest.mark.parametrize(("changes", "words"), [
    ({"baseline": "shrt"}, "did you mean 'short'"),
    ({"factors": {"short": ("model.depth",)}}, "model.depth"),
    ({"factors": {"short": ("optim",)}}, "changes model.order besides its factors optim"),
    ({"factors": {"short": "model"}}, "a tuple"),
    ({"factors": {"long": ("model",)}}, "'long'"),
    ({"metrics": "valid/nll"}, "in a tuple"),
    ({"variants": {"base": {"model.order": 3}}}, "base"),
])  # fmt: skip
def test_a_study_that_declares_nonsense_is_refused_when_it_is_registered(study, changes, words):
    with pytest.raises(UserError) as caught:
        register(replace(study, name="declared", **changes))
    assert words in str(caught.value)
