"""The same loss, however it is computed: across mesh, microbatches, packing, padding, hosts and evaluation batch.

Each line takes the same parameters, drawn from the config's seed, and the same tokens, and compares the mean loss and the
norm of its gradient with those of one device. What is random in a step, dropout, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from lmjax import chain, program
from lmjax.config import flatten, update
from lmjax.data import Dataset, kinds, open_dataset, packing
from lmjax.errors import UserError
from lmjax.evaluate.language import evaluate
from lmjax.program import Program
from lmjax.sharding import AXES, placed
from lmjax.step import make_gradients

MESHES = ({"data": 2}, {"data": 8}, {"fsdp": 8}, {"tensor": 2}, {"context": 2}, {"data": 2, "fsdp": 2, "tensor": 2})
TOLERANCES = {"float32": (1e-5, 1e-4), "other": (1e-2, 5e-2)}  # relative, of the loss and of the gradient's norm
TEXT = {"tokens", "targets", "segments", "positions", "bytes", "weights"}
TOGETHER = 4  # documents that share a row


class Line(NamedTuple):
    """One way to compute it. `loss`, `norm`: None where it cannot be, and `note` says why; `off`: relative."""

    what: str
    how: str
    loss: float | None
    norm: float | None
    off: float
    norm_off: float
    holds: bool | None
    note: str = ""


def measure(config: ConfigDict) -> Iterator[Line]:
    """The lines of the table, one after the other; UserError for a config that does not train on one device."""
    config = plain(config)
    dataset = open_dataset(config.data, config.seed)
    batch = dataset.train_batch(0, config.batch)
    built = built_for(config, dataset, {})
    params = jax.device_get(built.compile_init()().params)
    gradient = partial(gradient_of, params, dataset)
    whole = gradient(config, batch)
    yield Line("", "one device, one batch", *whole, 0.0, 0.0, True)
    for mesh in MESHES:
        yield attempt("mesh", " x ".join(f"{axis} {size}" for axis, size in mesh.items()), whole, config,
                      lambda mesh=mesh: gradient(on_mesh(config, mesh), batch, mesh=mesh))  # fmt: skip
    for count in (2, 4):
        changed = update(config, {"optim.microbatches": count})
        yield attempt("microbatches", str(count), whole, config, partial(gradient, changed, batch))
    for hosts in (2, 4):
        yield attempt(
            "hosts", f"rows of {hosts}", whole, config, partial(of_hosts, config, dataset, batch, hosts, whole)
        )
    yield from texts(config, dataset, batch, gradient)
    yield from evaluated(config, dataset, params)


def plain(config: ConfigDict) -> ConfigDict:
    """On one device, in one batch, without dropout and without workers."""
    values: dict[str, Any] = {f"layout.mesh.{axis}": 1 for axis in AXES if axis in config.layout.mesh}
    values |= {path: 0.0 for path in flatten(config) if path.rpartition(".")[2] == "dropout"}
    return update(config, values | {"optim.microbatches": 1, "data.workers": 0, "every.histograms": 0})


def on_mesh(config: ConfigDict, mesh: Mapping[str, int]) -> ConfigDict:
    """The config with the sizes of its mesh's axes; UserError for an axis that its layout does not have."""
    return update(config, {f"layout.mesh.{axis}": size for axis, size in mesh.items()})


def tolerances(config: ConfigDict) -> tuple[float, float]:
    """Relative, of the loss and of the norm of its gradient: wider where sums are of 16-bit numbers."""
    small = any("16" in str(leaf) for path, leaf in flatten(config).items() if "dtype" in path or "precision" in path)
    small |= config.precision.compute == "auto" and jax.default_backend() != "cpu"
    return TOLERANCES["other" if small else "float32"]


def attempt(what: str, how: str, whole: tuple[float, float], config: ConfigDict, compute: Any) -> Line:
    """A line of the table; what this config or this machine cannot do is noted, not raised."""
    try:
        loss, norm = compute()
    except UserError as error:
        return Line(what, how, None, None, 0.0, 0.0, None, str(error).splitlines()[0])
    return judged(what, how, (loss, norm), whole, tolerances(config))


def judged(what: str, how: str, found: tuple, whole: tuple, allowed: tuple[float, float]) -> Line:
    """A line of what was measured, held against what one device gave; a norm of None is not compared."""
    off, norm_off = (
        abs(a - b) / max(abs(b), 1e-30) if a is not None else 0.0 for a, b in zip(found, whole, strict=True)
    )
    return Line(what, how, *found, off, norm_off, bool(off <= allowed[0] and norm_off <= allowed[1]))


def gradient_of(
    params: Any,
    dataset: Dataset,
    config: ConfigDict,
    batch: Mapping[str, np.ndarray],
    *,
    mesh: Mapping[str, int] | None = None,
) -> tuple[float, float]:
    """The mean loss of a batch and the norm of its gradient at `params`."""
    rows, length = len(next(iter(batch.values()))), batch["tokens"].shape[-1] if "tokens" in batch else None
    built = built_for(update(config, {"batch": rows}), dataset, mesh or {})
    params = on(built, params)
    run = make_gradients(built.model.apply, built.objective, built.optimizer, seed=config.seed,
                         microbatches=config.optim.microbatches)  # fmt: skip

    def loss_and_norm(params: Any, batch: Any) -> tuple:
        grads, metrics = run(params, batch, 0)
        return metrics["loss"], optax.tree.norm(grads)

    with placed(built.layout, built.mesh):
        given = {name: jax.device_put(batch[name], sharding) for name, sharding in built.rows.items()}
        loss, norm = jax.device_get(jax.jit(loss_and_norm)(params, given))
    if length is not None and not loss.weight:
        raise UserError("the batch has no token of any weight")
    return float(loss.total) / float(loss.weight), float(norm)


def on(built: Program, params: Any) -> Any:
    """Parameters of the host, placed as a program has them."""
    return jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), params, built.params)


def built_for(config: ConfigDict, dataset: Dataset, mesh: Mapping[str, int]) -> Program:
    """The program on as many devices as the mesh asks for; UserError where there are fewer."""
    count = int(np.prod(list(mesh.values()))) if mesh else 1
    if count > jax.device_count():
        raise UserError(f"{count} devices, and {jax.device_count()} are here")
    vocab = dataset.tokenizer.vocab_size if dataset.tokenizer else 0
    return program.build(config, vocab=vocab, classes=len(dataset.classes), devices=jax.devices()[:count])


def of_hosts(config: ConfigDict, dataset: Dataset, batch: Mapping, hosts: int, whole: tuple) -> tuple[float, float]:
    """`whole`, if the rows that each of several hosts makes for itself are together the bits of the batch; else NaN."""
    if config.batch % hosts:
        raise UserError(f"{hosts} hosts do not divide batch={config.batch}")
    share = config.batch // hosts
    parts = [dataset.train_batch(0, config.batch, np.arange(i * share, (i + 1) * share)) for i in range(hosts)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in batch}
    if chain.digest(joined) != chain.digest(batch):
        return float("nan"), float("nan")
    return whole


def texts(config: ConfigDict, dataset: Dataset, batch: Mapping, gradient: Callable) -> Iterator[Line]:
    """Packing and padding: the same documents several to a row, alone in a row, and alone in a shorter one."""
    length = config.data.length // TOGETHER
    if kinds.kind_of(config.data) != "text" or set(batch) != TEXT or length < 2:
        for what in ("packing", "padding"):
            yield Line(what, "", None, None, 0.0, 0.0, None, "of rows of text for the next token, of 8 tokens or more")
        return
    documents = [row[: length + 1] for row in np.asarray(batch["tokens"])]
    documents = [document for document in documents if len(document) > 1]
    documents = documents[: len(documents) // TOGETHER * TOGETHER]
    if not documents:
        yield Line("packing", "", None, None, 0.0, 0.0, None, f"batch={config.batch}: at least {TOGETHER} rows")
        return
    sizes = dataset.tokenizer.token_bytes

    def rows(groups: list[list[np.ndarray]], width: int) -> dict[str, np.ndarray]:
        made = [packing.whole(group, width, sizes) for group in groups]
        return {name: np.stack([row[name] for row in made]) for name in made[0]}

    alone = [[document] for document in documents]
    shared = [documents[i : i + TOGETHER] for i in range(0, len(documents), TOGETHER)]
    whole = gradient(config, rows(alone, config.data.length))
    yield attempt("packing", f"{TOGETHER} in a row", whole, config,
                  partial(gradient, config, rows(shared, config.data.length)))  # fmt: skip
    yield attempt("padding", f"rows of {2 * length}", whole, config,
                  partial(gradient, config, rows(alone, 2 * length)))  # fmt: skip


def evaluated(config: ConfigDict, dataset: Dataset, params: Any) -> Iterator[Line]:
    """The loss of the same validation rows, in batches of other sizes."""
    most = max(1, min(dataset.valid_batches(config.batch), 4)) * config.batch
    whole = None
    for rows in dict.fromkeys((config.batch, max(1, config.batch // 2), 2 * config.batch)):
        built = built_for(update(config, {"eval.batch": rows}), dataset, {})
        placed_params = on(built, params)
        batches = (built.place(dataset.valid_batch(i, rows), rows) for i in range(-(-most // rows)))
        means = evaluate(built.compile_eval(rows, dataset.widths), placed_params, batches)
        found = (means["loss"], None)
        whole = whole or (means["loss"], 0.0)
        yield judged("evaluation batch", str(rows), found, whole, tolerances(config))


HEAD = f"{'':<18}{'':<24}{'loss':>14}{'off by':>10}{'gradient':>14}{'off by':>10}"


def row(line: Line) -> str:
    """A line of the table as text."""
    if line.loss is None:
        return f"{line.what:<18}{line.how:<24}  not here: {line.note}"
    gradients = f"{line.norm:>14.6f}{line.norm_off:>10.1e}" if line.norm is not None else " " * 24
    return f"{line.what:<18}{line.how:<24}{line.loss:>14.6f}{line.off:>10.1e}{gradients}{'' if line.holds else '   DIFFERS'}"


def allowed(config: ConfigDict) -> str:
    """What stands under the table."""
    loss, norm = tolerances(config)
    return f"allowed: {loss:g} of the loss, {norm:g} of the norm of its gradient, relative"
