"""Asking trained runs: back-translation by a run of pairs, labels by a classifier, and what each refuses."""

import json

import pytest
import runs

from lmjax.__main__ import main

TRANSLATE = ["data", "translate", "pairs/x.tsv", "--config.data.columns=target"]
WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of pairs and a classifier, of a few steps."""
    place = tmp_path_factory.mktemp("asked")
    texts = [f"{WORDS[i % 10]} and {WORDS[i // 10 % 10]} make {i}" for i in range(100)]
    tables = {
        "pairs": ("source\ttarget", [f"{text}\t{i}" for i, text in enumerate(texts)]),
        "labels": ("text\tlabel", [f"{text}\t{('even', 'odd')[i % 2]}" for i, text in enumerate(texts)]),
    }
    changes = {
        "pairs": {"data.kind": "pairs", "data.packing": "best_fit"},
        "labels": {"data.kind": "labels", "data.packing": "none", "model.kind": "classifier",
                   "objective.kind": "classification", "eval.metric": "valid/accuracy", "eval.mode": "max"},
    }  # fmt: skip
    for name, (header, lines) in tables.items():
        (place / name).mkdir()
        (place / name / "x.tsv").write_text("\n".join([header, *lines]) + "\n")
        small = {"data.length": 64, "model.depth": 1, "steps": 30, "eval.sample_length": 0, **changes[name]}
        assert runs.train(place / name, place / f"run-{name}", small) == 0
    return place


def test_back_translation_keeps_every_text_as_a_target_and_writes_over_nothing(trained, tmp_path, capsys):
    texts = ["seven and one make 17", "two", "eleven is new"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["data", "translate", str(tmp_path / "texts.jsonl"), f"--run={trained / 'run-pairs'}", "--length=9"]
    out = tmp_path / "made" / "pairs.jsonl"
    assert main([*words, f"--out={out}"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [pair["target"] for pair in found] == [
        text for text in texts if any(text == pair["target"] for pair in found)
    ]
    assert found and all(pair["source"].strip() for pair in found)
    before = out.read_bytes()
    capsys.readouterr()
    assert main([*words, f"--out={out}"]) == 2 and "nothing is written over" in capsys.readouterr().err
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == ["pairs.jsonl"]


def test_a_classifier_answers_with_the_share_of_every_label(trained, capsys):
    capsys.readouterr()
    assert main(["generate", str(trained / "run-labels"), "--prompt=three and four make 43"]) == 0
    shares = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines() if "%" in line)
    assert set(shares) == {"even", "odd"}
    assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "run-labels", "--image=x.png"], "without images"),
        ([*TRANSLATE, "--run=run-labels", "--out=new.jsonl"], "data.kind=pairs"),
        ([*TRANSLATE, "--run=run-pairs", "--out=new.txt"], ".jsonl"),
    ],
)  # fmt: skip
def test_a_question_that_a_run_cannot_answer_is_refused(trained, capsys, monkeypatch, words, message):
    monkeypatch.chdir(trained)
    capsys.readouterr()
    assert main(words) == 2 and message in capsys.readouterr().err
    assert not (trained / "new.jsonl").exists()
