"""Evaluators agree with scikit-learn, sacrebleu, rouge-score and seqeval; intervals cover what they should."""

import math

import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.evaluate import classes, curves, intervals, numbers, retrieval, spans, texts
from lmjax.evaluation.shaped import LONGEST_ANSWER, best_span, in_context

RANDOM = np.random.RandomState(3)
NAMES = ("a", "b", "c", "d", "never")
LABELS = RANDOM.randint(0, 4, 120)
LOGITS = RANDOM.standard_normal((120, 5)) + 1.2 * np.eye(5)[LABELS]
LOGITS[::7] = np.round(LOGITS[::7])  # ties
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
SHARES[:, 4] = 0.0
SHARES /= SHARES.sum(axis=1, keepdims=True)
GUESSES = SHARES.argmax(axis=1)
WRITTEN = ["the cat sat on the mat", "a dog", "", "it rains in the north", "good morning , world !"]
THERE = ["the cat sat on a mat", "the dog barked", "nothing", "it rains in the north today", "good morning, world!"]


def sklearn():
    pytest.importorskip("sklearn", reason="scikit-learn is the reference")
    import sklearn.calibration
    import sklearn.metrics

    return sklearn


def test_classification_agrees_with_scikit_learn():
    metrics = sklearn().metrics
    found = classes.classification(LABELS, SHARES, NAMES)
    np.testing.assert_array_equal(found.confusion_cc[:4, :4], metrics.confusion_matrix(LABELS, GUESSES))
    assert found.metrics["accuracy"].value == metrics.accuracy_score(LABELS, GUESSES)
    for average in ("macro", "micro"):
        expected = metrics.precision_recall_fscore_support(LABELS, GUESSES, average=average, zero_division=0)[:3]
        for name, value in zip(("precision", "recall", "f1"), expected, strict=True):
            if average == "macro" or name == "f1":
                assert found.metrics[f"{average}_{name}"].value == pytest.approx(value)
    expected = metrics.precision_recall_fscore_support(LABELS, GUESSES, labels=range(5), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [found.per_class[label][name] for label in NAMES] == pytest.approx(list(values))


def test_areas_and_curves_agree_with_scikit_learn_where_scores_tie():
    metrics = sklearn().metrics
    found = classes.classification(LABELS, SHARES, NAMES)
    areas = [metrics.roc_auc_score(LABELS == i, SHARES[:, i]) for i in range(4)]
    assert [found.per_class[name]["roc_auc"] for name in NAMES[:4]] == pytest.approx(areas)
    assert found.metrics["roc_auc"].value == pytest.approx(np.mean(areas))
    assert "never" not in found.rocs and "roc_auc" not in found.per_class["never"], "no example has that class"
    for i, name in enumerate(NAMES[:4]):
        x, y, _ = metrics.roc_curve(LABELS == i, SHARES[:, i], drop_intermediate=False)
        np.testing.assert_allclose(found.rocs[name].false_positives, x)
        np.testing.assert_allclose(found.rocs[name].true_positives, y)
        assert found.rocs[name].area == pytest.approx(areas[i])


def test_calibration_bins_agree_with_scikit_learn():
    calibration_curve = sklearn().calibration.calibration_curve
    confidence, right = SHARES.max(axis=1), GUESSES == LABELS
    found = curves.calibration(confidence, right, bins=10)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    there = found.count > 0
    np.testing.assert_allclose(found.accuracy[there], accuracy)
    np.testing.assert_allclose(found.confidence[there], mean)
    gap = (np.abs(accuracy - mean) * found.count[there]).sum() / len(right)
    assert found.error.value == pytest.approx(gap) and found.error.low < gap


def test_a_standard_error_is_the_spread_over_many_samples():
    """Of the mean, the share, the F1 and the area: what is estimated from one sample is seen over 300 of them."""
    draw = np.random.RandomState(0)

    def one(n):
        labels = draw.randint(0, 2, n)
        score = 1 / (1 + np.exp(-(draw.standard_normal(n) + 1.0 * labels)))
        found = classes.averages(classes.confusion(labels, score > 0.5, 2), resamples=200)
        found["accuracy"] = intervals.share(labels == (score > 0.5))
        found["roc_auc"], _ = curves.roc_auc(labels, np.stack([1 - score, score], axis=1))
        weights = draw.randint(1, 4, n)
        return found | {"mean": intervals.mean(score * labels, weights)}

    samples = [one(150) for _ in range(120)]
    for name in ("accuracy", "macro_f1", "roc_auc", "mean"):
        spread = np.std([sample[name].value for sample in samples])
        told = np.mean([sample[name].error for sample in samples])
        assert told == pytest.approx(spread, rel=0.25), name
        truth = np.mean([sample[name].value for sample in samples])
        covered = np.mean([sample[name].low <= truth <= sample[name].high for sample in samples])
        assert covered > 0.88, name


def test_intervals_at_the_ends():
    assert intervals.share(np.array([True] * 10)).high == 1 and intervals.share(np.array([True] * 10)).low < 0.8
    assert intervals.share(np.array([])).count == 0 and math.isnan(intervals.mean(np.array([])).value)
    one = intervals.mean(np.array([2.0]))
    assert one.value == 2 and math.isnan(one.error)
    assert intervals.mean(np.array([1.0, 3.0, 99.0]), np.array([1.0, 1.0, 0.0])).value == 2, "no weight, no example"


def test_bleu_and_chrf_are_those_of_sacrebleu_with_their_signature():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu computes BLEU")
    found = texts.scores(WRITTEN, THERE, ("bleu", "chrf", "exact_match"))
    assert found["bleu"].metrics["bleu"].value == sacrebleu.corpus_bleu(WRITTEN, [THERE]).score > 0
    assert found["chrf"].metrics["chrf"].value == sacrebleu.corpus_chrf(WRITTEN, [THERE]).score > 0
    assert "tok:13a" in found["bleu"].signatures["bleu"] and "bs:1000" in found["bleu"].signatures["bleu"]
    for name in ("bleu", "chrf"):
        estimate = found[name].metrics[name]
        assert 0 <= estimate.low < estimate.high and estimate.count == 5
    assert found["exact_match"].metrics["exact_match"].value == 0
    assert found["chrf"].each.argmin() == 2, "the empty one is the worst"
    japanese = texts.scores(["これは本です"], ["これは本でした"], ("bleu",))
    assert "tok:char" in japanese["bleu"].signatures["bleu"] and japanese["bleu"].metrics["bleu"].value > 20


def test_rouge_is_that_of_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score computes ROUGE")
    found = texts.scores(WRITTEN, THERE, ("rouge",))["rouge"].metrics
    theirs = scorer.RougeScorer(list(found))
    for name, estimate in found.items():
        each = [100 * theirs.score(b, a)[name].fmeasure for a, b in zip(WRITTEN, THERE, strict=True)]
        assert estimate.value == pytest.approx(np.mean(each)) and estimate.value > 0
        assert estimate.error == pytest.approx(np.std(each, ddof=1) / math.sqrt(5))


def test_the_rate_of_wrong_words_counts_fewest_edits_over_the_words_that_should_be_there():
    assert texts.distance("kitten", "sitting") == 3 and texts.distance("", "abc") == texts.distance("abc", "") == 3
    there = ["K AE1 T", "D AO1 G Z", ""]
    written = ["K AE0 T", "D G Z Z Z", "B"]  # one is another; one too few and two too many; one from nothing
    found = texts.scores(written, there, ("word_error",))["word_error"].metrics["word_error"]
    assert found.value == (1 + 3 + 1) / (3 + 4 + 1) and found.count == 3
    for a, b in zip(WRITTEN, THERE, strict=True):
        a, b = a.split(), b.split()
        assert texts.distance(a, b) == texts.distance(b, a) >= abs(len(a) - len(b))
        assert texts.distance(a, b) <= max(len(a), len(b))


def test_a_metric_that_there_is_not_is_named_with_its_nearest():
    with pytest.raises(UserError, match="bleu"):
        texts.scores(["a"], ["a"], ("bleau",))
    with pytest.raises(UserError, match="no texts"):
        texts.scores([], [], ("bleu",))


def test_retrieval_agrees_with_scikit_learn_and_ties_are_misses():
    metrics = sklearn().metrics
    similarity = RANDOM.standard_normal((30, 30)) + 1.5 * np.eye(30)
    found = retrieval.retrieval(retrieval.ranks(similarity))
    for k in (1, 5, 10):
        expected = metrics.top_k_accuracy_score(np.arange(30), similarity, k=k)
        assert found[f"recall@{k}"].value == pytest.approx(expected)
    expected = metrics.label_ranking_average_precision_score(np.eye(30), similarity)
    assert found["mrr"].value == pytest.approx(expected) and 0.1 < expected < 1
    assert retrieval.ranks(np.zeros((3, 4))).tolist() == [4, 4, 4]
    assert retrieval.ranks(np.array([[0.1, 0.9, 0.5]]), np.array([2])).tolist() == [2]


TRUE_TAGS = [
    ["B-PER", "I-PER", "O", "B-LOC", "I-ORG", "I-ORG"],
    ["O", "I-PER", "B-PER", "O"],
    ["B-LOC", "B-LOC", "I-LOC", "O"],
    ["O", "O"],
]
GUESSED_TAGS = [
    ["B-PER", "I-PER", "O", "B-LOC", "O", "I-ORG"],
    ["O", "B-PER", "I-PER", "O"],
    ["B-LOC", "B-LOC", "I-LOC", "I-PER"],
    ["O", "O"],
]


def test_entities_agree_with_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is the reference")
    from seqeval.metrics.sequence_labeling import get_entities

    for tags in (*TRUE_TAGS, *GUESSED_TAGS):
        assert spans.entities(tags) == {spans.Entity(*found) for found in get_entities(tags)}
    found, kinds = spans.entity_scores(GUESSED_TAGS, TRUE_TAGS)
    for name in ("precision", "recall", "f1"):
        theirs = getattr(seqeval, f"{name}_score")(TRUE_TAGS, GUESSED_TAGS)
        assert found[name].value == pytest.approx(theirs) and 0 < theirs < 1
        assert found[name].low < theirs < found[name].high
    assert found["macro_f1"].value == pytest.approx(seqeval.f1_score(TRUE_TAGS, GUESSED_TAGS, average="macro"))
    assert kinds["LOC"] == {"precision": 1, "recall": 1, "f1": 1, "support": 3}
    assert spans.entities(["B-A", "E-A", "S-A", "I-A"]) == {("A", 0, 1), ("A", 2, 2), ("A", 3, 3)}
    assert spans.entities(["N", "N", "V", "O", "N"]) == {("N", 0, 1), ("V", 2, 2), ("N", 4, 4)}, "kinds alone"


def test_answers_are_compared_as_squad_compares_them():
    found = spans.answers(["The Eiffel Tower!", "in 1889", "", "Paris"], ["eiffel tower", "1889", "", "London"])
    assert found["exact_match"].value == 0.5
    assert found["f1"].value == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)


def test_correlations_agree_with_scipy_where_values_tie():
    stats = pytest.importorskip("scipy.stats", reason="SciPy is the reference")
    values = 100 + np.round(RANDOM.standard_normal(80), 1)
    guesses = np.round(values + 0.8 * RANDOM.standard_normal(80), 1)
    found = numbers.regression(values, guesses)
    assert found["pearson"].value == pytest.approx(stats.pearsonr(values, guesses).statistic)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(values, guesses).statistic)
    interval = stats.pearsonr(values, guesses).confidence_interval()
    assert (found["pearson"].low, found["pearson"].high) == pytest.approx(tuple(interval), abs=0.06)
    assert found["mae"].value == pytest.approx(np.abs(values - guesses).mean())
    assert found["rmse"].value == pytest.approx(np.sqrt(((values - guesses) ** 2).mean()))
    assert math.isnan(numbers.regression(values, np.ones(80))["pearson"].value), "nothing to go by"


def test_the_end_of_a_context_is_no_answer():
    row = {"tokens": [1, 7, 8, 2, 9, 9, 2, 0], "types": [0, 0, 0, 0, 1, 1, 1, 0], "segments": [1, 1, 1, 1, 1, 1, 1, 0]}
    found = in_context({name: np.array([values]) for name, values in row.items()}, sep=2)
    assert found.tolist() == [[False, False, False, False, True, True, False, False]]


def test_the_best_span_is_of_the_context_and_does_not_end_before_it_begins():
    logits = RANDOM.standard_normal((6, 50, 2)).astype(np.float32)
    context = np.zeros((6, 50), bool)
    context[:, 5:45] = True
    first, last = best_span(logits, context)
    for row in range(6):
        legal = {(a, b): logits[row, a, 0] + logits[row, b, 1]
                 for a in range(5, 45) for b in range(a, min(45, a + LONGEST_ANSWER))}  # fmt: skip
        assert (int(first[row]), int(last[row])) == max(legal, key=legal.get)
