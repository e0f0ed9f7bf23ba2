"""Fine-tuning: a run that begins with another's parameters, and says what it took, what it lacks and what is left."""

import json

import jax
import numpy as np
import pytest
import runs

from lmjax.__main__ import main
from lmjax.config import config
from lmjax.errors import UserError
from lmjax.start import check, sort_out
from lmjax.trained import load


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained run of two steps, and its text."""
    folder = tmp_path_factory.mktemp("start")
    text = runs.write_text(folder / "text")
    assert runs.train(text, folder / "first", {"steps": 2, "every.eval": 2, "every.save": 2}) == 0
    return folder


def by_path(params):
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(leaf)
            for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}  # fmt: skip


def test_a_run_begins_with_the_parameters_of_another_and_moves_only_what_is_not_frozen(first, tmp_path):
    changes = {"start.run": first / "first", "steps": 1, "every.eval": 1, "every.save": 1, "optim.ema": 0.5,
               "optim.rules.rest.freeze": "true"}  # fmt: skip
    assert runs.train(first / "text", tmp_path / "second", changes) == 0
    before, after = (by_path(load(folder).params) for folder in (first / "first", tmp_path / "second"))
    for path in before:
        assert np.array_equal(before[path], after[path]) == (not path.endswith("scale")), path
    record = runs.manifest(tmp_path / "second")["start"]
    assert record["step"] == 2 and sorted(record["loaded"]) == sorted(before) and record["run"] == str(first / "first")


def test_a_stopped_fine_tuning_of_a_runs_own_config_goes_on_from_its_own_checkpoint(first, tmp_path):
    words = ["train", str(first / "first"), f"--workdir={tmp_path / 'run'}", f"--config.start.run={first / 'first'}"]
    words += ["--config.optim.schedule.name=constant", "--config.every.save=2"]
    assert main(words) == 0
    losses = runs.losses(tmp_path / "run")
    assert losses[0] < runs.losses(first / "first")[0]
    assert main([*words, "--config.steps=3", "--allow-config-change"]) == 0
    assert runs.losses(tmp_path / "run")[:2] == losses and len(runs.losses(tmp_path / "run")) == 3
    assert runs.manifest(tmp_path / "run")["start"]["step"] == 2


def test_a_new_head_begins_afresh_on_the_parameters_of_a_language_model(first, tmp_path, capfd):
    text = tmp_path / "text"
    text.mkdir()
    with open(text / "labels.jsonl", "w") as file:
        for i in range(40):
            file.write(
                json.dumps({"text": f"{i} " + " ".join(runs.WORDS[i % 7 : i % 7 + 5]), "label": "ab"[i % 2]}) + "\n"
            )
    changes = {"data.kind": "labels", "data.packing": "none", "model.kind": "classifier", "objective.kind": "classification",
               "eval.metric": "valid/accuracy", "eval.mode": "max", "steps": 1, "every.eval": 1, "every.save": 1,
               "start.run": first / "first", "start.missing": "init", "optim.learning_rate": 0.0}  # fmt: skip
    assert runs.train(text, tmp_path / "run", changes) == 0
    before, after = by_path(load(first / "first").params), by_path(load(tmp_path / "run").params)
    assert all(np.array_equal(before[path], after[path]) for path in before) and set(after) - set(before) == {"head"}
    assert "missing, so afresh" in capfd.readouterr().out


def entry(*shape):
    return {"shape": list(shape), "dtype": "float32"}


OURS = {"embed": entry(8, 4), "blocks/mlp/up": entry(2, 4, 6), "head": entry(3, 4)}
THEIRS = {"embed": entry(8, 4), "blocks/mlp/up": entry(2, 4, 5), "transform": entry(4, 4), "transform_bias": entry(4)}


def test_every_name_that_does_not_fit_is_told_with_what_would_allow_it():
    section = config(run="there", missing="error", drop=())
    with pytest.raises(UserError) as error:
        sort_out(section, OURS, THEIRS)
    for said in ("it lacks head (start.missing=init", "its transform, transform_bias (start.drop='(transform|transform_bias).*'",
                 "blocks/mlp/up has the shape [2, 4, 5] there, expected [2, 4, 6]", "start.run=there"):  # fmt: skip
        assert said in str(error.value)
    meant = config(run="there", missing="init", drop=("transform.*", "blocks/.*"))
    names = sort_out(meant, OURS, THEIRS)
    assert names == {"loaded": ["embed"], "missing": ["head"], "afresh": ["blocks/mlp/up"], "unexpected": [],
                     "left_out": ["transform", "transform_bias"]}  # fmt: skip
    with pytest.raises(UserError, match="no parameter is in both"):
        sort_out(config(run="there", missing="init", drop=(".*",)), OURS, THEIRS)


@pytest.mark.parametrize("changes, said", [
    ({"run": "nowhere"}, "nowhere is not a run directory"), ({"missing": "ini"}, "did you mean 'init'"),
    ({"drop": ("(",)}, "no regular expression"),
])  # fmt: skip
def test_a_start_that_says_nothing_sensible_is_refused(changes, said, first):
    with pytest.raises(UserError, match=said):
        check(config(**{"run": str(first / "first"), "missing": "error", "drop": ()} | changes))


def test_a_folder_without_a_config_is_no_experiment(tmp_path, capfd):
    for word in (tmp_path, tmp_path / "nowhere"):
        assert main(["train", str(word)]) == 2
        assert f"{word} is no run directory" in capfd.readouterr().err
