"""From config.data to batches: batch i is a pure function of (fingerprint, seed, i), for any number of hosts."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax.data import (
    augmented,
    bucketed,
    build,
    corrupted,
    corruptions,
    curriculum,
    examples,
    kinds,
    marks,
    mixtures,
    packing,
    record_rows,
    shards,
    sources,
    split,
    store,
    tokenizers,
    two_rows,
)
from lmjax.environment import cache_root
from lmjax.errors import UserError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Rows of tokens, labels and images: the training stream and the validation split."""

    train: packing.Stream
    valid: packing.Stream
    tokenizer: tokenizers.Tokenizer | None  # None for image_labels
    fingerprint: str  # of the contents of both splits, of the tokenizer and the labels
    stats: dict  # the manifest of the prepared data: counts, source, licence, citation
    kind: str = "text"
    classes: tuple[str, ...] = ()  # the labels' names, in the order of their numbers
    buckets: tuple[bucketed.Bucketed, bucketed.Bucketed] | None = None  # both splits by length: data.buckets

    @property
    def widths(self) -> tuple[int, ...]:
        """Tokens that the rows of a batch may have: a step is compiled for each."""
        return self.buckets[0].widths if self.buckets else (self.train.length,)

    def train_batch(self, i: int, batch: int, rows: slice | Sequence[int] = slice(None)) -> packing.Row:
        """Rows i * batch + rows of the training stream, stacked (kinds.fields); rows: those of the batch to make."""
        if self.buckets:
            return self.buckets[0].batch(i, batch, rows)
        return packing.batch(self.train, i * batch + np.arange(batch)[rows])

    def check(self, steps: int, batch: int) -> None:
        """UserError when the training stream has fewer rows than these steps take: a mixture of capped components."""
        end, needed = self.train.end, steps * batch
        if end is not None and needed > end:
            raise UserError(
                f"steps={steps} of batch={batch} take {needed:,} rows, and the mixture has {end:,}: every component has "
                "reached its data.mixture.repeats by then. Train for fewer steps, or allow more repeats"
            )

    def valid_batch(self, i: int, batch: int, rows: slice | Sequence[int] = slice(None)) -> packing.Row:
        """Likewise of the validation split; rows past its end are padding, of no weight."""
        if self.buckets:
            return self.buckets[1].batch(i, batch, rows)
        return packing.batch(self.valid, i * batch + np.arange(batch)[rows])

    def valid_batches(self, batch: int) -> int:
        """Batches that hold the whole validation split."""
        return self.buckets[1].batches(batch) if self.buckets else -(-len(self.valid) // batch)


def open_dataset(data: Any, seed: int, say: Callable[[str], None] = LOG.info, *, workers: int | None = None) -> Dataset:
    """The dataset of config.data, prepared now or found in the cache. say is told what takes long;
    workers: processes that prepare it, none for as many as there are cores.

    Training rows are those of data.packing, data.curriculum and data.mixture. The validation split is packed end to end
    (pairs: whole ones) whatever they are, so that numbers compare; of a mixture it is every component's.
    UserError for whatever is wrong with the text, the packages, the tokenizer or the cache.
    """
    _check(data)
    form = examples.form(data)
    record_rows.check_packing(form, data)
    if form.kind != "text" and getattr(getattr(data, "curriculum", None), "start_length", None) is not None:
        raise UserError(
            f"data.curriculum.start_length cuts texts into segments: of data.kind={form.kind} they stay whole"
        )
    asked = data = examples.completed(data, form)
    if (length := _text_length(data, form)) != data.length:
        data = examples.changed(data, length=length)
    if line := corrupted.report(asked):
        say(line)
    first = _open(data, seed, say, workers)
    mixed = getattr(data, "mixture", None)  # runs from before there were mixtures have no such leaves
    if mixed is None or not mixed.sources:
        _no_leaf_without_a_mixture(mixed)
        train, opened, stats = first.train, [first], first.stats
        fingerprint = stats["fingerprint"]
    else:
        _check_mixed(form)
        opened = [first, *_others(data, mixed.sources, first, seed, say, workers)]
        train, stats, fingerprint = _mix(data, mixed, opened, seed)
        for line in train.report():
            say(f"mixture: {line}")
    if getattr(data, "packing", "concat") != "concat" and form.texts:
        say(
            f"packing {data.packing}: {train.efficiency:.1%} of positions are tokens, {train.epoch_rows:,.0f} rows an epoch"
        )
    train = augmented.augment(train, data, seed, first.tokenizer)
    train = curriculum.grow(train, data.curriculum) if hasattr(data, "curriculum") else train
    buckets = bucketed.bucketed(form, asked, first.train.documents, first.valid, seed, first.tokenizer, say)
    validated = opened if getattr(data, "valid_source", None) is None else [first]
    valid = mixtures.joined([component.valid for component in validated])
    valid = record_rows.validation(form, data, valid, first.tokenizer)
    train, valid = _finished(train, asked, seed, first.tokenizer), _finished(valid, asked, None, first.tokenizer)
    classes = corrupted.classes(asked) or tuple(stats.get("labels", map(str, range(form.choices))))
    return Dataset(train, valid, first.tokenizer, fingerprint, stats, form.kind, classes, buckets)


def _text_length(data: Any, form: examples.Form) -> int:
    """Tokens of a row before it is corrupted, or parted into source and target."""
    if form.kind == "pairs" and getattr(data, "source_length", None) is not None:
        return two_rows.joint_length(data)
    return corruptions.text_length(data)


def _finished(stream: packing.Stream, data: Any, seed: int | None, tokenizer: Any) -> packing.Stream:
    """A split's rows with the fields that config.data asks for; seed None: for validation."""
    if kinds.kind_of(data) == "pairs" and getattr(data, "source_length", None) is not None:
        return two_rows.Parted(stream, data, tokenizer)
    return corrupted.corrupt(stream, data, seed, tokenizer)


class _Opened(NamedTuple):
    """One source, prepared, and its training rows."""

    train: packing.Stream
    valid: shards.Documents
    tokenizer: Any
    saved: Path  # where the tokenizer is
    stats: dict


def _open(data: Any, seed: int, say: Callable[[str], None], workers: int | None) -> _Opened:
    form = examples.form(data)
    source = sources.of_data(data, form.kind)
    folder, stats = store.sealed(
        cache_root() / "data",
        shards.parts(source, data),
        functools.partial(build.build, source=source, data=data, say=say, workers=workers),
        say,
    )
    stats["source"] = {"name": source.name, **source.about}  # the same bytes may have been prepared from another place
    tokenizer = tokenizers.load(folder / "tokenizer") if form.texts else None
    size = tokenizer.vocab_size if tokenizer else 0
    train, valid = (shards.load(folder, stats[name], name, size, form.head, form.tail) for name in shards.SPLITS)
    if marks.bert(data, form.kind):
        train, valid = (marks.marked(split, *map(tokenizer.special, marks.SPECIAL)) for split in (train, valid))
    if form.kind != "text":
        train, valid = _fitting(form, data, train, valid, tokenizer, stats, say)
    mode = getattr(data, "packing", "concat")
    if mode == "concat" and stats["train"]["tokens"] <= data.length:
        raise UserError(
            f"data.source={data.source} has {stats['train']['tokens']} tokens to train on, less than one row of "
            f"{'' if corruptions.section(data) else 'data.length='}{data.length} and the token after it: add text"
            + (f", raise data.limit={data.limit}" if stats["read"]["limited"] else "")
            + " or set a smaller data.length"
        )
    scores = curriculum.make(data.curriculum, train) if hasattr(data, "curriculum") else None
    rows = record_rows.training(form, data, train, seed, tokenizer, scores)
    return _Opened(rows, valid, tokenizer, folder / "tokenizer", stats)


def _fitting(form: examples.Form, data: Any, train: shards.Documents, valid: shards.Documents, tokenizer: Any,
             stats: dict, say: Callable[[str], None]) -> tuple[shards.Documents, shards.Documents]:  # fmt: skip
    """Both splits without what does not fit a row; stats and say are told of that, and of what will be cut."""
    splits = {"train": train, "valid": valid}
    kept = {name: record_rows.fits(form, data, split, tokenizer) for name, split in splits.items()}
    longer = {name: int((~some).sum()) for name, some in kept.items()}
    count, longest = sum(longer.values()), max(int(split.lengths.max(initial=0)) for split in splits.values())
    if form.kind == "choices":  # of which the question is cut, for the choices
        return train, valid
    if form.kind not in record_rows.WHOLE:
        stats["cut"] = longer
        if count:
            say(
                f"cut at the end: {count:,} texts longer than a row of data.length={data.length}, one of {longest:,} tokens"
            )
        return train, valid
    stats["left_out"] = {"longer than a row": longer}
    if count:
        say(f"left out: {count:,} longer than {_a_row(data)}; the longest has {longest:,} tokens")
    for name, documents in splits.items():
        if longer[name] == len(documents.lengths):
            raise UserError(
                f"data.source={data.source}: all {longer[name]:,} {form.kind} of the {name} split are longer than "
                f"{_a_row(data)} tokens; {longest} would hold them all"
            )
    return tuple(record_rows.fitting(split, kept[name]) for name, split in splits.items())


def _a_row(data: Any) -> str:
    """What a record must fit into; of pairs with a data.source_length the length is that of both rows."""
    source = getattr(data, "source_length", None)
    if source is None:
        return f"a row of data.length={data.length}"
    return f"rows of data.source_length={source} and data.length={data.length - source}"


def _check_mixed(form: examples.Form) -> None:
    if form.kind not in ("text", "pairs"):
        raise UserError(
            f"data.mixture.sources: text and pairs can be mixed, data.kind={form.kind} cannot; put its records into one folder"
        )


def _others(data: Any, names: Sequence[str], first: _Opened, seed: int, say: Callable[[str], None],
            workers: int | None) -> Iterator[_Opened]:  # fmt: skip
    """The other components of a mixture, in the ids of the first one's tokenizer: it is trained on data.source."""
    tokenizer = {}
    if tokenizers.settings(data)["kind"] not in ("bytes", "file"):
        tokenizer = {"tokenizer": str(first.saved / "tokenizer.json"), "vocab": None}
    for name in map(str, names):
        opened = _open(examples.changed(data, **tokenizer, source=name, valid_source=None), seed, say, workers)
        if opened.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise UserError(
                f"data.mixture.sources: {name} would not have the ids of {data.source}: data.tokenizer={data.tokenizer} "
                "cannot be shared; train one with `lmjax data tokenizer` and give its file"
            )
        yield opened


def _mix(data: Any, mixed: Any, opened: list[_Opened], seed: int) -> tuple[mixtures.Mixture, dict, str]:
    """The mixture of opened sources, what it is made of, and its fingerprint."""
    names = [data.source, *map(str, mixed.sources)]  # a folder called 2024 is read as a number
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"data.mixture.sources has {twice} twice, data.source={data.source} counted: name each once")
    weights = _one_each("weights", mixed.weights, names)
    caps = {name: cap for name, cap in (_one_each("repeats", mixed.repeats, names) or {}).items() if cap is not None}
    sizes = {name: component.stats["train"]["tokens"] for name, component in zip(names, opened, strict=True)}
    streams = {name: component.train for name, component in zip(names, opened, strict=True)}
    mixture = mixtures.Mixture(streams, mixtures.shares(sizes, weights, mixed.temperature), seed, caps)
    parts = [component.stats for component in opened]
    counted = ("documents", "tokens", "bytes", "token_bytes")
    stats = {split: {key: sum(part[split][key] for part in parts) for key in counted} for split in shards.SPLITS}
    stats["read"] = {
        key: sum(part["read"].get(key, 0) for part in parts) for key in {k: 0 for p in parts for k in p["read"]}
    }
    stats["source"] = {"name": " + ".join(part["source"]["name"] for part in parts)}
    content = json.dumps([part["fingerprint"] for part in parts])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    stats |= {
        "fingerprint": fingerprint,
        "components": dict(zip(names, parts, strict=True)),
        "mixture": mixture.report(),
    }
    return mixture, stats, fingerprint


def _one_each(leaf: str, values: Sequence | None, names: list[str]) -> dict[str, float | None] | None:
    """The numbers of a leaf of data.mixture by component; "none" stands for no cap."""
    if values is None:
        return None
    if len(values) != len(names):
        raise UserError(
            f"data.mixture.{leaf}={tuple(values)}: {len(values)} for {len(names)} components; one each, in the order of "
            f"{', '.join(names)}"
        )
    found = {}
    for name, value in zip(names, values, strict=True):
        none = leaf == "repeats" and value == "none"
        if not none and (isinstance(value, (str, bool)) or not (math.isfinite(value) and value > 0)):
            cap = ", or none for no cap" if leaf == "repeats" else ": leave out what is not wanted"
            raise UserError(f"data.mixture.{leaf}: {name} has {value!r}; a number above 0{cap}")
        found[name] = None if none else value
    return found


def _no_leaf_without_a_mixture(mixed: Any) -> None:
    if mixed is not None and (mixed.weights is not None or mixed.repeats is not None or mixed.temperature != 1):
        raise UserError("data.mixture has weights, repeats or a temperature and no sources: set data.mixture.sources, such as "
                        "botocore; what is mixed is data.source and these")  # fmt: skip


def _check(data: Any) -> None:
    if data.length < 1:
        raise UserError(f"data.length={data.length}: a row has at least one token")
    split.check(data)
    if data.limit is not None and data.limit < 1:
        raise UserError(f"data.limit={data.limit}: bytes of text to read at most; none reads all")
