"""What `lmjax diff` says of runs that differ in one thing, and of those that do not."""

import json
import shutil

import pytest

from lmjax.__main__ import main
from lmjax.atomic import dumps, loads
from lmjax.study import explain
from tests import runs

CHANGES = {
    "steps": 3,
    "model.depth": 1,
    "every.eval": 3,
    "every.save": 3,
    "model.width": 16,
    "optim.schedule.warmup": 1,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("text") / "text")


@pytest.fixture(scope="module")
def first(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert runs.train(text, folder, CHANGES) == 0
    return folder


@pytest.fixture
def copy(first, tmp_path):
    return shutil.copytree(first, tmp_path / "copy")


def edit(folder, change):
    facts = loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(dumps(facts, indent=1))


def found(a, b):
    return explain.explain(explain.side(str(a)), explain.side(str(b)))


def test_a_run_and_its_copy_do_not_differ(first, copy, capsys):
    assert found(first, copy).same
    assert main(["diff", str(first), str(copy)]) == 0
    assert "nothing differs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_began_from_another_tells_it_and_what_came_of_it(first, text, tmp_path, capsys):
    tuned = tmp_path / "tuned"
    assert runs.train(text, tuned, {**CHANGES, "start.run": first, "steps": 6, "optim.learning_rate": 1e-4}) == 0
    capsys.readouterr()
    assert main(["diff", str(first), str(tuned)]) == 0
    said = capsys.readouterr().out
    assert "began from step 3 of " + str(first) in said
    assert "lineage of B" in said and said.count(f"{first}: configs/lm.py:tiny") == 2  # of A, and B's ancestor
    one = found(first, tuned)
    assert [path for path, *_ in one.changes] == ["optim.learning_rate", "start.run", "steps"]
    assert one.chain == "the loss differs from the first step on"
    assert {"step", "valid/nll"} <= {name for name, *_ in one.results}
    assert not any(name.startswith("perf/") for name, *_ in one.results)


def test_what_differs_besides_the_config_is_named_by_its_cause(first, copy):
    def change(facts):
        facts["start"] = {"run": str(first), "step": 3}
        facts["packages"]["optax"] = "0.0.1"
        facts["code"]["lmjax"]["commit"] = "b" * 40
        facts["devices"]["kind"] = "TPU v5 lite"
        facts["sessions"][0]["devices"]["kind"] = "TPU v5 lite"
        facts["sessions"].append({**facts["sessions"][0], "from_step": 2, "changed": {"python": "3.9.1"}})

    edit(copy, change)
    one = found(first, copy)
    assert not one.same and not one.changes
    assert {"library", "device kind"} <= {cause.cause for cause in one.causes}
    assert any("optax" in cause.text and "0.0.1" in cause.text for cause in one.causes)
    assert one.chain == "the same steps, bit for bit, up to 3"
    lines = "\n".join(one.lineage[1])
    assert f"began from step 3 of {first}\n{first}: configs/lm.py:tiny" in lines  # and what that run was
    assert "b" * 12 in lines and "session 2: from step 2" in lines and "changed: python" in lines


def test_a_config_that_was_edited_after_the_run_is_named(first, copy):
    values = json.loads((copy / "config.json").read_text())
    values["optim"]["learning_rate"] *= 2
    (copy / "config.json").write_text(json.dumps(values))
    one = found(first, copy)
    assert [row[0] for row in one.changes] == ["optim.learning_rate"]
    assert any("was altered" in cause.text for cause in one.causes)


def test_configs_and_variants_compare_by_name_and_say_what_it_means(capsys):
    assert main(["diff", "positions", "positions/rope"]) == 0
    out = capsys.readouterr().out
    assert "model.position  none -> rope" in out and "lineage of A" in out
    one = found("positions", "digits")
    assert dict((path, means) for path, _, _, means in one.changes)["data.source"].startswith("other data")
    assert main(["diff", "positions", "positions/ropes", "--json"]) == 2
    assert "rope" in capsys.readouterr().err
    assert main(["diff", "positions", "positions/rope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == [["model.position", "none", "rope", ""]]
