"""Texts that a run's model writes over its validation split, beside those that stand there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lmjax.asking import Question, Writer, make_generator, questions
from lmjax.data import kinds
from lmjax.decode.generate import bucket
from lmjax.errors import UserError, unknown
from lmjax.evaluate import texts
from lmjax.evaluate.intervals import Estimate
from lmjax.evaluation.report import Decoding
from lmjax.trained import Loaded
from lmjax.view import View

KINDS = {"pairs": ("bleu", "chrf", "exact_match"), "images": ("bleu", "rouge")}  # data.kind: the metrics of its field
NEEDS = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}  # the package that computes a metric


class Written(NamedTuple):
    """The metrics of what was written, and all of it, worst first: what to say, the texts by name, the image."""

    metrics: dict[str, Estimate]
    signatures: dict[str, str]
    count: int
    worst: list[tuple[str, dict[str, str], np.ndarray | None]]


def chosen(asked: Sequence[str], kind: str) -> tuple[str, ...]:
    """The metrics that were asked for, or those of the kind whose packages are there, with a warning for the others."""
    for name in asked:
        if name not in texts.METRICS:
            raise unknown("metric in --metrics", name, texts.METRICS)
    missing = {name: package for name, package in NEEDS.items() if importlib.util.find_spec(package) is None}
    for name in asked:
        if name in missing:
            package = missing[name].replace("_", "-")
            raise UserError(f"--metrics={name}: {package} computes it and is not installed: pip install {package}")
    wanted = tuple(asked) or KINDS[kind]
    left_out = {name: missing[name].replace("_", "-") for name in wanted if name in missing}
    if left_out:
        packages = " ".join(sorted(set(left_out.values())))
        View().warn(f"{', '.join(left_out)} left out: pip install {packages}")
    return tuple(name for name in wanted if name not in missing) or ("exact_match",)


def write(loaded: Loaded, decoding: Decoding, names: Sequence[str], on_text: Callable[[int, int], None]) -> Written:
    """Write the texts of the validation split, or its first `limit`, and compare them. UserError where there are none."""
    asked = questions(loaded.dataset, kinds.kind_of(loaded.program.config.data), decoding.limit)
    answers = answer(loaded, asked, decoding, on_text)
    scored = texts.scores(answers, [question.answer for question in asked], names)
    metrics = {name: estimate for one in scored.values() for name, estimate in one.metrics.items()}
    signatures = {name: text for one in scored.values() for name, text in one.signatures.items()}
    by = next(((name, one.each) for name, one in scored.items() if one.each is not None), None)
    each = (
        by[1] if by else np.array([a.strip() == q.answer.strip() for a, q in zip(answers, asked, strict=True)], float)
    )
    worst = []
    for i in np.argsort(each, kind="stable"):
        shown = {"source": asked[i].prompt} if asked[i].prompt else {}
        shown |= {"written": answers[i], "reference": asked[i].answer}
        worst.append((f"{by[0] if by else 'exact match'} {each[i]:.1f}", shown, asked[i].image))
    return Written(metrics, signatures, len(asked), worst)


def answer(
    loaded: Loaded, asked: Sequence[Question], decoding: Decoding, on_text: Callable[[int, int], None]
) -> list[str]:
    """What the model writes for each question, in their order: those of one length are written together."""
    write_some = Writer(make_generator(loaded.program, loaded.dataset, loaded.params), decoding.beams, decoding.alpha)
    longest = decoding.length or loaded.program.config.data.length
    groups: dict[int, list[int]] = {}
    for i, question in enumerate(asked):
        groups.setdefault(bucket(write_some.length(question)), []).append(i)
    answers, done = [""] * len(asked), 0
    for members in (groups[size] for size in sorted(groups)):
        some = [asked[i] for i in members]
        rooms = [room for question in some if (room := write_some.room(question)) is not None]
        new = max(1, min([longest, *rooms]))
        written = write_some(some, new, lambda n, before=done: on_text(before + n, len(asked)))
        for i, text in zip(members, written, strict=True):
            answers[i] = text
        done += len(members)
    return answers
