"""From a source to sealed token shards, in parts that can be made side by side, in any order, and after a kill.

A part is about 16 MiB of the source: the next of its pieces. It has shards of its own and a note, written after them,
with what is in them; a part with a whole note and whole shards is not made again. Which process made a part, and when,
is nowhere in its bytes, so a build gives the same folder for any number of workers and interruptions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import atomic
from lmjax.data import card, cleaning, examples, plan, shards, sources, text, tokenizers, worker
from lmjax.data.plan import Plan
from lmjax.data.records import Record
from lmjax.data.split import Split, bounds, check_documents
from lmjax.errors import UserError

DOCUMENTS, BYTES = 1024, 2 << 20  # tokenized at a time, whichever is reached first
NO_TOKENS = np.zeros(0, np.int64)  # bytes of each id, where there are none
LOG = logging.getLogger(__name__)


@worker.lean()
def build(folder: Path, notes: Path, source: sources.Source, data: Any, say: Callable[[str], None],
          workers: int | None = None) -> dict:  # fmt: skip
    """Tokenizes source into folder and returns the manifest, going on with what notes says is there already.

    workers: processes, as many as there are cores unless given. UserError when a split is empty.
    """
    say(f"preparing {source.name} in {folder.parents[1]}: once, then it is reused")
    workers = _cores() if workers is None else workers
    todo = plan.make(folder, notes, source, data)
    tokenizer, done = _what_is_there(todo)
    plan.decide(todo, workers, say)
    plan.count_labels(todo, workers, say)
    if tokenizer is None and todo.form.texts:
        tokenizer = _tokenizer(todo, data, say)
    elif done:
        say(f"{len(done)} of {len(todo.parts)} parts were prepared before")
    say("tokenizing" if todo.form.texts else "scaling the images")
    with _progress(len(todo.parts), len(done)) as advance:
        for _ in worker.each(Make(todo), [number for number in todo.numbers if number not in done], workers):
            advance()
    manifest = _finish(todo, tokenizer, data, say)
    found = plan.contamination(todo, workers, say)
    manifest |= {"contamination": found} if found else {}
    card.write_card(folder, manifest)
    return manifest


@dataclass(frozen=True)
class Make:
    """Makes a part, in any process."""

    plan: Plan

    def __call__(self, number: int) -> None:
        make_part(self.plan, number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_part(todo: Plan, number: int) -> None:
    """Writes the shards of a part, their documents' lengths, and last the note that they are whole.

    Each file appears whole in its place, by a rename, so the same part may be made twice at the same time.
    """
    tokenizer, form = _loaded(todo.folder / "tokenizer") if todo.form.texts else None, todo.form
    tally, report, split = Counter(), cleaning.Report(), todo.split(number)
    labels = {name: i for i, name in enumerate(plan.labels(todo)["labels"])} if form.labelled else {}
    size, token_bytes = (tokenizer.vocab_size, tokenizer.token_bytes) if tokenizer else (0, NO_TOKENS)
    with tempfile.TemporaryDirectory(prefix="part-", dir=todo.notes) as place:
        aside = Path(place)
        writers = {name: shards.Writer(aside, name, number, size, form.head) for name in shards.SPLITS}
        for batch in batches(plan.read(todo, number, tally, report), form):
            made = {name: ([], []) for name in shards.SPLITS}  # records, and what is written of them
            for record, (ids, sizes) in zip(batch, form.encode(batch, tokenizer), strict=True):
                name = split.of(form.identity(record))
                if form.labelled and not set(form.labels(record)) <= labels.keys():
                    tally["unseen_labels"] += 1
                    continue
                head, tail = form.fixed(record, labels, sizes, tokenizer), form.behind(record, labels, sizes)
                made[name][0].append(record)
                made[name][1].append((ids, head, tail))
            for name, (records, written) in made.items():
                writers[name].extend(written, form.text_bytes(records), token_bytes)
        splits = {name: writer.close() for name, writer in writers.items()}
        for name, writer in writers.items():
            lengths = aside / f"{number:05d}.{name}.lengths"
            lengths.write_bytes(np.array(writer.lengths, np.int64).tobytes())
            splits[name]["lengths"] = text.sha256(lengths)
            os.replace(lengths, todo.notes / lengths.name)
            for file in splits[name]["files"]:
                file["sha256"] = text.sha256(aside / file["name"])
                os.replace(aside / file["name"], todo.folder / file["name"])
        note = {
            "tokenizer": tokenizer.fingerprint if tokenizer else None,
            "read": dict(tally),
            "fractions": [split.lowest, split.highest],
            "cleaning": report.as_json(),
            **splits,
        }
        atomic.write(aside / f"{number:05d}.json", json.dumps(note))
        os.replace(aside / f"{number:05d}.json", todo.notes / f"{number:05d}.json")
    if isinstance(tokenizer, tokenizers.HuggingFace):
        tokenizer.forget()  # else memory grows with the words of all parts


def batches(records: Iterator[Record], form: examples.Form) -> Iterator[list[Record]]:
    """Lists of records of bounded number and size, as they are read and as they are kept."""
    batch, size, most = [], 0, min(DOCUMENTS, 1 + BYTES // max(1, form.head.itemsize))
    for record in records:
        batch.append(record)
        size += form.size(record)
        if len(batch) == most or size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path) -> Any:
    return tokenizers.load(folder)


def _tokenizer(todo: Plan, data: Any, say: Callable[[str], None]) -> Any:
    """The tokenizer of config.data, trained when it must be, saved in the folder."""
    if tokenizers.settings(data)["kind"] not in ("bytes", "file"):
        say("training the tokenizer on the training split")
    tokenizer = tokenizers.make(data, _training_text(todo, tokenizers.sample(data, todo.source.size)))
    examples.check_tokenizer(tokenizer, todo.form, data)
    tokenizer.save(todo.folder / "tokenizer")
    _loaded.cache_clear()
    atomic.write(todo.notes / "tokenizer.json", json.dumps({"fingerprint": tokenizer.fingerprint}))
    return tokenizer


def _training_text(todo: Plan, most: int | None) -> Iterator[str]:
    """The training split; or `most` bytes of it, from the beginnings of all parts."""
    for number in todo.numbers[: todo.given]:
        left = most and -(-most // len(todo.numbers[: todo.given]))
        for record in plan.of_split(todo, number, "train"):
            yield from todo.form.passages(record)
            left = left and left - todo.form.text_bytes([record])
            if left is not None and left <= 0:
                break


def _what_is_there(todo: Plan) -> tuple[Any, set[int]]:
    """The tokenizer and the numbers of the parts that an earlier process left whole; whatever else it left is removed."""
    tokenizer, done, keep = None, set(), set()
    texts = bool(todo.form.texts)
    with contextlib.suppress(OSError, ValueError, KeyError):
        fingerprint = json.loads((todo.notes / "tokenizer.json").read_text())["fingerprint"]
        with contextlib.suppress(UserError):
            tokenizer = tokenizers.load(todo.folder / "tokenizer")
        if tokenizer and tokenizer.fingerprint != fingerprint:
            tokenizer = None
    for number in todo.numbers if tokenizer or not texts else ():
        if (files := _whole(todo, number, tokenizer.fingerprint if texts else None)) is not None:
            done.add(number)
            keep |= files
    for path in todo.folder.iterdir():
        if path.is_dir() and not (tokenizer and path.name == "tokenizer"):
            shutil.rmtree(path)
        elif path.is_file() and path.name not in keep:
            path.unlink()
    return tokenizer, done


def _whole(todo: Plan, number: int, tokenizer: str | None) -> set[str] | None:
    """The names of a part's shards when all that its note says of them is so."""
    try:
        note = _note(todo, number)
        for name in shards.SPLITS:
            lengths = (todo.notes / f"{number:05d}.{name}.lengths").read_bytes()
            if hashlib.sha256(lengths).hexdigest() != note[name]["lengths"]:
                return None
            if any(text.sha256(todo.folder / file["name"]) != file["sha256"] for file in note[name]["files"]):
                return None
        same = note["tokenizer"] == tokenizer
        return {file["name"] for name in shards.SPLITS for file in note[name]["files"]} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(todo: Plan, number: int) -> dict:
    return json.loads((todo.notes / f"{number:05d}.json").read_text())


def _finish(todo: Plan, tokenizer: Any, data: Any, say: Callable[[str], None]) -> dict:
    """The manifest of all parts; their lengths as one array a split."""
    tally = Counter(documents=0, bytes=0, empty=0, limited=0)
    split, splits = Split(*bounds(data)), {}
    notes = [_note(todo, number) for number in todo.numbers]
    for note in notes:
        tally.update(note["read"])
        split.saw(*note["fractions"])
    for name in shards.SPLITS:
        lengths = [(todo.notes / f"{number:05d}.{name}.lengths").read_bytes() for number in range(len(notes))]
        np.save(todo.folder / f"{name}.lengths.npy", np.frombuffer(b"".join(lengths), np.int64))
        files = [{key: file[key] for key in ("name", "documents")} for note in notes for file in note[name]["files"]]
        sums = {key: sum(note[name][key] for note in notes) for key in ("documents", "tokens", "bytes", "token_bytes")}
        size = tokenizer.vocab_size if tokenizer else 0
        digest = shards.content_sha256(todo.folder, files, size, todo.form.head, todo.form.tail)
        splits[name] = {"files": files, **sums, "sha256": digest}
    read = {**tally, "limited": bool(tally["limited"])}
    split.check(read, data)
    check_documents(splits, data)
    about = todo.source.about
    left_out = about.get("other_files", {}) | ({"empty documents": read["empty"]} if read["empty"] else {})
    report = cleaning.merged(note["cleaning"] for note in notes)
    left_out = left_out | dict(sorted({**report.removed, **report.bad}.items()))
    known = plan.labels(todo) if todo.form.labelled else {"labels": [], "unseen_labels": {}}
    left_out |= {
        f"of label {label!r}, never seen in training": count for label, count in known["unseen_labels"].items()
    }
    if left_out:
        say(f"left out: {text.listing(left_out)}")
    _warn_of_loss(splits, data.tokenizer)
    digests = {name: splits[name]["sha256"] for name in shards.SPLITS}
    content = {"tokenizer": tokenizer.fingerprint if tokenizer else None, **digests, **todo.form.key}
    content |= {"labels": known["labels"]} if todo.form.labelled else {}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"fingerprint": fingerprint, **todo.form.key, "source": {"name": todo.source.name, **about}, "read": read,
            **splits, **(known if todo.form.labelled else {}), **_cleaned(todo, report)}  # fmt: skip


def _cleaned(todo: Plan, report: cleaning.Report) -> dict:
    """What a manifest says of cleaning, nothing when no rule is on; samples of what was removed go into cleaning.json."""
    if not cleaning.key(todo.clean):
        return {}
    found = report.as_json()
    (todo.folder / "cleaning.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return {"cleaning": {name: found[name] for name in ("read", "kept", "removed", "changed", "bad")}}


def _warn_of_loss(splits: dict, tokenizer: str) -> None:
    size, tokens = (sum(splits[name][key] for name in shards.SPLITS) for key in ("bytes", "token_bytes"))
    if size != tokens:
        LOG.warning(
            "data.tokenizer=%s does not keep this text exactly: its ids stand for %d bytes where the text has %d, so "
            "bits per byte is an estimate",
            *(tokenizer, tokens, size),
        )


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal when there are several parts; gives the function that moves it by one."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("part"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda: bar.advance(task)
