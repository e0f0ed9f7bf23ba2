"""Checkpoints: written by Orbax in the background, sealed when whole, and trusted only while the seal holds.

```
checkpoints/00000100/            the state after 100 optimizer steps; the folder appears at once, sealed
    checkpoint.json              step, metric, shape and dtype of every array, and `host` (data index, config, ...)
    state/                       the arrays, by path ("params/blocks/attention/query"): no Python class is named
    seal.json                    size and SHA-256 of every file above
checkpoints/tmp.00000200/        a save that was never finished (no seal), or is just about to be renamed (sealed)
checkpoints/old.00000050/        one that is being deleted
checkpoints/damaged.00000150/    one that failed its seal and was passed over; never read, never deleted
```
Only `save` changes the folder; `restore` only reads, so another process may read the checkpoints of a running one.
"""

from __future__ import annotations

import errno
import math
import os
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from lmjax import atomic, seal
from lmjax.checkpoint import arraystore, slots
from lmjax.checkpoint.slots import CheckpointError
from lmjax.errors import UserError

RECORD = "checkpoint.json"


class Restored(NamedTuple):
    step: int
    state: Any
    host: dict


def _to_stderr(text: str) -> None:
    print(f"lmjax: warning: {text}", file=sys.stderr)


class Checkpoints:
    """The checkpoints of one run in `folder` (on a file system that every process of the run sees).

    Kept are the newest `keep` and the `best` ones by their metric (`mode`: "min" or "max"); an older one is deleted
    only when a newer one is sealed. `warn` is told of damage that was passed over, `sealed` (in a thread) of the step
    of every checkpoint that is whole. Every process of a run makes the
    same calls; process 0 seals and deletes.
    """

    def __init__(
        self,
        folder,
        keep: int = 2,
        best: int = 0,
        mode: Literal["min", "max"] = "min",
        warn: Callable[[str], None] = _to_stderr,
        sealed: Callable[[int], None] = lambda step: None,
    ):
        if keep < 1 or best < 0 or mode not in ("min", "max"):
            raise UserError(f"keep={keep} must be at least 1, best={best} at least 0, and mode={mode!r} 'min' or 'max'")
        self.folder = pathlib.Path(folder).absolute()
        self._keep, self._best, self._mode, self._warn, self._sealed = keep, best, mode, warn, sealed
        self._store, self._store_lock = None, threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self._damaged: set[int] = set()
        self._tidied = False

    def warm_up(self) -> None:
        """Imports and builds what a save needs (about a second): call it in a thread while the step compiles."""
        self._open_store()

    def steps(self) -> dict[int, float | None]:
        """The metric of every sealed checkpoint by step, oldest first. Checks no hashes and reads no arrays."""
        found = {}
        for step, path in sorted(slots.candidates(self.folder)):
            if step not in self._damaged and (path / seal.NAME).is_file():
                record = _read_record(path)
                if record is not None:
                    found[step] = record["metric"]
        return found

    def best(self) -> list[int]:
        """The steps of the `best` checkpoints, best first; of equal ones the earlier. NaN is never best."""
        sign = 1 if self._mode == "min" else -1
        ranked = sorted((sign * m, step) for step, m in self.steps().items() if m is not None and not math.isnan(m))
        return [step for _, step in ranked[: self._best]]

    def save(self, step: int, state, host: dict, metric: float | None = None) -> None:
        """Copies `state` off the devices and returns; the rest happens in the background.

        `state` may be donated to the next step at once. First waits for the save before, and raises if that failed.
        `host` is whatever JSON the run needs to go on (data index, config, early stopping).
        """
        self.wait()
        flat = arraystore.by_path(state)
        record = {"step": step, "metric": metric, "host": host, "arrays": arraystore.table(flat)}
        text = atomic.dumps(record, indent=1)  # now: the loop may change `host` afterwards
        temporary = slots.named(self.folder, "tmp", step)
        try:
            if _is_first_process():
                self._prepare(step, sum(leaf.nbytes for leaf in flat.values()))
            arraystore.save(self._open_store(), temporary / "state", flat)
        except CheckpointError:
            raise
        except Exception as error:
            raise self._failed(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, text), name=f"checkpoint-{step}")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last save is sealed on disk. CheckpointError, once, if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """`wait`, and lets go of the threads. CheckpointError if the last save failed."""
        try:
            self.wait()
        finally:
            if self._store is not None:
                self._store.close()
                self._store = None

    def restore(
        self, abstract, *, step: int | None = None, unused: Literal["error", "ignore"] = "error"
    ) -> Restored | None:
        """The newest intact checkpoint; None when no save was ever finished.

        `abstract` is a pytree of jax.ShapeDtypeStruct with the shardings wanted (without one: the first device). A
        checkpoint with other paths, shapes or dtypes is a CheckpointError that names the first of them; with
        unused="ignore" it may hold more than is asked for (to read the parameters alone, say). With `step`, that
        checkpoint or a CheckpointError.
        """
        self.wait()
        path = self._choose(step)
        if path is None:
            return None
        record = _read_record(path)
        wanted = arraystore.by_path(abstract)
        fault = arraystore.mismatch(arraystore.table(wanted), record["arrays"], subset=unused == "ignore")
        if fault:
            raise CheckpointError(f"the checkpoint {path} does not fit this model or optimizer: {fault}.")
        try:
            flat = arraystore.restore(self._open_store(), path / "state", wanted)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {path} is undamaged, but Orbax cannot read it: {arraystore.reason(error)}"
            ) from error
        return Restored(record["step"], arraystore.rebuild(abstract, flat), record["host"])

    def arrays(self, step: int | None = None) -> tuple[int, dict[str, dict]] | None:
        """The step of the checkpoint that `restore` would take, and the shape and dtype of its arrays by path."""
        path = self._choose(step)
        if path is None:
            return None
        record = _read_record(path)
        return record["step"], record["arrays"]

    def _open_store(self):
        with self._store_lock:
            if self._store is None:
                self._store = arraystore.open_store()
            return self._store

    def _prepare(self, step: int, size: int) -> None:
        """Makes room for tmp.STEP: sets damaged ones aside; before the first save clears what killed ones left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for other in sorted(self._damaged):
            if (path := slots.numbered(self.folder, other)).exists():
                path.rename(slots.unused(slots.named(self.folder, "damaged", other)))
        self._damaged.clear()
        if not self._tidied:
            slots.tidy(self.folder)
            self._tidied = True
        newer = [other for other in self.steps() if other > step]
        if newer:
            raise CheckpointError(
                f"step {step} was to be saved in {self.folder}, which already holds step {max(newer)}: "
                "go on from the newest one, or move the newer ones away."
            )
        temporary = slots.named(self.folder, "tmp", step)
        if temporary.exists():  # a save of this step failed, and the loop tries again
            shutil.rmtree(temporary)
        disk, needed = shutil.disk_usage(self.folder), size + size // 50 + 2**19  # with the tables around the arrays
        if disk.total and disk.free < needed:  # better no save than half of one; some network disks say 0 of 0
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes needed, {disk.free:,} free")
        temporary.mkdir()

    def _finish(self, step: int, record: str) -> None:
        """In the background: waits for Orbax on every process, then seals, renames and deletes what is too old."""
        temporary, final = slots.named(self.folder, "tmp", step), slots.numbered(self.folder, step)
        try:
            self._open_store().wait_until_finished()
            if _is_first_process():
                atomic.write(temporary / RECORD, record)
                seal.write(temporary, final.name)
                if final.exists():
                    slots.delete(final, successor=temporary)
                else:
                    temporary.rename(final)
                atomic.sync_folder(self.folder)
                self._sealed(step)
                self._retain()
        except BaseException as error:  # the loop's next call raises it
            if _is_first_process():
                shutil.rmtree(temporary, ignore_errors=True)
            self._failure = self._failed(step, error)

    def _retain(self) -> None:
        steps = self.steps()
        kept = {*list(steps)[-self._keep :], *self.best()}
        for step in steps:
            if step not in kept:
                slots.delete(slots.numbered(self.folder, step))

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        held = [other for other in self.steps() if other != step]
        last = f"The last good one is step {max(held)} in {self.folder}." if held else "There is no earlier one."
        why = arraystore.reason(error)
        failure = CheckpointError(f"the checkpoint of step {step} could not be saved: {why}. {last}")
        failure.__cause__ = error
        return failure

    def _choose(self, step: int | None) -> pathlib.Path | None:
        """Process 0 looks (it hashes every byte) and the others follow, so that all restore the same one."""
        import jax

        if jax.process_count() == 1:
            return self._newest_intact(step)
        import numpy as np
        from jax.experimental import multihost_utils

        found, failure = None, None
        if _is_first_process():
            try:
                found = self._newest_intact(step)
            except CheckpointError as error:
                failure = error
        name = "" if failure else "none" if found is None else found.name
        agreed = multihost_utils.broadcast_one_to_all(np.frombuffer(name.ljust(32).encode(), np.uint8))
        name = bytes(np.asarray(agreed, np.uint8)).decode().strip()
        if not name:
            raise failure or CheckpointError(f"process 0 could read no checkpoint in {self.folder}: see its message.")
        return None if name == "none" else self.folder / name

    def _newest_intact(self, step: int | None) -> pathlib.Path | None:
        candidates = sorted(slots.candidates(self.folder), reverse=True)
        faults: dict[int, str] = {}
        for found, path in candidates:
            if step is not None and found != step:
                continue
            fault = seal.damage(path, f"{found:08d}")
            if fault is None and _read_record(path) is None:
                fault = f"{RECORD} is not one that this version reads"
            if fault is None:
                for text in faults.values():
                    self._warn(f"{text}. Going back to step {found}.")
                self._damaged.update(faults)
                self._warn_of_unfinished(found)
                return path
            faults[found] = f"the checkpoint {path} is damaged: {fault}"
        if step is not None:
            have = ", ".join(str(found) for found, _ in reversed(candidates)) or "none"
            absent = f"there is no checkpoint of step {step} in {self.folder}; there are: {have}."
            raise CheckpointError(faults.get(step) or absent)
        aside = slots.names(self.folder, r"damaged\.\d{8,}.*")
        aside = [f"{self.folder / name} was set aside as damaged" for name in aside]
        if faults or aside:
            raise CheckpointError(
                "\n  ".join(["no checkpoint of this run can be read:", *faults.values(), *aside])
                + "\nNothing was changed. Put back an undamaged copy, or start afresh in another --workdir."
            )
        self._warn_of_unfinished(None)
        return None

    def _warn_of_unfinished(self, chosen: int | None) -> None:
        for name in slots.names(self.folder, r"tmp\.\d{8,}"):
            step = slots.step_of(name)
            if step > (-1 if chosen is None else chosen) and not (self.folder / name / seal.NAME).is_file():
                instead = "there is no earlier one" if chosen is None else f"using step {chosen}"
                self._warn(f"the save of step {step} was not finished (stopped in the middle of it); {instead}.")


def _read_record(path: pathlib.Path) -> dict | None:
    """checkpoint.json of a checkpoint; None when it cannot be read or lacks a field."""
    try:
        record = atomic.loads((path / RECORD).read_text())
        return record if {"step", "metric", "host", "arrays"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_first_process() -> bool:
    import jax

    return jax.process_index() == 0
