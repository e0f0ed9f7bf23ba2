"""The command line: what a user can get wrong exits 2 with one message to act on, before anything is compiled."""

import subprocess
import sys

import pytest
import runs

from lmjax.__main__ import main

MISTAKES = {
    "--config.model.dpeth=4": "model.depth",
    "--config.model.depth=four": "integer",
    "--config.model.heads=3": "heads that do",
    "--config.layout.mesh.data=3": "devices",
    "--config.layout.mesh.tenser=2": "tensor",
    "--config.optim.name=adamm": "adam",
    "--config.optim.schedule.name=cosin": "cosine",
    "--config.model.mlp=swigluu": "swiglu",
    "--config.model.kind=decodr": "decoder",
    "--config.objective.kind=next_tokens": "next_token",
    "--config.precision.compute=float23": "float32",
    "--config.data.source=bibel": "bible",
    "--config.optim.microbatches=3": "does not divide",
    "--config.eval.metric=nll": "valid/nll",
    "--config.optim.b1=2": "optim.b1",
    "--config.model.dropout=1.5": "dropout",
    "--config.steps": "VALUE",
    "--confg.steps=3": "confg",
    "--profile=4": "START:STOP",
    "--track=wandbb": "wandb",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_exits_2_with_a_message_that_helps_and_leaves_nothing_behind(mistake, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    text = runs.write_text(tmp_path / "text")
    words = ["train", "configs/lm.py:tiny", f"--workdir={tmp_path / 'run'}", f"--config.data.source={text}"]
    assert main([*words, mistake]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("lmjax: ") and MISTAKES[mistake] in err and "Traceback" not in err
    assert not (tmp_path / "run").exists() or not any(path.name != "lock" for path in (tmp_path / "run").iterdir())


@pytest.mark.parametrize("words, said", [
    (["trian", "quickstart"], "train"), (["train", "quickstrat"], "quickstart"), (["eval", "no/such/run"], "no/such/run"),
    (["train", "positions/ropee"], "rope"), (["train", "configs/lm.py:tinny"], "tiny"), ([], "VERB"),
    (["eval", ".", "--config.steps=3"], "takes none"),
])  # fmt: skip
def test_a_wrong_word_is_told_the_right_one(words, said, capfd):
    assert main(words) == 2
    assert said in capfd.readouterr().err


def test_help_and_list_import_no_jax_and_show_what_there_is():
    code = "import sys, lmjax.__main__ as m; m.main(['list']); sys.exit(int('jax' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.ROOT)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout and "positions/rope" in done.stdout and "configs/lm.py:tiny" in done.stdout


def test_show_prints_the_config_every_parameter_and_the_cost(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path))
    text = runs.write_text(tmp_path / "text")
    assert main(["show", "configs/lm.py:tiny", f"--config.data.source={text}", "--config.data.length=32"]) == 0
    out = capfd.readouterr().out
    assert "blocks/attention/query" in out and "FLOP a token" in out and "optim.learning_rate" in out
