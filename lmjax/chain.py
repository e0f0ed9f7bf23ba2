"""chain.jsonl: what every step of a run saw and gave, each line bound to all before it by its hash.

A line is {"step", "batch", "loss", "params", "head"}. `batch`: the SHA-256 of the rows that this process fed to the
step; `loss`: the bits of its float32 mean loss, in hexadecimal; `params`: `provenance.params_sha256` of the parameters
after it, only where the config's `every` asks for an evaluation or a save (of several
processes, after the last step); `head`: the SHA-256 of the line before's head
and of this line without its own. So one head stands for the whole run, and two runs of the same config on the same
program have the same file, however often either was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.errors import UserError
from lmjax.history import History

FIRST = hashlib.sha256(b"lmjax chain 1").hexdigest()  # the head before any line
NAME = "chain.jsonl"
NAN = "7fc00000"  # every NaN is the same one here: its sign and payload are the processor's


class Chain:
    """The chain of the run in `folder`, gone on with after step `first`. UserError if its lines were altered.

    The last line waits until the next begins or `flush` is called, for the hash of the parameters belongs into it.
    """

    def __init__(self, folder: Path, first: int):
        self._file = History(folder / NAME)
        lines = self._file.read()
        if fault := damage(lines):
            raise UserError(f"{self._file.path} was altered: {fault}. Put it back, or start in another --workdir")
        self._file.truncate_after(first)
        kept = [line for line in lines if line["step"] <= first]
        self._head = kept[-1]["head"] if kept else FIRST
        self._waiting: dict[str, Any] | None = None

    def step(self, done: int, batch: str, loss: str) -> None:
        """Step `done` was taken: `batch` is a `digest`, `loss` are `bits`."""
        self.flush()
        self._waiting = {"step": done, "batch": batch, "loss": loss}

    def params(self, sha256: str) -> None:
        """The hash of the parameters after the last step."""
        if self._waiting is not None:
            self._waiting["params"] = sha256

    def flush(self) -> None:
        """Write the line that waits."""
        if self._waiting is not None:
            self._head = head(self._head, self._waiting)
            self._file.append({**self._waiting, "head": self._head})
            self._waiting = None

    def sync(self) -> None:
        """Write the line that waits, and make all so far survive a power cut."""
        self.flush()
        self._file.sync()

    def close(self) -> None:
        """Write the line that waits and close the file."""
        self.flush()
        self._file.close()


def digest(batch: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over name, type, shape and bytes of every field of a batch, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        found.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        found.update((array.byteswap() if sys.byteorder == "big" else array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def noting(place: Callable[[Any], Any], note: Callable[[str], None]) -> Callable[[Any], Any]:
    """`place`, which first gives the digest of what it places to `note`."""

    def placing(batch: Any) -> Any:
        note(digest(batch))
        return place(batch)

    return placing


def bits(total: float, weight: float) -> str:
    """The bits of total / weight in float32, eight hexadecimal digits, the most significant first."""
    with np.errstate(all="ignore"):
        mean = np.float32(total) / np.float32(weight)
    return NAN if np.isnan(mean) else f"{mean.view(np.uint32):08x}"


def loss(line: Mapping[str, Any]) -> float:
    """The loss of a line as a number."""
    return float(np.uint32(int(line["loss"], 16)).view(np.float32))


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of the run in `folder`, [] where it has none; UserError if they were altered."""
    lines = History(Path(folder) / NAME).read()
    if fault := damage(lines):
        raise UserError(f"{Path(folder) / NAME} was altered: {fault}")
    return lines


def check_params(folder: Path, step: int, sha256: str) -> None:
    """UserError where the run in `folder` noted another hash of its parameters after this step: not its checkpoint."""
    noted = next((line.get("params") for line in read(folder) if line["step"] == step), None)
    if noted not in (None, sha256):
        raise UserError(
            f"the checkpoint of step {step} in {folder} is of another run: its parameters have the SHA-256 "
            f"{sha256[:12]}, and this run's at that step had {noted[:12]}: swapped"
        )


def sealed(folder: Path) -> str | None:
    """The last head of the run in `folder`; None where it has no chain."""
    try:
        with open(Path(folder) / NAME, "rb") as file:
            file.seek(-min(4096, file.seek(0, 2)), 2)  # a line has 300 bytes
            last = file.read().splitlines()[-1:]
    except FileNotFoundError:
        return None
    return json.loads(last[0])["head"] if last else None


def head(before: str, line: Mapping[str, Any]) -> str:
    """The head of a line, whose own is left out, behind one with the head `before`."""
    body = {name: value for name, value in line.items() if name != "head"}
    return hashlib.sha256(f"{before}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def damage(lines: Sequence[Mapping[str, Any]]) -> str:
    """Which line does not follow from those before it; "" if all do."""
    before = FIRST
    for at, line in enumerate(lines):
        if at and line["step"] != lines[at - 1]["step"] + 1:
            return f"step {line['step']} stands behind step {lines[at - 1]['step']}"
        if line.get("head") != head(before, line):
            return f"the line of step {line['step']} does not have the hash of what it says"
        before = line["head"]
    return ""
