"""What a counted run is good for: an n-gram model from its checkpoint, evaluated, and asked for text. No JAX compiles
anything but the choice of a token. `lmjax.counting` makes such runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lmjax import chain, resume
from lmjax.checkpoint import plain
from lmjax.config import flatten, loads
from lmjax.data import Dataset, open_dataset
from lmjax.data.shards import Documents
from lmjax.errors import UserError, unknown
from lmjax.models.ngram import Ngram, Order
from lmjax.provenance import Manifest
from lmjax.view import View

KINDS = ("ngram",)  # of model.kind
METRICS = ("loss", "nll", "bits_per_byte", "perplexity")


class Loaded(NamedTuple):
    """A counted run, opened for reading."""

    config: ConfigDict
    dataset: Dataset
    model: Ngram
    step: int


def is_counted(folder: Path) -> bool:
    """Whether a run directory is of such a model."""
    try:
        return loads((folder / "config.json").read_text()).model.kind in KINDS
    except (OSError, AttributeError):
        return False


def check(config: ConfigDict) -> None:
    """UserError for leaves that an n-gram cannot honour."""
    data = config.data
    if "order" not in config.model:
        raise UserError(f"model.kind={config.model.kind} needs model.order, which this config lacks (configs/ngram.py:small is "
                        "such a config)")  # fmt: skip
    for name, value in (("model.order", config.model.order), ("steps", config.steps), ("batch", config.batch),
                        ("data.length", data.length), ("every.log", config.every.log),
                        ("every.eval", config.every.eval)):  # fmt: skip
        if value < 1:
            raise UserError(f"{name}={value}: at least 1")
    for name in ("batch", "batches"):
        if config.eval[name] is not None and config.eval[name] < 1:
            raise UserError(f"eval.{name}={config.eval[name]}: at least 1")
    if config.objective.kind != "next_token":
        raise UserError(f"objective.kind={config.objective.kind}: an n-gram predicts the next token; next_token")
    if data.kind != "text":
        raise UserError(f"data.kind={data.kind}: an n-gram is of text (configs/ngram.py:small is such a config)")
    asked = {"data.mixture.sources": data.mixture.sources, "data.augment.text": data.augment.text}
    asked |= {"data.curriculum.by": data.curriculum.by, "data.corruption.kind": data.corruption.kind}
    for name, value in (asked | {"data.source_length": data.source_length}).items():
        if value not in (None, (), "none"):
            raise UserError(f"{name}={value}: an n-gram counts every training document once, as it is; leave it out")
    if config.eval.metric not in [f"valid/{name}" for name in METRICS]:
        raise unknown("metric in eval.metric", config.eval.metric, [f"valid/{name}" for name in METRICS])


def load(folder: Path, *, step: int | None = None, best: bool = False) -> Loaded:
    """The model of a run directory, of its newest checkpoint or that of a step; the one that there is is the best."""
    if best and step is not None:
        raise UserError("--best and --step both choose a checkpoint: give one of them")
    config = loads((folder / "config.json").read_text())
    dataset = open_dataset(config.data, config.seed)
    resume.check_same_data(Manifest(folder), dataset, False, View())
    found = plain.restore(folder / "checkpoints", step)
    if found is None:
        raise UserError(f"{folder} has no checkpoint: its counting has not ended; `lmjax train` with its --workdir")
    step, arrays = found
    chain.check_params(folder, step, sha256(arrays))
    orders = [Order(arrays[f"order_{k}/keys"], arrays[f"order_{k}/counts"]) for k in range(1, config.model.order + 1)]
    return Loaded(config, dataset, Ngram(dataset.tokenizer.vocab_size, tuple(orders)), step)


def valid_batches(
    config: ConfigDict, dataset: Dataset, batch: int | None = None, whole: bool = False
) -> Iterable[Mapping]:
    """The validation split as networks see it, or its first eval.batches batches."""
    batch = batch or config.eval.batch or config.batch
    number = dataset.valid_batches(batch)
    return (
        dataset.valid_batch(i, batch) for i in range(number if whole else min(number, config.eval.batches or number))
    )


def evaluate(model: Ngram, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """`METRICS` over batches of rows, as `objectives.next_token` and `evaluate.language` define them."""
    nll = tokens = length = 0.0
    for batch in batches:
        weights = batch["weights"].astype(np.float64)
        nll -= float((model.log_probs(batch["tokens"], batch["targets"], batch["segments"]) * weights).sum())
        tokens, length = tokens + float(weights.sum()), length + float((weights * batch["bytes"]).sum())
    return means(nll, tokens, length)


def means(nll: float, tokens: float, length: float) -> dict[str, float]:
    """`METRICS` of a sum over so many tokens and bytes."""
    mean = nll / tokens if tokens else math.nan
    bits = nll / math.log(2) / length if length else math.nan
    return dict(zip(METRICS, map(float, (mean, mean, bits, math.exp(min(mean, 700.0)))), strict=True))


def generate(
    folder: Path,
    prompt: str,
    image: Path | None,
    *,
    step: int | None,
    best: bool,
    new: int,
    options: Any,
    seed: int,
    n: int,
) -> None:
    """Stream `n` texts of at most `new` tokens after `prompt` to the terminal; options: `decode.options`."""
    if image is not None:
        raise UserError(f"--image={image}: this run was trained on text, without images; use --prompt")
    if n < 1 or new < 1:
        raise UserError(f"--n={n}, --length={new}: at least 1 of each")
    loaded, view = load(folder, step=step, best=best), View()
    for row in range(n):
        if n > 1:
            view.say(f"--- {row + 1} of {n}", style="dim")
        print(prompt, end="", flush=True)
        for piece in pieces(loaded, prompt, new, options, (seed, row)):
            print(piece, end="", flush=True)
        print()


def pieces(loaded: Loaded, prompt: str, new: int, options: Any, seed: tuple[int, int]) -> Iterator[str]:
    """Text after `prompt`, a piece a token, until the document ends; row r of seed s is the same whatever n is."""
    import jax

    from lmjax.decode.sampling import choose
    from lmjax.decode.text import Stream

    tokenizer, model = loaded.dataset.tokenizer, loaded.model
    ids = [tokenizer.doc, *map(int, tokenizer.encode(prompt))]
    stream = Stream(tokenizer.decode, ids[1:])
    key, pick = jax.random.fold_in(jax.random.key(seed[0]), seed[1]), jax.jit(choose)
    seen = np.zeros(model.vocab, bool)
    seen[ids[1:]] = True
    for step in range(new):
        with np.errstate(divide="ignore"):
            logits = np.log(model.distribution(np.array(ids))).astype(np.float32)
        token = int(pick(logits[None], jax.random.fold_in(key, step)[None], options, seen[None])[0])
        yield stream.push([token], tokenizer.doc)
        if stream.ended:
            return
        ids.append(token)
        seen[token] = True
    yield stream.finish()


def show(selected: Any) -> None:
    """`lmjax show`: every leaf of the config, and what is counted."""
    check(selected.config)
    view = View()
    for path, value in flatten(selected.config).items():
        view.say(f"{path:<32} {value!r}")
    introduce(view, selected, None, open_dataset(selected.config.data, selected.config.seed, view.say))


def introduce(view: View, selected: Any, folder: Path | None, dataset: Dataset) -> None:
    """What is counted, in a few lines."""
    config, stats = selected.config, dataset.stats
    view.header(selected.name, selected.question, {
        **({"run": str(folder)} if folder else {}),
        "model": f"{config.model.kind} of order {config.model.order}, interpolated modified Kneser-Ney",
        "data": f"{stats['source']['name']}: {stats['train']['tokens']:,} tokens to count, {stats['valid']['tokens']:,} to "
                f"validate; {config.data.tokenizer}, vocabulary {dataset.tokenizer.vocab_size:,}",
        "training": f"every document once, in {config.steps} step{'s' * (config.steps > 1)}; one core",
    })  # fmt: skip


def joined(documents: Documents, which: np.ndarray) -> np.ndarray:
    """The ids of documents, one after the other."""
    return np.concatenate([documents.read(int(i), 0, int(documents.lengths[i])) for i in which])


def by_name(model: Ngram) -> dict[str, np.ndarray]:
    """The arrays of a model by name: order_3/keys, order_3/counts."""
    found = {}
    for k, order in enumerate(model.orders, 1):
        found |= {f"order_{k}/{name}": array for name, array in order._asdict().items()}
    return found


def sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """`provenance.params_sha256` of NumPy arrays, int64 among them, which JAX would make int32."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def grams(model: Ngram) -> int:
    """How many k-grams a model has counts of, of all orders."""
    return sum(np.count_nonzero(order.counts) for order in model.orders)
