"""Texts that a model wrote beside those that it should have: BLEU and chrF by sacrebleu, ROUGE by rouge-score."""

from __future__ import annotations

import importlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.errors import UserError, unknown
from lmjax.evaluate import intervals
from lmjax.evaluate.intervals import Estimate

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # written without spaces between words


class Scored(NamedTuple):
    """Metrics of a corpus, what says exactly how they were computed, and a score of each text by which to sort them."""

    metrics: dict[str, Estimate]
    signatures: dict[str, str]
    each: np.ndarray | None = None


def exact_match(written: Sequence[str], there: Sequence[str]) -> Scored:
    """`exact_match`: the share of texts that are the reference, spaces at the ends aside."""
    hits = np.array([a.strip() == b.strip() for a, b in zip(written, there, strict=True)], bool)
    return Scored({"exact_match": intervals.share(hits)}, {})


def bleu(written: Sequence[str], there: Sequence[str]) -> Scored:
    """`bleu`, 0 to 100 (Papineni et al. 2002; Post 2018, arXiv:1804.08771).

    Words are tokenized as sacrebleu does unless told otherwise (13a); single characters where words have no spaces.
    """
    metrics = _package("sacrebleu.metrics")
    return _sacrebleu("bleu", metrics.BLEU(tokenize="char" if unspaced(there) else None), written, there)


def chrf(written: Sequence[str], there: Sequence[str]) -> Scored:
    """`chrf`, 0 to 100: character n-grams up to 6 (Popović 2015, W15-3049), with what each text has of it."""
    metric = _package("sacrebleu.metrics").CHRF()
    each = np.array([metric.sentence_score(a, [b]).score for a, b in zip(written, there, strict=True)])
    return _sacrebleu("chrf", metric, written, there)._replace(each=each)


def rouge(written: Sequence[str], there: Sequence[str]) -> Scored:
    """`rouge1`, `rouge2` and `rougeL`, the mean F1 in percent (Lin 2004, W04-1013), by rouge-score without stemming.

    rouge-score knows the letters a to z only: where words have no spaces, single characters are compared.
    """
    names = ("rouge1", "rouge2", "rougeL")
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(
        names, tokenizer=_Characters() if unspaced(there) else None
    )
    scored = [scorer.score(b, a) for a, b in zip(written, there, strict=True)]
    each = {name: np.array([100 * score[name].fmeasure for score in scored]) for name in names}
    version = importlib.import_module("importlib.metadata").version("rouge-score")
    signature = f"rouge-score:{version}|stemmer:no|tok:{'char' if unspaced(there) else 'a-z0-9'}|mean of F1"
    found = {name: intervals.mean(values, least=0, most=100) for name, values in each.items()}
    return Scored(found, dict.fromkeys(names, signature), each["rougeL"])


def word_error(written: Sequence[str], there: Sequence[str]) -> Scored:
    """`word_error`: substitutions, insertions and deletions of words over the words that should be there, from 0 on.

    Levenshtein 1966, Soviet Physics Doklady 10. Of sounds that stand apart by spaces it is the phoneme error rate. A
    reference without words counts as one word.
    """
    pairs = [(a.split(), b.split()) for a, b in zip(written, there, strict=True)]
    lengths = np.array([max(len(b), 1) for _, b in pairs], np.float64)
    edits = np.array([distance(a, b) for a, b in pairs], np.float64)
    return Scored({"word_error": intervals.mean(edits / lengths, lengths, least=0.0)}, {})


METRICS = {"exact_match": exact_match, "bleu": bleu, "chrf": chrf, "rouge": rouge, "word_error": word_error}


def scores(written: Sequence[str], there: Sequence[str], names: Sequence[str]) -> dict[str, Scored]:
    """The metrics of these names, of `METRICS`. UserError for a name that is none, and for a package that is missing."""
    for name in names:
        if name not in METRICS:
            raise unknown("metric in --metrics", name, METRICS)
    if not written:
        raise UserError("the validation split has no texts to compare: a larger data.valid_fraction gives it some")
    return {name: METRICS[name](written, there) for name in names}


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest substitutions, insertions and deletions that make `b` of `a`."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def unspaced(texts: Sequence[str]) -> bool:
    """Whether most letters are of scripts that put no spaces between words."""
    letters = [char for text in texts for char in text if char.isalpha()][:20_000]
    found = sum(unicodedata.name(char, "").startswith(UNSPACED) for char in letters if ord(char) > 0x0E00)
    return 2 * found > len(letters)


class _Characters:
    """What rouge-score calls a tokenizer: every character but spaces."""

    def tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


def _sacrebleu(name: str, metric: Any, written: Sequence[str], there: Sequence[str]) -> Scored:
    """The corpus score with sacrebleu's own bootstrap: 95 % around the samples' mean, of a fixed seed."""
    score = metric.corpus_score(list(written), [list(there)], n_bootstrap=intervals.RESAMPLES)
    signature = str(metric.get_signature())
    told: Mapping[str, Any] = json.loads(score.format(width=9, signature=signature, is_json=True))
    middle, half = told.get("confidence_mean", score.score), told.get("confidence_var", 0.0)  # no word of it at 0
    found = Estimate(
        score.score, half / intervals.Z95, max(middle - half, 0.0), min(middle + half, 100.0), len(written)
    )
    return Scored({name: found}, {name: signature})


def _package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0].replace("_", "-")
        raise UserError(
            f"this metric is computed by {package}, which is not installed: pip install {package}, or choose others "
            f"with --metrics, such as --metrics=exact_match"
        ) from None
