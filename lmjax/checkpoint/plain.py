"""Checkpoints of NumPy arrays by name, for models that no device holds: a .npy file each, sealed like any checkpoint.

```
checkpoints/00000001/            the folder appears at once, sealed; a file a name, "order_3/keys" in order_3.keys.npy
    checkpoint.json              step, metric, shape and dtype of every array
    seal.json
```
"""

from __future__ import annotations

import pathlib

import numpy as np

from lmjax import atomic, seal
from lmjax.checkpoint import slots
from lmjax.checkpoint.slots import CheckpointError

RECORD = "checkpoint.json"


def save(folder: pathlib.Path, step: int, arrays: dict[str, np.ndarray], metric: float | None = None) -> None:
    """Writes checkpoints/STEP in `folder`, in the place of what had that number; OSError when the disk refuses."""
    temporary, final = slots.named(folder, "tmp", step), slots.numbered(folder, step)
    folder.mkdir(parents=True, exist_ok=True)
    slots.tidy(folder)
    temporary.mkdir()
    for name, array in arrays.items():
        np.save(temporary / _file(name), array)
    table = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays.items()}
    record = {"step": step, "metric": metric, "host": {}, "arrays": table}
    atomic.write(temporary / RECORD, atomic.dumps(record, indent=1))
    seal.write(temporary, final.name)
    if final.exists():
        slots.delete(final, successor=temporary)
    else:
        temporary.rename(final)
    atomic.sync_folder(folder)


def restore(folder: pathlib.Path, step: int | None = None) -> tuple[int, dict[str, np.ndarray]] | None:
    """Step and arrays of the newest checkpoint, or of that of `step`; None when there is none at all.

    CheckpointError when a byte is not as it was sealed, or the step is not there.
    """
    found = dict(sorted(slots.candidates(folder)))
    if not found:
        return None
    step = max(found) if step is None else step
    if step not in found:
        there = ", ".join(map(str, found))
        raise CheckpointError(f"there is no checkpoint of step {step} in {folder}; there are: {there}.")
    path = found[step]
    if fault := seal.damage(path, f"{step:08d}"):
        raise CheckpointError(f"the checkpoint {path} is damaged: {fault}. Put back an undamaged copy, or train again in "
                              "another --workdir.")  # fmt: skip
    record = atomic.loads((path / RECORD).read_text())
    return step, {name: np.load(path / _file(name)) for name in record["arrays"]}


def _file(name: str) -> str:
    return name.replace("/", ".") + ".npy"
