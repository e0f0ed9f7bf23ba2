"""What is measured of a run, by what its model gives: classes, tokens, texts, embeddings, tags or spans."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmjax.data import kinds
from lmjax.errors import unknown
from lmjax.evaluate import classes, intervals, retrieval
from lmjax.evaluate.intervals import Estimate
from lmjax.evaluation import predict, shaped, written
from lmjax.evaluation.report import WORST, Asked, Evaluation, Example, text_of
from lmjax.models.fit import MODELS
from lmjax.trained import Loaded


def judge(loaded: Loaded, asked: Asked = Asked()) -> Evaluation:
    """The evaluation of a run over its whole validation split. UserError for metrics that it does not have."""
    judged = _judge_of(loaded)
    found = judged(loaded, asked)
    return found if judged is texts else chosen(found, asked)  # texts computes those that were asked for


def chosen(found: Evaluation, asked: Asked) -> Evaluation:
    """With the metrics that were asked for."""
    for name in asked.metrics:
        if name not in found.metrics:
            raise unknown("metric in --metrics", name, found.metrics)
    if asked.metrics:
        found.metrics = {name: found.metrics[name] for name in asked.metrics}
    return found


def _judge_of(loaded: Loaded) -> Callable[[Loaded, Asked], Evaluation]:
    config = loaded.program.config
    kind, model = kinds.kind_of(config.data), MODELS.get(config.model.kind)
    if kind in written.KINDS and hasattr(loaded.program.model, "init_cache"):
        return texts
    if model is not None and model.gives in GIVES:
        return GIVES[model.gives]
    return labels if "label" in kinds.fields(config.data) else objective


def labels(loaded: Loaded, asked: Asked) -> Evaluation:
    """One label a row: accuracy, precision, recall, F1, area under the ROC curve, calibration, confusion matrix."""
    means, rows = predict.predict(loaded, predict.classes, batch=asked.batch, on_batch=asked.bar_of("batches"))
    kept = rows["weights"] > 0
    rows = {name: array[kept] for name, array in rows.items()}
    label_n, shares_nc = rows["label"], rows["shares"].astype(np.float64)
    shares_nc /= shares_nc.sum(axis=1, keepdims=True)
    names = loaded.dataset.classes
    answers = kinds.kind_of(loaded.program.config.data) == "choices"  # their places in a row are no classes
    fixed = len(names) == shares_nc.shape[1] and not answers
    found = classes.classification(label_n, shares_nc, names if fixed else [str(i) for i in range(shares_nc.shape[1])])
    named = dict(found.metrics) if fixed else {name: found.metrics[name] for name in ("accuracy", "calibration_error")}
    share_n = shares_nc[np.arange(len(label_n)), label_n]
    worst = []
    for i in np.argsort(share_n, kind="stable")[:WORST]:
        guess = int(shares_nc[i].argmax())
        there, said = (names[j] if fixed else str(j) for j in (label_n[i], guess))
        about = f"{there}, which had {share_n[i]:.1%}; taken for {said} with {shares_nc[i, guess]:.1%}"
        image = rows["image"][i] if "image" in rows else None
        worst.append(Example(about, text_of(loaded, rows, i), image))
    return Evaluation(means, named, len(label_n), "examples", classification=found if fixed else None, names=names,
                      worst=worst)  # fmt: skip


def tokens(loaded: Loaded, asked: Asked) -> Evaluation:
    """Tokens: negative log-likelihood, bits a byte and perplexity, their errors from the rows as independent examples."""
    shown = {"tokens", "segments"} <= kinds.fields(loaded.program.config.data).keys()

    def keep(out: Any, batch: Any) -> dict:
        return predict.tokens(out, batch) | ({name: batch[name] for name in ("tokens", "segments")} if shown else {})

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    return of_rows(loaded, means, rows)


def of_rows(loaded: Any, means: dict[str, float], rows: dict[str, np.ndarray]) -> Evaluation:
    """The evaluation of rows of tokens, with the sums `nll`, `weights` and `bytes` of each."""
    return Evaluation(means, of_tokens(rows), int((rows["weights"] > 0).sum()), "rows", worst=_worst_rows(loaded, rows))


def of_tokens(rows: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """`nll`, `bits_per_byte` and `perplexity` of rows with these sums."""
    weights = rows["weights"].astype(np.float64)
    nll = intervals.mean(_over(rows["nll"], weights), weights)
    spans = rows["bytes"].astype(np.float64)
    bits = intervals.mean(_over(rows["nll"] / math.log(2), spans), spans)
    value = math.exp(min(nll.value, 700.0))
    ends = (math.exp(min(end, 700.0)) for end in (nll.low, nll.high))
    perplexity = Estimate(value, value * nll.error, *ends, nll.count)
    return {"nll": nll, "bits_per_byte": bits, "perplexity": perplexity}


def texts(loaded: Loaded, asked: Asked) -> Evaluation:
    """Texts that the model writes, of pairs or images: BLEU and chrF, ROUGE, exact match; and the tokens' likelihood."""
    names = written.chosen(asked.metrics, kinds.kind_of(loaded.program.config.data))
    means, rows = predict.predict(loaded, predict.tokens, batch=asked.batch, on_batch=asked.bar_of("batches"))
    found = written.write(loaded, asked.decoding, names, asked.bar_of("texts"))
    metrics = {**found.metrics, **of_tokens(rows)}
    worst = [Example(about, shown, image) for about, shown, image in found.worst[:WORST]]
    return Evaluation(means, metrics, found.count, "texts", found.signatures, asked.decoding.about(), worst=worst)


def pairs_of_vectors(loaded: Loaded, asked: Asked) -> Evaluation:
    """Images and texts in one space: recall at ranks and the mean reciprocal rank, of texts by image and the reverse."""

    def keep(out: Any, batch: Any) -> dict:
        found = {"image_bo": out.image_bo, "text_bo": out.text_bo, "weights": batch["weights"].sum(axis=1)}
        return found | {name: batch[name] for name in ("tokens", "segments", "image")}

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    kept = rows["weights"] > 0
    rows = {name: array[kept] for name, array in rows.items()}
    similarity_nm = rows["image_bo"].astype(np.float64) @ rows["text_bo"].astype(np.float64).T
    ranks = {"text_by_image": retrieval.ranks(similarity_nm), "image_by_text": retrieval.ranks(similarity_nm.T)}
    metrics = {f"{way}/{name}": estimate for way, ranks_n in ranks.items()
               for name, estimate in retrieval.retrieval(ranks_n).items()}  # fmt: skip
    worst = []
    for i in np.argsort(-ranks["text_by_image"], kind="stable")[:WORST]:
        nearest = int(similarity_nm[i].argmax())
        shown = {"its text": text_of(loaded, rows, i)["text"], "nearest": text_of(loaded, rows, nearest)["text"]}
        worst.append(Example(f"its text is at rank {ranks['text_by_image'][i]}", shown, rows["image"][i]))
    return Evaluation(means, metrics, len(similarity_nm), "pairs", worst=worst)


def objective(loaded: Loaded, asked: Asked) -> Evaluation:
    """A model of which nothing is known: the means of its objective."""
    means, _ = predict.predict(loaded, predict.nothing, batch=asked.batch, on_batch=asked.bar_of("batches"))
    return Evaluation(means, {}, len(loaded.dataset.valid), "rows")


GIVES = {
    "classes": labels, "next tokens": tokens, "embeddings": pairs_of_vectors, "tags": shaped.tags,
    "spans": shaped.answers, "a number": shaped.values, "tokens in place": shaped.masked,
    "tokens in place and classes": shaped.masked, "several outputs": shaped.masked,
}  # fmt: skip


def _worst_rows(loaded: Loaded, rows: dict[str, np.ndarray]) -> list[Example]:
    nll = np.where(rows["weights"] > 0, _over(rows["nll"], rows["weights"]), -math.inf)
    order: Sequence[int] = [i for i in np.argsort(-nll, kind="stable")[:WORST] if rows["weights"][i] > 0]
    return [Example(f"row {i}: {nll[i]:.3f} nats a token", text_of(loaded, rows, i)) for i in order]


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)
