"""`lmjax data ...`: what it prints is what was prepared, and a wrong word is told the right one."""

import json
import subprocess
import sys

import numpy as np
import pytest
import runs

from lmjax.__main__ import main
from lmjax.data import load_tokenizer, row_view
from lmjax.data.tokenizers import train_bpe


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    return runs.write_text(tmp_path / "text")


def data(capfd, *words, code=0):
    """What `lmjax data ...` prints."""
    assert main(["data", *map(str, words)]) == code
    out, err = capfd.readouterr()
    return out if code == 0 else err


def manifest(tmp_path):
    (file,) = (tmp_path / "cache" / "data").glob("*/manifest.json")
    return json.loads(file.read_text())


def test_build_prepares_once_and_says_what_stats_says(text, tmp_path, capfd):
    built = data(capfd, "build", text, "--workers=2", "--config.data.length=32")
    made = manifest(tmp_path)
    assert "preparing" in built and made["fingerprint"] in built
    again = data(capfd, "build", text, "--config.data.length=16")
    assert "preparing" not in again and made["fingerprint"] in again
    shown = data(capfd, "stats", text, "--config.data.length=16")
    for split in ("train", "valid"):
        line = next(line for line in shown.splitlines() if line.startswith(split))
        assert [f"{made[split][key]:,}" for key in ("documents", "bytes", "tokens")] == line.split()[1:4]
    histogram = [line.split() for line in shown.splitlines() if " to " in line]
    assert sum(int(words[3].replace(",", "")) for words in histogram) == made["read"]["documents"]


def test_stats_counts_what_cleaning_removed(text, capfd):
    (text / "copy.jsonl").write_text((text / "text.jsonl").read_text())
    shown = data(capfd, "stats", text, "--config.data.clean.exact_duplicates=true", "--config.data.length=16")
    assert any(line.split() == ["exact_duplicates", "(removed)", "40"] for line in shown.splitlines())


@pytest.mark.parametrize("split", ["train", "valid"])
def test_show_prints_the_text_of_a_row(text, capfd, split):
    from lmjax.data import open_dataset
    from lmjax.experiment import find

    shown = data(capfd, "show", text, 1, "--split", split, "--config.data.length=64")
    config = find("configs/base.py:language_model").config
    with config.unlocked():
        config.data.source, config.data.length = str(text), 64
    dataset = open_dataset(config.data, config.seed)
    row = (dataset.train if split == "train" else dataset.valid).row(1)
    tokens = row["tokens"][row["segments"] > 0]
    lines = [line for line in shown.partition("\nrow 1 ")[2].splitlines()[1:] if not line.startswith("document ")]
    assert "".join(lines).replace("<doc>", "") == dataset.tokenizer.decode(tokens)
    assert shown.count("<doc>") == (tokens == dataset.tokenizer.doc).sum()


def test_borders_of_tokens_are_shown_and_characters_stay_whole(tmp_path):
    tokenizer = train_bpe(["ein Käse, 一つ", "zwei Käse, 二つ"] * 3, 270)
    ids = np.concatenate([[tokenizer.doc], tokenizer.encode("Käse 一つ")])
    shown = row_view.coloured(tokenizer, ids, "cyan", borders=True).plain
    assert shown.replace(row_view.BORDER, "") == "<doc>Käse 一つ" and shown.startswith("<doc>" + row_view.BORDER)
    assert "\ufffd" not in shown and 3 < shown.count(row_view.BORDER) + 1 <= len(ids)


def test_a_run_shows_the_data_it_was_trained_on(text, tmp_path, capfd):
    from lmjax import atomic
    from lmjax.config import dumps, override
    from lmjax.experiment import find

    config = override(find("configs/base.py:language_model").config, [f"data.source={text}", "data.length=24"])
    (tmp_path / "run").mkdir()
    atomic.write(tmp_path / "run" / "config.json", dumps(config))
    assert "24 tokens" in data(capfd, "show", tmp_path / "run", 0)
    assert "is a run" in data(capfd, "show", tmp_path / "run", 0, "--config.data.length=3", code=2)


def test_tokenizer_trains_one_and_shows_its_compression(text, tmp_path, capfd):
    shown = data(capfd, "tokenizer", text, "--config.data.tokenizer=bpe", "--config.data.vocab=300")
    (folder,) = (tmp_path / "cache" / "data").glob("*/tokenizer")
    assert f"{load_tokenizer(folder).vocab_size:,}" in shown and "bytes per token" in shown


def test_list_names_every_corpus_with_its_licence(capfd):
    from lmjax.data.corpora import CORPORA

    shown = data(capfd, "list")
    for name, corpus in CORPORA.items():
        assert name in shown and corpus.licence[:12] in shown


@pytest.mark.parametrize("words, said", [
    (["build", "bibel"], "'bible'"), (["stat", "bible"], "'stats'"), (["fetch", "bibel"], "bible"),
    (["build", "no/such/folder"], "no/such/folder"), (["show", "bible", "-1"], "-1"),
    (["build", "bible", "--workers=0"], "at least 1"), (["list", "--config.data.length=3"], "takes no config"),
    (["build", "bible", "--config.data.lenght=3"], "data.length"), (["build", "quickstart/none"], "none"),
])  # fmt: skip
def test_a_mistake_says_what_is_meant(words, said, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path))
    assert said in data(capfd, *words, code=2)


def test_no_action_loads_jax(text):
    for words in (["list"], ["build", str(text), "--config.data.length=32"]):
        code = f"import sys, lmjax.__main__ as m; m.main({['data', *words]!r}); sys.exit(int('jax' in sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=runs.ROOT).returncode == 0
