"""One pass over the validation split: the objective's sums, and of every row what the metrics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.data import Prefetch
from lmjax.errors import UserError
from lmjax.evaluate import language
from lmjax.layers.readout import token_losses
from lmjax.program import by_length, compiled
from lmjax.sharding import placed
from lmjax.trained import Loaded

Keep = Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]  # the model's output, a batch -> arrays (b, ...)
CHUNK = 2**22  # logits at once


def predict(
    loaded: Loaded, keep: Keep, *, batch: int | None = None, on_batch: Callable[[int, int], None] = lambda done, of: None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:  # fmt: skip
    """The objective's means as `language.evaluate`, and what `keep` keeps of every row, (n, ...), in the rows' order.

    Rows that only fill up the last batch are for `keep` to mark. `on_batch(done, of)` is told of batches.
    """
    program, dataset = loaded.program, loaded.dataset
    batch = batch or program.config.eval.batch or program.config.batch
    if batch < 1:
        raise UserError(f"--batch={batch}: at least 1")
    batch = min(batch, -(-len(dataset.valid) // program.mesh.size) * program.mesh.size)
    program.layout.sharding(program.mesh, "acts", "bt", (batch, program.config.data.length), "--batch")
    run, kept = _compile(loaded, keep, batch), []
    rows, last = program.local_rows(batch), dataset.valid_batches(batch)

    def both(params: Any, given: Mapping[str, jax.Array]) -> dict:
        sums, arrays = run(params, given)
        kept.append(arrays)
        if len(kept) > 1:  # the one before has been computed by now
            kept[-2] = jax.device_get(kept[-2])
        on_batch(len(kept), last)
        return sums

    def make(i: int) -> dict[str, jax.Array]:
        return program.place(dataset.valid_batch(i, batch, rows), batch)

    with Prefetch(make, 0, stop=last) as batches:
        means = language.evaluate(both, loaded.params, batches)
    kept = jax.device_get(kept)
    return means, {name: _joined([arrays[name] for arrays in kept]) for name in (kept[0] if kept else ())}


def _compile(loaded: Loaded, keep: Keep, batch: int) -> Callable[[Any, Mapping], tuple[dict, dict]]:
    """`run(params, batch) -> (sums, what is kept)`: the objective calls the model, and its output is looked at."""
    program = loaded.program

    def step(params: Any, given: Mapping[str, jax.Array]) -> tuple[dict, dict]:
        seen: list[Any] = []

        def watched(*args: Any, **settings: Any) -> Any:
            out = program.model.apply(*args, **settings)
            seen.append(out[0] if "mutable" in settings else out)
            return out

        sums = program.objective(watched, params, given, jax.random.key(0), train=False)
        return sums, keep(seen[0], given)

    jitted = jax.jit(step, out_shardings=NamedSharding(program.mesh, PartitionSpec()))
    lengths = loaded.dataset.widths or (program.config.data.length,)
    with placed(program.layout, program.mesh):
        return by_length(
            {length: compiled(jitted.lower(program.params, program.batch(batch, length))) for length in lengths}
        )


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Rows one below the other; shorter ones, of batches of shorter texts, get zeros at the end."""
    longest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    if any(array.shape[1:] != longest for array in arrays):
        arrays = [np.pad(a, [(0, 0), *((0, most - size) for most, size in zip(longest, a.shape[1:], strict=True))])
                  for a in arrays]  # fmt: skip
    return np.concatenate(arrays)


def classes(logits_bn: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Of rows with one label: the probabilities, the label and its weight, and the text where there is one."""
    found = {"shares": jax.nn.softmax(logits_bn.astype(jnp.float32)), "label": batch["label"]}
    found["weights"] = batch.get("label_weights", batch["weights"])
    return found | {name: batch[name] for name in ("tokens", "segments", "image") if name in batch}


def tokens(out: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Of rows of text: a row's sums of the negative log-likelihood in nats, of right guesses, of weights and bytes.

    `out`: logits (b, t, v), or features (b, t, d) and their readout, of which few logits are made at a time.
    """
    targets_bt, weights_bt = batch.get("targets", batch.get("originals")), batch["weights"]
    if isinstance(out, tuple):
        x_btd, readout = out
        b, t = x_btd.shape[:2]
        most = max(1, CHUNK // (b * readout.table_vd.shape[0]))
        chunk = next(size for size in range(min(t, most), 0, -1) if t % size == 0)
        parts = (jnp.swapaxes(x.reshape(b, t // chunk, chunk, *x.shape[2:]), 0, 1) for x in (x_btd, targets_bt))
        some = jax.lax.map(lambda part: _told(readout.logits(part[0]), part[1]), tuple(parts))
        nll_bt, right_bt = (jnp.swapaxes(x_nbc, 0, 1).reshape(b, t) for x_nbc in some)
    else:
        nll_bt, right_bt = _told(out, targets_bt)
    return {
        "nll": jnp.sum(nll_bt * weights_bt, axis=1),
        "right": jnp.sum(right_bt * weights_bt, axis=1),
        "weights": jnp.sum(weights_bt, axis=1),
        "bytes": jnp.sum(weights_bt * batch["bytes"], axis=1),
    }


def _told(logits_btv: jax.Array, targets_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The negative log-likelihood of each target, and whether it is the likeliest."""
    return token_losses(logits_btv, targets_bt)[1], jnp.argmax(logits_btv, axis=-1) == targets_bt


def nothing(out: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Of a model whose output no metric here reads."""
    return {}
