"""The store of a study, store.sqlite in its workspace: a row for every cell, claimed by one worker at a time. No JAX.

The truth is in the run directories: a store that was deleted is made again from the study, and cells whose runs are
finished cost a second. Every change is one transaction of SQLite (write-ahead log), so a kill leaves the old row or
the new one. That a worker lives is told by the lock on its file in `workers/`, which the system lets go of when the
process ends, however.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmjax import atomic
from lmjax.errors import UserError
from lmjax.study import mounts

Status = Literal["waiting", "running", "completed", "failed"]
FILE = "store.sqlite"
DEATHS = 20  # of workers, one after the other, before a cell that never gets beyond its last checkpoint has failed
SILENT = 120.0  # seconds without a sign of life after which a worker on another machine may be dead
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY, folder TEXT NOT NULL UNIQUE, variant TEXT NOT NULL, seed INTEGER NOT NULL,
    experiment TEXT NOT NULL, question TEXT NOT NULL, source TEXT NOT NULL, overrides TEXT NOT NULL,
    config TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0, saved INTEGER NOT NULL DEFAULT 0,
    worker TEXT, host TEXT, pid INTEGER, started REAL, seconds REAL NOT NULL DEFAULT 0, cause TEXT, metrics TEXT
);
"""


class Cell(NamedTuple):
    """A variant with a seed: all that a worker needs to run it. `folder` is within the workspace."""

    key: str  # config_hash of the resolved config
    folder: str
    variant: str
    seed: int
    experiment: str  # the name that the run has: "positions/rope"
    question: str
    source: str  # the file that the study is in
    overrides: tuple[str, ...]  # what `lmjax train EXPERIMENT` would be given: "seed=3"
    config: str  # resolved, as lmjax.config.dumps writes it


class Entry(NamedTuple):
    """A row of the store: the cell and what became of it. `attempts` counts its claims."""

    cell: Cell
    status: Status
    attempts: int
    failures: int
    deaths: int
    worker: str | None
    host: str | None
    pid: int | None
    started: float | None  # seconds since 1970, of the last attempt
    seconds: float  # spent in all attempts that ended by themselves
    cause: str | None
    metrics: dict[str, float]  # at the end of the run; {} before it


class Lease:
    """The sign that a worker lives: a lock on workers/NAME.lock, held until `release` or the end of the process."""

    def __init__(self, workspace: Path):
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = _lease(workspace, self.name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        os.register_at_fork(after_in_child=self._close)  # else a surviving child would hold it on
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def beat(self) -> None:
        """A sign of life for those on other machines."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Let go of the lock; the file goes with it."""
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lives(workspace: Path, worker: str | None, host: str | None) -> bool:
    """Whether a worker still holds its lock; on another machine, also whether it gave a sign of life lately."""
    path = _lease(workspace, worker or "")
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    if host != socket.gethostname():  # file systems exist whose locks are each machine's own
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < SILENT
    return False


class Store:
    """The store of `workspace`, made if it is not there. For one thread; any number of processes may have it open."""

    def __init__(self, workspace: str | Path):
        self.workspace = Path(workspace)
        try:
            self.workspace.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.workspace / FILE, timeout=120, isolation_level=None)
            journal = "DELETE" if mounts.shared(self.workspace) else "WAL"  # the log works on one machine alone
            self._db.execute(f"PRAGMA journal_mode={journal}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            with self._change():
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._db.execute(statement)
            damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
        except (sqlite3.OperationalError, OSError) as error:  # no place, no right, no space
            raise UserError(f"cannot open {self.workspace / FILE}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.workspace / FILE} is damaged: {error}. Move it away and say the same again: the runs are in their "
                "own directories, and what is finished there is not run again"
            ) from None

    def add(self, study: str, cells: Sequence[Cell]) -> None:
        """Make cells known; those that are there stay as they are. UserError for another study or a changed config.

        A cell that never began takes the new config; a finished one whose run is gone waits again.
        """
        with self._change():
            known = self._db.execute("SELECT value FROM facts WHERE name = 'study'").fetchone()
            if known and known[0] != study:
                raise UserError(
                    f"{self.workspace} is the workspace of the study {known[0]}, not of {study}: choose another"
                )
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('study', ?)", (study,))
            for cell in cells:
                self._add(cell)

    def entries(self, keys: Sequence[str] | None = None) -> list[Entry]:
        """The rows of these cells in that order, or of all by variant and seed."""
        rows = [_entry(row) for row in self._db.execute(f"SELECT {COLUMNS} FROM cells ORDER BY rowid")]
        if keys is None:
            return rows
        by_key = {row.cell.key: row for row in rows}
        return [by_key[key] for key in keys if key in by_key]

    def claim(self, worker: str, keys: Sequence[str] | None = None, retries: int = 0) -> Cell | None:
        """The next cell for `worker` to run, or None: waiting ones first, those of dead workers, then failed ones.

        A cell that failed more than `retries` times in all is left.
        """
        with self._change():
            rows = self.entries(keys)
            dead = [row for row in rows if row.status == "running" and not self._lives(row)]
            waiting = [row for row in rows if row.status == "waiting"]
            failed = [row for row in rows if row.status == "failed" and row.failures <= retries]
            for row in [*dead, *waiting, *failed]:
                saved, deaths = saved_step(self.workspace / row.cell.folder), row.deaths
                if row.status == "running":
                    before = self._db.execute("SELECT saved FROM cells WHERE key = ?", (row.cell.key,)).fetchone()[0]
                    deaths = deaths + 1 if saved <= before else 1
                    _lease(self.workspace, row.worker or "").unlink(missing_ok=True)
                if deaths >= DEATHS:
                    self._set(row.cell.key, status="failed", failures=row.failures + 1, deaths=0, worker=None,
                              cause=f"{deaths} workers died on it and none got beyond step {saved}: "
                                    "killed, or out of memory")  # fmt: skip
                    continue
                self._set(row.cell.key, status="running", attempts=row.attempts + 1, deaths=deaths, saved=saved,
                          worker=worker, host=socket.gethostname(), pid=os.getpid(), started=time.time(),
                          cause=None)  # fmt: skip
                return row.cell
        return None

    def claimable(self, keys: Sequence[str] | None = None, retries: int = 0) -> int:
        """How many cells `claim` could give now."""
        rows = self.entries(keys)
        return sum(
            row.status == "waiting"
            or (row.status == "running" and not self._lives(row))
            or (row.status == "failed" and row.failures <= retries)
            for row in rows
        )

    def finish(
        self, key: str, worker: str, status: Status, cause: str | None = None, metrics: dict[str, float] | None = None
    ) -> bool:
        """What became of a claimed cell; False, and nothing changes, if it is not this worker's any more."""
        with self._change():
            row = next(iter(self.entries([key])), None)
            if row is None or row.worker != worker:
                return False
            taken = time.time() - (row.started or time.time())
            self._set(key, status=status, cause=cause, failures=row.failures + (status == "failed"), worker=None,
                      seconds=row.seconds + taken, metrics=atomic.dumps(metrics or {}),
                      deaths=0)  # fmt: skip
            return True

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _add(self, cell: Cell) -> None:
        old = self._db.execute(f"SELECT {COLUMNS} FROM cells WHERE folder = ?", (cell.folder,)).fetchone()
        began = (self.workspace / cell.folder / "manifest.json").exists()
        if old:
            row = _entry(old)
            if row.cell.key == cell.key:
                if row.status == "completed" and not began:
                    self._set(cell.key, status="waiting", metrics="{}", cause="its run directory was gone")
                return
            if began or (row.status == "running" and self._lives(row)):
                raise UserError(
                    f"{self.workspace / cell.folder} is the run of another config ({changes(row.cell, cell)}): choose "
                    "another --workdir, or move that folder away"
                )
            self._db.execute("DELETE FROM cells WHERE folder = ?", (cell.folder,))
        elif began and (why := stranger(self.workspace / cell.folder, cell)):
            raise UserError(
                f"{self.workspace / cell.folder} is the run of another config ({why}): choose another --workdir, or move "
                "that folder away"
            )
        other = self._db.execute("SELECT folder FROM cells WHERE key = ?", (cell.key,)).fetchone()
        if other:
            raise UserError(f"{cell.folder} has the same config as {other[0]}: it would measure nothing")
        values = cell._replace(overrides=atomic.dumps(cell.overrides))
        names = ", ".join(Cell._fields)
        self._db.execute(f"INSERT INTO cells ({names}) VALUES ({', '.join('?' * len(values))})", values)

    def _set(self, key: str, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE cells SET {names} WHERE key = ?", (*values.values(), key))

    def _lives(self, row: Entry) -> bool:
        return lives(self.workspace, row.worker, row.host)

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


OUTCOME = (
    "status",
    "attempts",
    "failures",
    "deaths",
    "worker",
    "host",
    "pid",
    "started",
    "seconds",
    "cause",
    "metrics",
)
COLUMNS = ", ".join((*Cell._fields, *OUTCOME))


def changes(old: Cell, new: Cell) -> str:
    """The leaves in which the configs of two cells differ: "model.depth was 2, is 4"."""
    from lmjax.config import diff, loads

    rows = diff(loads(old.config), loads(new.config))
    return ", ".join(f"{path} was {a!r}, is {b!r}" for path, a, b in rows[:4]) + (", ..." if len(rows) > 4 else "")


def stranger(folder: Path, cell: Cell) -> str:
    """Why the run in `folder`, which the store knows nothing of, is not the cell's; "" if it is, or cannot be read."""
    try:
        key = atomic.loads((folder / "manifest.json").read_text()).get("config_hash", cell.key)
        return "" if key == cell.key else changes(cell._replace(config=(folder / "config.json").read_text()), cell)
    except (OSError, ValueError, AttributeError):
        return ""  # the worker that comes to it says what is wrong


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint that the manifest of a run names; 0 before there is one."""
    try:
        return int(atomic.loads((folder / "manifest.json").read_text()).get("saved") or 0)
    except (OSError, ValueError, AttributeError):
        return 0


def _entry(row: tuple) -> Entry:
    cell = Cell(*row[: len(Cell._fields)])
    rest = dict(zip(OUTCOME, row[len(Cell._fields) :], strict=True))
    rest["metrics"] = atomic.loads(rest["metrics"]) if rest["metrics"] else {}
    return Entry(cell._replace(overrides=tuple(atomic.loads(cell.overrides))), **rest)


def _lease(workspace: Path, worker: str) -> Path:
    return workspace / "workers" / f"{worker}.lock"
