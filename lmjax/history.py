"""metrics.jsonl: one flat JSON object a line, every one with its `step`, appended as the run goes on.

A number that is not finite is written as the string "NaN", "Infinity" or "-Infinity", so that every line is JSON and
none is lost; `read` gives floats back (in pandas: `pd.to_numeric`).
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from lmjax import atomic
from lmjax.errors import UserError


class HistoryError(UserError):
    """metrics.jsonl cannot be read or written."""


class History:
    """The metrics.jsonl of one run at `path`; nothing is created before the first line."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._descriptor: int | None = None

    def append(self, record: dict) -> None:
        """Adds a line in a single write: a kill leaves all of it or nothing. HistoryError when the disk refuses."""
        if not _is_step(record.get("step")):
            raise ValueError(f"a line of the history needs an integer step, got {record.get('step')!r}")
        line = (atomic.dumps(record) + "\n").encode()
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            written = os.write(self._descriptor, line)
            if written < len(line):  # a full disk takes a part: take it back
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(28, "No space left on device")
        except OSError as error:
            raise HistoryError(f"cannot write step {record['step']} to {self.path}: {error.strerror}") from None

    def sync(self) -> None:
        """Makes the lines so far survive a power cut."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def read(self) -> list[dict]:
        """All lines in order; [] without the file. A torn last line is left out; any other is a HistoryError."""
        return _parse(self.path)

    def truncate_after(self, step: int, also: Callable[[dict], bool] = lambda line: False) -> int:
        """Drops the lines of later steps, those that `also` picks, and a torn last one; how many is returned.

        The file is replaced at once. HistoryError if a line other than a torn last one cannot be read: nothing is
        changed then.
        """
        self.close()
        lines = _parse(self.path)
        kept = [line for line in lines if line["step"] <= step and not also(line)]
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"\n", b"")
        if len(kept) < len(lines) or not whole:
            try:
                atomic.write(self.path, "".join(atomic.dumps(line) + "\n" for line in kept))
            except OSError as error:
                raise HistoryError(f"cannot shorten {self.path}: {error.strerror}") from None
        return len(lines) - len(kept)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _parse(path: pathlib.Path) -> list[dict]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HistoryError(f"cannot read {path}: {error.strerror}") from None
    records, lines = [], content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        torn = number == len(lines)  # what stands behind the last newline: nothing, or a line that was cut off
        if torn and not line:
            break
        try:
            record = atomic.loads(line.decode())
            if not isinstance(record, dict) or not _is_step(record.get("step")):
                raise ValueError("it has no integer step")
            records.append(record)
        except ValueError as error:
            if not torn:
                raise HistoryError(
                    f"line {number} of {path} is not a line that lmjax writes ({error}). The history of this run is "
                    "damaged, so nothing goes on from it: put back an undamaged copy, or start in another --workdir."
                ) from None
    return records


def _is_step(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
