"""Runs of models that are counted, not trained by gradients: `lmjax train` of n-grams.

The run directory, the data, the validation rows and the metrics are those of every other language model. A step counts
the next 1/steps of the training documents, in the order of the first epoch by `seed`; an n-gram counts each once.
`train/loss` is, like that of a network, of text not learnt yet: of `batch` training rows' worth of the step's documents
before they are counted, so ln(vocabulary) at the first. In chain.jsonl a step's batch is the documents it counts, and
its parameters are the counts. A run that was stopped counts again from the start.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lmjax import atomic, counted, resume, source
from lmjax.board import Board
from lmjax.chain import Chain, bits, digest
from lmjax.checkpoint import plain
from lmjax.config import config_hash, dumps, flatten
from lmjax.data import Dataset, open_dataset, packing
from lmjax.data.shards import Documents
from lmjax.errors import UserError, check_wanted
from lmjax.history import History
from lmjax.loop import due
from lmjax.models.ngram import Ngram, count
from lmjax.provenance import Manifest, RunLock, environment
from lmjax.trackers import RunInfo, open_tracker, require
from lmjax.view import View

DONE, STOPPED = 0, 75


class Stopped(Exception):
    """SIGTERM or SIGINT asked the run to stop."""


def train(selected: Any, folder: Path, options: Any) -> int:
    """Count `selected.config`'s text into `folder`, unless that is done; the exit code. options: `run.Options`."""
    config, view = selected.config, View()
    counted.check(config)
    check_wanted(options.wanted, ["train/loss", "train/nll", *(f"valid/{name}" for name in counted.METRICS)])
    if options.profile:
        raise UserError("--profile: an n-gram is counted without JAX, and there is nothing to trace")
    if options.track:
        require(options.track)
    if resume.is_finished(folder, config, options.allow_config_change, view):
        return DONE
    dataset = open_dataset(config.data, config.seed, view.say)
    if config.steps > len(dataset.train.documents.lengths):
        raise UserError(f"steps={config.steps}: there are {len(dataset.train.documents.lengths)} documents to count, and "
                        "each step takes a share of them")  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(RunLock(folder).release)
        manifest, history = Manifest(folder), History(folder / "metrics.jsonl")
        resume.check_same_data(manifest, dataset, options.allow_config_change, view)
        history.truncate_after(0)
        facts = gather_facts(selected, options, dataset)
        manifest.start(0, **facts)
        manifest.update(data=facts["data"], config_hash=facts["config_hash"])
        atomic.write(folder / "config.json", dumps(config))
        boards = [Board(folder, 1)]
        if options.track:
            boards.append(open_tracker(options.track, RunInfo(folder, selected.name, flatten(config), 1)))
        for board in boards:
            stack.callback(board.close)
        chain = Chain(folder, 0)
        stack.callback(chain.close)
        counted.introduce(view, selected, folder, dataset)
        stack.enter_context(stopping())
        return carry_out(config, dataset, folder, manifest, history, chain, boards, view)


def carry_out(config: ConfigDict, dataset: Dataset, folder: Path, manifest: Manifest, history: History, chain: Chain,
              boards: list, view: View) -> int:  # fmt: skip
    """Count, evaluate, save, and seal the manifest, whatever happens."""
    latest: dict[str, float] = {}

    def write(step: int, values: dict[str, float]) -> None:
        latest.update(values)
        history.append({"step": step, **values})
        for board in boards:
            board.scalars(step, values)

    view.start(0, config.steps)
    try:
        for step, batch, model, fresh, speed in learn(config, dataset):
            view.step(step)
            chain.step(step, batch, bits(fresh, 1.0))
            if due(step, config.every.log, config.steps):
                values = {"train/loss": fresh, "train/nll": fresh, "perf/tokens_per_second": speed}
                write(step, values)
                view.log(step, values)
            if due(step, config.every.eval, config.steps):
                values = {
                    f"valid/{name}": value
                    for name, value in counted.evaluate(model, counted.valid_batches(config, dataset)).items()
                }
                write(step, values)
                view.evaluation(step, values)
            if due(step, config.every.eval, config.steps) or due(step, config.every.save, config.steps):
                chain.params(counted.sha256(counted.by_name(model)))
        arrays = counted.by_name(model)
        plain.save(folder / "checkpoints", config.steps, arrays, latest[config.eval.metric])
        history.sync()
        chain.sync()
    except Stopped as stop:
        view.stop()
        manifest.finish("preempted", cause=str(stop))
        view.say(f"stopped by {stop}; counts are not kept amid a run: the same command counts again from the start")
        return STOPPED
    except BaseException as error:
        view.stop()
        with contextlib.suppress(UserError):  # the first error is the one to tell
            manifest.finish("failed", cause=f"{type(error).__name__}: {error}")
        raise
    view.stop()
    result = {"step": config.steps, "metrics": latest, "params_sha256": counted.sha256(arrays)}
    manifest.update(saved=config.steps, parameters=counted.grams(model))
    manifest.finish("completed", result=result)
    view.say(f"finished: {folder}  (params sha256 {result['params_sha256'][:12]})")
    view.say(resume.next_steps(folder, config))
    return DONE


def learn(config: ConfigDict, dataset: Dataset) -> Iterator[tuple[int, str, Ngram, float, float]]:
    """After each step: its number, the digest of its documents, the model, the loss on its rows before they were counted,
    tokens a second."""
    documents, tokenizer = dataset.train.documents, dataset.tokenizer
    order = packing.permutation(len(documents.lengths), config.seed, 0)
    model, ends = None, np.linspace(0, len(order), config.steps + 1).astype(int)
    for step in range(1, config.steps + 1):
        new = order[ends[step - 1] : ends[step]]
        rows, batch = fresh_rows(config, dataset, new), digest({"documents": counted.joined(documents, new)})
        fresh = math.log(tokenizer.vocab_size) if model is None else counted.evaluate(model, [rows])["loss"]
        began = time.monotonic()
        stream = counted.joined(documents, order[: ends[step]])
        model = count(stream, order=config.model.order, vocab=tokenizer.vocab_size, doc=tokenizer.doc)
        yield step, batch, model, fresh, len(stream) / max(time.monotonic() - began, 1e-9)


def fresh_rows(config: ConfigDict, dataset: Dataset, which: np.ndarray) -> Mapping[str, np.ndarray]:
    """At most `batch` rows of these training documents, as the validation split has them."""
    lengths = dataset.train.documents.lengths[which]
    needed = int(np.searchsorted(np.cumsum(lengths), config.batch * config.data.length)) + 1
    documents = dataset.train.documents
    some = Documents(lengths[:needed], lambda i, start, stop: documents.read(int(which[i]), start, stop))
    rows = packing.OrderedRows(some, config.data.length, dataset.tokenizer.doc, dataset.tokenizer.token_bytes)
    return packing.batch(rows, np.arange(config.batch))


def gather_facts(selected: Any, options: Any, dataset: Dataset) -> dict:
    """What the manifest says of this session."""
    config = selected.config
    return environment() | {
        "experiment": selected.name, "question": selected.question, "overrides": list(options.overrides),
        "config_hash": config_hash(config), "code": source.code(selected.source_file), "seed": config.seed, "mesh": {},
        "data": {"fingerprint": dataset.fingerprint, "tokenizer": dataset.tokenizer.fingerprint,
                 "source": config.data.source},
        "parameters": None, "peak": None,
    }  # fmt: skip


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Stopped` inside."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(signal.Signals(number).name)

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
