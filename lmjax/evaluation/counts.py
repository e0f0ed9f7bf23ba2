"""The evaluation of a counted run, an n-gram's, as that of a network's rows of text."""

from __future__ import annotations

import numpy as np

from lmjax import counted
from lmjax.evaluation import judge


def evaluate(loaded: counted.Loaded, asked: judge.Asked = judge.Asked()) -> judge.Evaluation:
    """Likelihood, bits a byte and perplexity over the whole validation split, with errors, and the worst rows."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("nll", "weights", "bytes", "tokens", "segments")}
    length = asked.batch or loaded.config.eval.batch or loaded.config.batch
    number = loaded.dataset.valid_batches(length)
    for done, batch in enumerate(counted.valid_batches(loaded.config, loaded.dataset, length, whole=True), 1):
        weights_bt = batch["weights"].astype(np.float64)
        log_p_bt = loaded.model.log_probs(batch["tokens"], batch["targets"], batch["segments"])
        sums = {
            "nll": -(log_p_bt * weights_bt).sum(1),
            "weights": weights_bt.sum(1),
            "bytes": (weights_bt * batch["bytes"]).sum(1),
        }
        for name, values in (sums | {name: batch[name] for name in ("tokens", "segments")}).items():
            rows[name].append(values)
        asked.bar("batches", done, number)
    joined = {name: np.concatenate(values) for name, values in rows.items()}
    total = {name: joined[name].sum() for name in ("nll", "weights", "bytes")}
    means = counted.means(total["nll"], total["weights"], total["bytes"])
    return judge.chosen(judge.of_rows(loaded, means, joined), asked)
