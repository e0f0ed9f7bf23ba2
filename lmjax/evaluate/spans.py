"""Spans of text: answers compared as SQuAD compares them, and entities of tagged tokens."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmjax.evaluate import intervals
from lmjax.evaluate.intervals import Estimate

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(answer: str) -> str:
    """Lower case, without punctuation, articles and spare spaces; Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(PUNCTUATION)).split())


def answer_f1(answer: str, truth: str) -> float:
    """The F1 of the words of an answer; 1 when both have none."""
    guessed, there = normal(answer).split(), normal(truth).split()
    if not guessed or not there:
        return float(guessed == there)
    shared = sum((Counter(guessed) & Counter(there)).values())
    return 2 * shared / (len(guessed) + len(there))


def answers(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Estimate]:
    """`exact_match` and `f1` of answers, each with its true one; Rajpurkar et al. 2016, section 6.1."""
    pairs = list(zip(answers, truths, strict=True))
    return {
        "exact_match": intervals.share(np.array([normal(a) == normal(b) for a, b in pairs], bool)),
        "f1": intervals.mean(np.array([answer_f1(a, b) for a, b in pairs]), least=0, most=1),
    }


class Entity(NamedTuple):
    """Tokens first to last, both included, of one kind."""

    kind: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a text's tags: B- and I- (or S-, E-) before a kind, O outside; or kinds alone, runs of equal ones.

    As conlleval (Tjong Kim Sang & De Meulder 2003) reads them: an I- of another kind, or after O, begins an entity too.
    """
    found, kind, first, ended = set(), "", 0, False
    for i, tag in enumerate([*tags, "O"]):
        mark, new = _split(tag)
        goes_on = kind and new == kind and mark in ("I", "E") and not ended
        if kind and not goes_on:
            found.add(Entity(kind, first, i - 1))
        if not goes_on:
            kind, first = new, i
        ended = mark in ("E", "S")
    return found


def _split(tag: str) -> tuple[str, str]:
    """B-PER -> (B, PER), PER -> (I, PER), O -> (O, "")"""
    if tag == "O" or not tag:
        return "O", ""
    return (tag[0], tag[2:]) if re.match(r"[BIES]-", tag) else ("I", tag)


def entity_scores(
    guessed: Sequence[Sequence[str]], there: Sequence[Sequence[str]], **settings: int
) -> tuple[dict[str, Estimate], dict[str, dict[str, float]]]:
    """`set_scores` of the entities of tagged texts: one is right when its kind and both ends are."""
    return set_scores(*([entities(tags) for tags in side] for side in (guessed, there)), **settings)


def set_scores(
    guessed: Sequence[set[Entity]], there: Sequence[set[Entity]], *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> tuple[dict[str, Estimate], dict[str, dict[str, float]]]:  # fmt: skip
    """`precision`, `recall`, `f1` (micro) and `macro_f1` with bootstrap intervals over texts, and all of each kind."""
    pairs = list(zip(guessed, there, strict=True))
    kinds = sorted({entity.kind for a, b in pairs for entity in a | b})
    number = {kind: i for i, kind in enumerate(kinds)}
    counts_nk3 = np.zeros((len(pairs), len(kinds), 3))  # right, guessed, there
    for i, (a, b) in enumerate(pairs):
        for column, some in enumerate((a & b, a, b)):
            for entity in some:
                counts_nk3[i, number[entity.kind], column] += 1

    def scores(weights_rn: np.ndarray) -> dict[str, np.ndarray]:
        counts_rk3 = np.tensordot(weights_rn, counts_nk3, axes=1)
        micro, each = _scores(counts_rk3.sum(axis=1)), _scores(counts_rk3)
        there_rk = counts_rk3[..., 1:].sum(axis=-1) > 0
        macro_r = (each["f1"] * there_rk).sum(axis=1) / np.maximum(there_rk.sum(axis=1), 1)
        return {**micro, "macro_f1": macro_r}

    each = _scores(counts_nk3.sum(axis=0))
    per_kind = {kind: {name: float(value[i]) for name, value in each.items()} | {"support": int(counts_nk3[:, i, 2].sum())}
                for i, kind in enumerate(kinds)}  # fmt: skip
    return intervals.bootstrap(scores, len(pairs), resamples=resamples, seed=seed), per_kind


def _scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    right, guessed, there = counts[..., 0], counts[..., 1], counts[..., 2]

    def over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)

    return {"precision": over(right, guessed), "recall": over(right, there), "f1": over(2 * right, guessed + there)}
