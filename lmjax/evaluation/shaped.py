"""The evaluation of rows of other shapes: tags of tokens, spans of a context, numbers, and pairs of sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.evaluate import intervals, numbers, spans
from lmjax.evaluation import predict
from lmjax.evaluation.report import LONGEST, WORST, Asked, Evaluation, Example, text_of
from lmjax.trained import Loaded

LONGEST_ANSWER = 30  # tokens; Devlin et al.'s published code
SHOWN = ("tokens", "segments")


def tags(loaded: Loaded, asked: Asked) -> Evaluation:
    """A tag a word: the share that is right, F1 of the tags, and entities where tags begin and go on (B-, I-)."""

    def keep(out: jax.Array, batch: Mapping[str, jax.Array]) -> dict:
        guess_bt = jnp.argmax(out, axis=-1)
        return {"guess": guess_bt} | {name: batch[name] for name in ("tags", "weights", *SHOWN)}

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    names, counted_nt = loaded.dataset.classes, rows["weights"] > 0
    pairs = [(rows["guess"][i][kept], rows["tags"][i][kept]) for i, kept in enumerate(counted_nt) if kept.any()]
    right = np.array([(guess == there).mean() for guess, there in pairs])
    sizes = np.array([len(there) for _, there in pairs], np.float64)
    said = [[[names[tag] for tag in side] for side in pair] for pair in pairs]
    written = [guess for guess, _ in said], [there for _, there in said]
    found, per_tag = spans.set_scores(*([_places(row) for row in side] for side in written))
    metrics = {"accuracy": intervals.mean(right, sizes, least=0, most=1), "macro_f1": found["macro_f1"]}
    if any(name.startswith("B-") for name in names):
        entities, per_tag = spans.entity_scores(*written)
        metrics |= {f"entity_{name}": estimate for name, estimate in entities.items()}
    where = np.flatnonzero(counted_nt.any(axis=1))
    worst = []
    for i in np.argsort(right, kind="stable")[:WORST]:
        wrong = [f"{there} as {guess}" for guess, there in zip(*said[i], strict=True) if guess != there]
        about = f"{right[i]:.0%} of {int(sizes[i])} tags are right; {', '.join(wrong[:8])}"
        worst.append(Example(about, text_of(loaded, rows, where[i])))
    return Evaluation(means, metrics, len(pairs), "texts", per_kind=per_tag, worst=worst)


def _places(tags: list[str]) -> set[spans.Entity]:
    """Each tag at its place."""
    return {spans.Entity(tag, i, i) for i, tag in enumerate(tags)}


def answers(loaded: Loaded, asked: Asked) -> Evaluation:
    """A span of the context: exact match and F1 of its words, as SQuAD has them."""
    sep = loaded.dataset.tokenizer.special("sep")

    def keep(out: jax.Array, batch: Mapping[str, jax.Array]) -> dict:
        first_b, last_b = best_span(out, in_context(batch, sep))
        return {"first": first_b, "last": last_b} | {
            name: batch[name] for name in ("start", "end", "weights", "types", *SHOWN)
        }

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    rows = {name: array[rows["weights"] > 0] for name, array in rows.items()}
    said, there = (_between(loaded, rows, *ends) for ends in (("first", "last"), ("start", "end")))
    metrics = spans.answers(said, there)
    same = (rows["first"] == rows["start"]) & (rows["last"] == rows["end"])
    metrics["same_span"] = intervals.share(same)
    f1 = np.array([spans.answer_f1(a, b) for a, b in zip(said, there, strict=True)])
    worst = []
    for i in np.argsort(f1, kind="stable")[:WORST]:
        shown = {"said": said[i][:LONGEST], "there": there[i][:LONGEST], **text_of(loaded, rows, i)}
        worst.append(Example(f"F1 {f1[i]:.2f}", shown))
    return Evaluation(means, metrics, len(said), "questions", worst=worst)


def in_context(batch: Mapping[str, jax.Array], sep: int) -> jax.Array:
    """Where an answer can be, boolean (b, t): in the second text of a row, without the <sep> that ends it."""
    return (batch["types"] > 0) & (batch["segments"] > 0) & (batch["tokens"] != sep)


def _between(loaded: Loaded, rows: Mapping[str, np.ndarray], first: str, last: str) -> list[str]:
    """The text from one token to another of each row, both included."""
    ends = zip(rows["tokens"], rows[first], rows[last], strict=True)
    return [loaded.dataset.tokenizer.decode(row[a : b + 1].tolist()).strip() for row, a, b in ends]


def best_span(logits_bt2: jax.Array, context_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first and the last token (b,) of the likeliest span of the context, of `LONGEST_ANSWER` tokens at most.

    Devlin et al. 2019, section 4.2: of the largest sum of both logits, the last token not before the first.
    """
    t = logits_bt2.shape[1]
    logits_bt2 = jnp.where(context_bt[..., None], logits_bt2, -jnp.inf)
    distance_tt = jnp.arange(t)[None, :] - jnp.arange(t)[:, None]
    legal_tt = (distance_tt >= 0) & (distance_tt < LONGEST_ANSWER)
    sums_btt = jnp.where(legal_tt, logits_bt2[:, :, None, 0] + logits_bt2[:, None, :, 1], -jnp.inf)
    at_b = jnp.argmax(sums_btt.reshape(len(sums_btt), -1), axis=1)
    return at_b // t, at_b % t


def values(loaded: Loaded, asked: Asked) -> Evaluation:
    """A number a text: absolute and squared errors, correlations."""

    def keep(out: jax.Array, batch: Mapping[str, jax.Array]) -> dict:
        return {"guess": out} | {name: batch[name] for name in ("value", "weights", *SHOWN)}

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    rows = {name: array[rows["weights"] > 0] for name, array in rows.items()}
    off = np.abs(rows["guess"] - rows["value"])
    worst = [Example(f"{rows['value'][i]:.4g}, taken for {rows['guess'][i]:.4g}", text_of(loaded, rows, i))
             for i in np.argsort(-off, kind="stable")[:WORST]]  # fmt: skip
    metrics = numbers.regression(rows["value"], rows["guess"])
    return Evaluation(means, metrics, len(off), "texts", worst=worst)


def masked(loaded: Loaded, asked: Asked) -> Evaluation:
    """Tokens in the places of others: their likelihood and the share that is right; of pairs of texts the labels too."""

    def keep(out: Any, batch: Mapping[str, jax.Array]) -> dict:
        if "label_weights" not in batch:
            return predict.tokens(out, batch)
        told, logits_bn = (out["masked"], out["label"]) if isinstance(out, dict) else out
        right_b = jnp.argmax(logits_bn, axis=-1) == batch["label"]
        return predict.tokens(told, batch) | {"label_weights": batch["label_weights"], "label_right": right_b}

    means, rows = predict.predict(loaded, keep, batch=asked.batch, on_batch=asked.bar_of("batches"))
    kept = rows["weights"] > 0
    rows = {name: array[kept] for name, array in rows.items()}
    weights = rows["weights"].astype(np.float64)
    metrics = {
        "nll": intervals.mean(rows["nll"] / weights, weights),
        "accuracy": intervals.mean(rows["right"] / weights, weights, least=0, most=1),
    }
    if "label_weights" in rows:
        metrics["label_accuracy"] = intervals.share(rows["label_right"][rows["label_weights"] > 0])
    return Evaluation(means, metrics, len(weights), "rows")
