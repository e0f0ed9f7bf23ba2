"""What is reached without learning much: the commonest class, a linear classifier of words, the source copied, chance.

    python benchmarks/trivial.py german mnist

Each is made from a study's own training split and judged on its own validation split by lmjax's metrics; they stand in
experiments/results/trivial.json, by study, metric and guess. `benchmarks/record.py` puts them beside what was trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "experiments" / "results" / "trivial.json"
sys.path.insert(0, str(ROOT))

Scores = dict[str, dict[str, float]]  # by metric and guess


def counted(config: Any) -> Scores:
    """Each byte by its share of the training split, whatever stands before it."""
    dataset = opened(config)
    train, valid = (
        b"".join(dataset.tokenizer.decode(row["tokens"][row["segments"] > 0]).encode() for row in rows_of(split))
        for split in (dataset.train, dataset.valid)
    )
    counts, there = (np.bincount(np.frombuffer(text, np.uint8), minlength=256) for text in (train, valid))
    bits = -np.log2((counts + 1) / (counts + 1).sum())
    return {"bits_per_byte": {"each byte by its share": float((there * bits).sum() / there.sum())}}


def translated(config: Any) -> Scores:
    """The source as it is."""
    asked = questions(opened(config), config)
    return judged({"the source copied": [pair.prompt for pair in asked]}, asked, ("bleu", "chrf"))


def pronounced(config: Any) -> Scores:
    """For each letter the sound that stands most often at its place, where there are as many sounds as letters."""
    dataset, counts = opened(config), dict[str, Counter]()
    for source, target in pairs(dataset):
        letters, sounds = source.split(), target.split()
        if len(letters) == len(sounds):
            for letter, sound in zip(letters, sounds, strict=True):
                counts.setdefault(letter, Counter())[sound] += 1
    commonest = {letter: count.most_common(1)[0][0] for letter, count in counts.items()}
    asked = questions(dataset, config)
    written = [" ".join(commonest[letter] for letter in pair.prompt.split() if letter in commonest) for pair in asked]
    return judged({"each letter's commonest sound": written}, asked, ("word_error", "exact_match"))


def shortened(config: Any) -> Scores:
    """The commonest summary, and the first words of the text: as many as are best, of 6 to 16, on the training split."""
    from lmjax.evaluate import texts

    dataset = opened(config)
    found = list(pairs(dataset))
    some, commonest = found[::20], Counter(target for _, target in found).most_common(1)[0][0]

    def of_training(n: int) -> float:
        scored = texts.scores([first(source, n) for source, _ in some], [target for _, target in some], ("rouge",))
        return scored["rouge"].metrics["rougeL"].value

    best, asked = max(range(6, 17, 2), key=of_training), questions(dataset, config)
    guesses = {"the commonest summary": [commonest] * len(asked),
               f"the first {best} words": [first(pair.prompt, best) for pair in asked]}  # fmt: skip
    return judged(guesses, asked, ("rouge",))


def topics(config: Any) -> Scores:
    """The commonest topic, and linear support vectors of all words of a text, weighted by tf-idf."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    from lmjax.data import corpora

    train, test = (list(corpora.records(f"{config.data.source}:{split}")) for split in ("train", "test"))
    words = TfidfVectorizer()
    weights = words.fit_transform(record["text"] for record in train)
    labels, there = (np.array([record["label"] for record in some]) for some in (train, test))
    linear = LinearSVC().fit(weights, labels).predict(words.transform(record["text"] for record in test))
    return {"accuracy": {"the commonest topic": right(commonest_of(labels), there),
                         "linear, all words": right(linear, there)}}  # fmt: skip


def digits(config: Any) -> Scores:
    """The commonest digit, and logistic regression of the pixels."""
    from sklearn.linear_model import LogisticRegression

    dataset = opened(config)
    (images, labels), (others, there) = labelled(dataset.train), labelled(dataset.valid)
    linear = LogisticRegression(max_iter=200).fit(images, labels).predict(others)
    return {"accuracy": {"the commonest digit": right(commonest_of(labels), there),
                         "linear, all pixels": right(linear, there)}}  # fmt: skip


def captioned(config: Any) -> Scores:
    """The commonest caption, and that of the training image whose pixels are nearest."""
    dataset = opened(config)
    rows = list(rows_of(dataset.train))
    captions = [dataset.tokenizer.decode(row["tokens"][row["segments"] == 1][1:]) for row in rows]
    known, asked = pixels([row["image"] for row in rows]), questions(dataset, config)
    new = pixels([question.image for question in asked])
    nearest = ((known**2).sum(1)[None] - 2 * new @ known.T).argmin(axis=1)
    guesses = {"the commonest caption": [Counter(captions).most_common(1)[0][0]] * len(asked),
               "that of the nearest image": [captions[i] for i in nearest]}  # fmt: skip
    return judged(guesses, asked, ("rouge", "bleu"))


def matched(config: Any) -> Scores:
    """Any order of the candidates."""
    n = len(opened(config).valid)
    return {f"{way}/recall@{k}": {"chance": k / n} for way in ("text_by_image", "image_by_text") for k in (1, 10)}


STUDIES: dict[str, Callable[[Any], Scores]] = {
    "language_ladder": counted, "optimizers": counted, "positions": counted,
    "german": translated, "german_rnn": translated, "pronunciation": pronounced, "summaries": shortened,
    "minilm_topics": topics, "news_topics": topics, "mnist": digits, "captions": captioned, "emoji_retrieval": matched,
}  # fmt: skip


def opened(config: Any) -> Any:
    """The dataset of a config, its images as they are."""
    from lmjax.config import update
    from lmjax.data import open_dataset

    return open_dataset(update(config, {"data.augment.image": ()}).data, config.seed)


def rows_of(stream: Any) -> Iterator[dict]:
    """Every row of a split once."""
    return (stream.row(i) for i in range(int(getattr(stream, "epoch_rows", None) or len(stream))))


def pairs(dataset: Any) -> Iterator[tuple[str, str]]:
    """Source and target of every pair of the training split."""
    decode = dataset.tokenizer.decode
    for row in rows_of(dataset.train):
        yield decode(row["source"][row["source_segments"] > 0][:-1]), decode(row["tokens"][row["segments"] > 0][1:])


def questions(dataset: Any, config: Any) -> list:
    """What a model is asked in validation."""
    from lmjax import asking

    return asking.questions(dataset, config.data.kind)


def judged(guesses: dict[str, Sequence[str]], asked: Sequence[Any], metrics: Sequence[str]) -> Scores:
    """The metrics of each guess at the answers."""
    from lmjax.evaluate import texts

    found: Scores = {}
    for name, written in guesses.items():
        for scored in texts.scores(written, [question.answer for question in asked], metrics).values():
            for metric, estimate in scored.metrics.items():
                found.setdefault(metric, {})[name] = estimate.value
    return found


def labelled(stream: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 1, flat, and the labels of a split."""
    rows = [row for row in rows_of(stream) if np.all(row["weights"] > 0)]
    return pixels([row["image"] for row in rows]), np.array([row["label"] for row in rows])


def pixels(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(images).reshape(len(images), -1).astype(np.float32) / 255


def commonest_of(labels: np.ndarray) -> Any:
    values, counts = np.unique(labels, return_counts=True)
    return values[counts.argmax()]


def right(guess: Any, there: np.ndarray) -> float:
    return float((guess == there).mean())


def first(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def main() -> int:
    from lmjax.experiment import study

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", choices=sorted(STUDIES), metavar="STUDY")
    for name in parser.parse_args().studies:
        found = STUDIES[name](study(name).config())
        saved = json.loads(SAVED.read_text()) if SAVED.exists() else {}
        SAVED.write_text(json.dumps(saved | {name: found}, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
