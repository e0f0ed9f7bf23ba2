"""Asking trained runs: back-translation, labels, beams, the metrics of their field, and what each refuses."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import runs

from lmjax import trained as asked
from lmjax.__main__ import main
from lmjax.asking import Writer, make_generator, questions
from lmjax.evaluation import files, predict
from lmjax.layers.readout import Readout

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


@pytest.mark.slow
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
        (["generate", "run-pairs", "--beams=2", "--temperature=1"], "a beam search draws nothing"),
        (["generate", "run-pairs", "--beams=2", "--n-best=3"], "from 1 to 2"),
        (["generate", "run-pairs", "--n-best=3"], "say --beams too"),
        (["eval", "run-pairs", "--metrics=blue"], "did you mean 'bleu'"),
        (["eval", "run-labels", "--metrics=macro_f2"], "did you mean 'macro_f1'"),
        (["eval", "run-labels", "--limit=0"], "--limit=0: at least 1"),
        ([*TRANSLATE, "--run=run-labels", "--out=new.jsonl"], "data.kind=pairs"),
        ([*TRANSLATE, "--run=run-pairs", "--out=new.txt"], ".jsonl"),
    ],
)  # fmt: skip
def test_a_question_that_a_run_cannot_answer_is_refused(trained, capsys, monkeypatch, words, message):
    monkeypatch.chdir(trained)
    capsys.readouterr()
    assert main(words) == 2 and message in capsys.readouterr().err
    assert not (trained / "new.jsonl").exists()


def evaluated(capsys, *words):
    """evaluation.json as `lmjax eval --json` prints it."""
    capsys.readouterr()
    assert main(["eval", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_classifier_is_evaluated_in_its_field_whatever_the_batch(trained, capsys):
    found = [evaluated(capsys, trained / "run-labels", f"--batch={batch}") for batch in (1, 7)]
    for name, one in found[0]["metrics"].items():
        assert found[1]["metrics"][name] == pytest.approx(one, abs=1e-5, nan_ok=True), name
    for one in found:
        assert one["classes"] == ["even", "odd"] and sum(map(sum, one["confusion"])) == one["examples"] > 10
        accuracy = one["metrics"]["accuracy"]
        assert accuracy["value"] == pytest.approx(one["objective"]["accuracy"])
        assert accuracy["low"] < accuracy["value"] <= accuracy["high"] <= 1
        assert {"macro_f1", "roc_auc", "calibration_error"} <= one["metrics"].keys()
        assert "perplexity" not in one["objective"].keys() | one["metrics"].keys()
    assert sum(found[0]["calibration"]["count"]) == found[0]["examples"]
    folder = trained / "run-labels"
    assert main(["eval", str(folder), "--batch=7"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"accuracy +[\d.]+ +[\d.]+ to [\d.]+", shown) and re.search(r"odd +[\d.]+ +[\d.]+", shown)
    assert json.loads((folder / files.NAMES[0]).read_text()) == found[1]
    html = (folder / "evaluation.html").read_text()
    assert html.count("<svg") == 2 and not re.search("https?://|<script|<link", html), "it stands alone"
    shares = [float(share) for share in re.findall(r"which had ([\d.]+)%", (folder / "worst.md").read_text())]
    assert len(shares) > 10 and shares == sorted(shares), "the worst come first"


def test_translations_are_written_and_compared(trained, capsys):
    folder = trained / "run-pairs"
    found = evaluated(capsys, folder, "--metrics=exact_match", "--length=3")
    loaded = asked.load(folder)
    there = questions(loaded.dataset, "pairs")
    writer = Writer(make_generator(loaded.program, loaded.dataset, loaded.params))
    hits = [text.strip() == question.answer for text, question in zip(writer(there, 3), there, strict=True)]
    assert found["examples"] == len(there) == found["metrics"]["exact_match"]["count"] > 10
    assert found["metrics"]["exact_match"]["value"] == pytest.approx(np.mean(hits))
    assert found["decoding"] == {"decoding": "greedy", "length": 3}
    assert all(question.answer == question.prompt.split()[-1] for question in there)
    for name in ("nll", "bits_per_byte", "perplexity"):
        one = found["metrics"][name]
        assert (
            one["value"] == pytest.approx(found["objective"][name], rel=1e-5)
            and one["low"] < one["value"] < one["high"]
        )


def test_bleu_and_chrf_of_a_run_keep_their_signatures(trained, capsys):
    pytest.importorskip("sacrebleu", reason="sacrebleu computes BLEU")
    found = evaluated(capsys, trained / "run-pairs", "--length=3", "--limit=3", "--beams=3")
    assert {"bleu", "chrf", "exact_match"} < found["metrics"].keys()
    assert found["examples"] == 3 and found["decoding"]["beams"] == 3
    assert "tok:13a" in found["signatures"]["bleu"] and "nc:6" in found["signatures"]["chrf"]
    for name in ("bleu", "chrf"):
        assert found["metrics"][name]["low"] <= found["metrics"][name]["value"] <= found["metrics"][name]["high"]


def test_the_best_of_several_beams_are_shown_with_falling_scores(trained, capsys):
    capsys.readouterr()
    words = [
        "generate",
        str(trained / "run-pairs"),
        "--prompt=one and two make 21",
        "--beams=3",
        "--n-best=2",
        "--length=4",
    ]
    assert main(words) == 0
    scores = [float(score) for score in re.findall(r"--- \d of 2, score (-[\d.]+)", capsys.readouterr().out)]
    assert len(scores) == 2


def test_sums_of_rows_are_those_of_all_logits_at_once(monkeypatch):
    random = np.random.RandomState(0)
    x_btd, table_vd = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((3, 12, 8), (32, 8)))
    batch = {"targets": random.randint(0, 30, (3, 12)), "weights": random.randint(0, 2, (3, 12)).astype(np.float32),
             "bytes": random.randint(0, 4, (3, 12))}  # fmt: skip
    batch = {name: jnp.asarray(field) for name, field in batch.items()}
    readout = Readout(table_vd, 30)
    monkeypatch.setattr(predict, "CHUNK", 3 * 4 * 32)
    whole, parts = predict.tokens(readout.logits(x_btd), batch), predict.tokens((x_btd, readout), batch)
    for name, sums in whole.items():
        np.testing.assert_allclose(parts[name], sums, rtol=1e-5)
    assert whole["nll"].shape == (3,) and float(whole["bytes"].sum()) == float(
        (batch["bytes"] * batch["weights"]).sum()
    )
