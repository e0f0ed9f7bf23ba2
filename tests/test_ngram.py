"""n-grams: probabilities by hand and by a slow implementation of the definition, and runs like those of networks."""

import json
import signal
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import runs

from lmjax import chain, counted
from lmjax.__main__ import main
from lmjax.config import loads
from lmjax.data import open_dataset
from lmjax.models.ngram import FALLBACK, count, discounts

DOC = 6  # of the vocabulary of random documents, 7 ids
SMALL = {"model.order": 4, "data.length": 32, "data.valid_fraction": 0.2, "batch": 4}


def random_documents(seed, number=30, longest=9):
    random = np.random.RandomState(seed)
    return [np.array([DOC, *random.randint(0, 5, random.randint(0, longest))]) for _ in range(number)]


def slow(documents, order, vocab, doc):
    """p(w, h) by the definition: dicts, recursion and one document at a time."""
    raw = [Counter() for _ in range(order + 1)]
    for document in documents:
        tokens = (*map(int, document), doc)
        for k in range(1, order + 1):
            raw[k].update(tokens[i : i + k] for i in range(len(tokens) - k + 1))
    adjusted = [None] * order + [raw[order]]
    if order == 1:
        adjusted = [None, Counter((int(w),) for d in documents for w in (*d[1:], doc))]
    for k in range(1, order):
        before = defaultdict(set)
        for gram in raw[k + 1]:
            before[gram[1:]].add(gram[0])
        adjusted[k] = {gram: len(seen) for gram, seen in before.items()}
        if k > 1:
            adjusted[k] |= {gram: c for gram, c in raw[k].items() if gram[0] == doc}

    def discount(k, c):
        n = Counter(adjusted[k].values())
        found = FALLBACK
        if all(n[i] for i in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            own = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
            found = own if all(0 <= d <= i for i, d in enumerate(own, 1)) else FALLBACK
        return found[min(c, 3) - 1] if c else 0.0

    def p(w, h):
        k = len(h) + 1
        follow = {gram[-1]: c for gram, c in adjusted[k].items() if gram[:-1] == h}
        lower = p(w, h[1:]) if h else 1 / vocab
        if not follow:
            return lower
        c, total = follow.get(w, 0), sum(follow.values())
        return (c - discount(k, c) + sum(discount(k, c) for c in follow.values()) * lower) / total

    return p


def test_bigrams_by_hand():
    """a b a c | a b: continuation counts 2 1 1 2, fallback discounts, so unigrams are 7 5 5 7 / 24."""
    model = count(np.array([3, 0, 1, 0, 2, 3, 0, 1]), order=2, vocab=4, doc=3)
    np.testing.assert_array_equal(model.orders[0].counts, [2, 1, 1, 2])
    after_a = [Fraction(7, 48), Fraction(21, 48), Fraction(13, 48), Fraction(7, 48)]
    np.testing.assert_allclose(model.distribution(np.array([0])), np.array(after_a, float), rtol=1e-12)
    np.testing.assert_allclose(model.distribution(np.array([], int)), np.array([7, 5, 5, 7]) / 24, rtol=1e-12)
    rows = {"tokens": np.array([[3, 0]]), "targets": np.array([[0, 2]]), "segments": np.array([[1, 1]])}
    start = Fraction(1, 2) + Fraction(1, 2) * Fraction(7, 24)  # (2 - 1) / 2 + 1/2 p(a)
    np.testing.assert_allclose(np.exp(model.log_probs(**rows)), [[float(start), 13 / 48]], rtol=1e-12)


def test_discounts_by_hand():
    assert discounts(np.array([1] * 4 + [2] * 2 + [3] * 2 + [4] + [9])) == (0.5, 0.5, 2.0)
    assert discounts(np.array([1, 1, 2, 4])) == FALLBACK  # nothing was counted three times


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_definition_gives_the_same_probabilities_and_they_sum_to_one(order):
    documents = random_documents(order)
    model, p = count(np.concatenate(documents), order=order, vocab=7, doc=DOC), slow(documents, order, 7, DOC)
    random = np.random.RandomState(0)
    for length in (0, 1, 2, 3, 4, 6) * 3:
        context = random.randint(0, 5, length)
        context[:1] = random.choice([DOC, 1])
        found = model.distribution(context)
        assert abs(found.sum() - 1) < 1e-12 and (found > 0).all()
        h = tuple(map(int, context[len(context) - min(order - 1, length) :]))
        np.testing.assert_allclose(found, [p(w, h) for w in range(7)], rtol=1e-12)


def test_rows_are_read_as_networks_read_them():
    """The context is what the row has of the document: nothing of the segment before it, padding nothing at all."""
    documents = random_documents(1)
    model, p = count(np.concatenate(documents), order=4, vocab=7, doc=DOC), slow(documents, 4, 7, DOC)
    random = np.random.RandomState(2)
    tokens_bt, targets_bt = random.randint(0, 5, (3, 10)), random.randint(0, 7, (3, 10))
    segments_bt = np.array([[1] * 4 + [2] * 6, [1] * 10, [1] * 3 + [2] * 4 + [0] * 3])
    tokens_bt[0, 4] = tokens_bt[2, 0] = DOC
    found_bt = model.log_probs(tokens_bt, targets_bt, segments_bt)
    assert not found_bt[2, 7:].any()
    for b, t in zip(*np.nonzero(segments_bt), strict=True):
        start = max(int(np.argmax(segments_bt[b] == segments_bt[b, t])), t - 2)
        h = tuple(map(int, tokens_bt[b, start : t + 1]))
        assert np.exp(found_bt[b, t]) == pytest.approx(p(int(targets_bt[b, t]), h), rel=1e-12)


def test_a_vocabulary_above_16_bits_counts_the_same():
    documents = random_documents(3)
    small, wide = (count(np.concatenate(documents) * k, order=3, vocab=7 * k, doc=DOC * k) for k in (1, 30_011))
    for a, b in zip(small.orders[1:], wide.orders[1:], strict=True):
        np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(small.orders[0].counts, wide.orders[0].counts[::30_011])


def words(text, workdir, changes=None):
    values = {**SMALL, "data.source": text, **(changes or {})}
    return [
        "train",
        "configs/ngram.py:of_bytes",
        f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in values.items()),
    ]


def test_a_run_is_like_that_of_a_network(tmp_path, capsys):
    text, folder = runs.write_text(tmp_path / "text"), tmp_path / "run"
    assert main(words(text, folder)) == 0
    line, sealed = runs.history(folder)[-1], runs.manifest(folder)
    assert sealed["status"] == "completed" and sealed["result"]["metrics"]["valid/nll"] == line["valid/nll"]
    assert line["step"] == sealed["result"]["step"] == 1
    assert line["valid/perplexity"] == pytest.approx(np.exp(line["valid/nll"]))
    config = loads((folder / "config.json").read_text())
    dataset, model = open_dataset(config.data, config.seed), counted.load(folder).model
    nll, size = [], 0
    for k in range(len(dataset.valid)):  # position by position, from the distribution that generation draws from
        row = dataset.valid.row(k)
        for t in np.flatnonzero(row["weights"]):
            own = row["tokens"][t - row["positions"][t] : t + 1]
            nll.append(-np.log(model.distribution(own)[row["targets"][t]]))
            size += row["bytes"][t]
    assert line["valid/nll"] == pytest.approx(np.mean(nll), rel=1e-9)
    assert line["valid/bits_per_byte"] == pytest.approx(sum(nll) / np.log(2) / size, rel=1e-9)
    assert line["valid/nll"] < np.log(257) / 2
    capsys.readouterr()
    assert main(words(text, folder)) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["eval", str(folder), "--batch=3"]) == 0
    assert f"nll {line['valid/nll']:.4f}" in capsys.readouterr().out
    bits = json.loads((folder / "evaluation.json").read_text())["metrics"]["bits_per_byte"]
    assert bits["value"] == pytest.approx(line["valid/bits_per_byte"]) and bits["low"] < bits["value"] < bits["high"]
    for _ in range(2):
        assert main(["generate", str(folder), "--prompt=the ", "--length=12", "--seed=3"]) == 0
    one, two = capsys.readouterr().out.strip("\n").split("\n")
    assert one == two and one.startswith("the ") and len(one) > 4
    assert main(["generate", str(folder), "--beams=4"]) == 2
    assert "--beams=4: texts of an n-gram are drawn" in capsys.readouterr().err
    assert main(["export", "hf", str(folder), f"--out={tmp_path / 'out'}"]) == 2
    assert "is a run of an n-gram" in capsys.readouterr().err
    assert main(words(text, tmp_path / "again")) == 0
    assert runs.parameters(tmp_path / "again") == runs.parameters(folder)


def test_steps_are_shares_of_the_documents(tmp_path):
    text = runs.write_text(tmp_path / "text")
    assert main(words(text, tmp_path / "whole")) == main(words(text, tmp_path / "shares", {"steps": 3, "seed": 5})) == 0
    lines = runs.history(tmp_path / "shares")
    valid = [line["valid/nll"] for line in lines if "valid/nll" in line]
    assert len(valid) == 3 and valid[2] < valid[0]
    first, second, _ = runs.losses(tmp_path / "shares")
    assert first == pytest.approx(np.log(257)) and second < first / 2
    assert runs.parameters(tmp_path / "shares") == runs.parameters(tmp_path / "whole")
    shares, (whole,) = (chain.read(tmp_path / name) for name in ("shares", "whole"))
    assert [line["step"] for line in shares] == [1, 2, 3] and chain.loss(shares[0]) == pytest.approx(first)
    assert shares[2]["params"] == whole["params"] and len({line["batch"] for line in (*shares, whole)}) == 4
    manifest = json.loads((tmp_path / "shares" / "manifest.json").read_text())
    assert manifest["result"]["chain"] == shares[2]["head"]


@pytest.mark.parametrize("changes, said", [
    ({"model.order": 0}, "model.order=0: at least 1"),
    ({"objective.kind": "classification"}, "objective.kind=classification"),
    ({"data.kind": "pairs"}, "data.kind=pairs: an n-gram is of text"),
    ({"data.curriculum.by": "length"}, "data.curriculum.by=length"),
    ({"eval.metric": "valid/accuracy"}, "valid/bits_per_byte"),
    ({"steps": 1000}, "steps=1000: there are"),
])  # fmt: skip
def test_what_an_ngram_cannot_honour_is_refused(changes, said, tmp_path, capsys):
    assert main(words(runs.write_text(tmp_path / "text"), tmp_path / "run", changes)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_config_of_another_model_is_refused(capsys):
    assert main(["train", "configs/lm.py:tiny", "--config.model.kind=ngram"]) == 2
    assert "configs/ngram.py:small is such a config" in capsys.readouterr().err


def test_a_stop_is_said_and_counted_again(tmp_path):
    text, folder = runs.write_text(tmp_path / "text"), tmp_path / "run"
    process = runs.start(words(text, folder, {"steps": 30, "model.order": 30}))
    runs.wait_for_line(folder, 2, process)
    process.send_signal(signal.SIGTERM)
    code, out, _ = runs.finish(process)
    if code == 0:
        pytest.skip("it was faster than the signal")
    assert code == 75 and "counts again from the start" in out
    assert runs.manifest(folder)["status"] == "preempted"
    assert main(words(text, folder, {"steps": 30, "model.order": 30})) == 0
    assert [line["step"] for line in runs.history(folder) if "train/loss" in line] == list(range(1, 31))


def test_a_checkpoint_of_another_run_is_not_read(tmp_path, capsys):
    text = runs.write_text(tmp_path / "text")
    assert main(words(text, tmp_path / "one")) == main(words(text, tmp_path / "other")) == 0
    assert main(["eval", str(tmp_path / "one")]) == 0
    line = json.loads((tmp_path / "one" / "chain.jsonl").read_text())
    line["params"] = "0" * 64
    del line["head"]
    (tmp_path / "one" / "chain.jsonl").write_text(json.dumps(line | {"head": chain.head(chain.FIRST, line)}) + "\n")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "one")]) == 2
    assert "is of another run" in capsys.readouterr().err


def test_damaged_counts_are_not_read(tmp_path, capsys):
    assert main(words(runs.write_text(tmp_path / "text"), tmp_path / "run")) == 0
    file = tmp_path / "run" / "checkpoints" / "00000001" / "order_3.counts.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert "order_3.counts.npy has other bytes than were sealed" in capsys.readouterr().err
    assert json.loads((file.parent / "checkpoint.json").read_text())["arrays"]["order_3/counts"]["dtype"] == "int32"
