"""The batches of encdec_cpu.py, the same for every contender; NumPy alone."""

from __future__ import annotations

import numpy as np


def batches(job: dict) -> list[dict[str, np.ndarray]]:
    """Random ids, int32. bert: `tokens` and `originals` (b, t), `chosen` bool. t5: `source` (b, s), `tokens`, `targets`."""
    random = np.random.default_rng(job["seed"])

    def ids(length: int) -> np.ndarray:
        return random.integers(4, job["vocab"] - 128, (job["batch"], length), dtype=np.int32)

    made = []
    for _ in range(job["batches"]):
        if job["model"] == "t5":
            target = ids(job["length"] + 1)
            made.append(
                {"source": ids(job["source"]), "tokens": target[:, :-1].copy(), "targets": target[:, 1:].copy()}
            )
        else:
            originals, chosen = ids(job["length"]), random.random((job["batch"], job["length"])) < 0.15
            made.append({"tokens": np.where(chosen, 3, originals), "originals": originals, "chosen": chosen})
    return made
