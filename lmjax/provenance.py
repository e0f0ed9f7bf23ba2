"""What produced this number: the manifest of a run, the hash of its parameters, and the lock on its folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import sys
import time
from typing import Literal

from lmjax import atomic, chain, seal
from lmjax.errors import UserError

Status = Literal["running", "completed", "preempted", "failed"]
_FLAGS = ("XLA_", "JAX_", "LIBTPU_", "TF_CPP_", "NCCL_", "CUDA_VISIBLE", "OMP_NUM", "PYTHONHASHSEED", "LMJAX_")
_STATED = re.compile(r"^(Name|Version):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)


class Manifest:
    """RUN/manifest.json: every fact of a run, complete before its first step, replaced at once at every change.

    The top level holds what the first session ran with; each entry of `sessions` has its own start, end, status, host
    and devices, and under `changed` whatever else differed from the first session (packages, flags, commit, diff).
    """

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "manifest.json"
        self._started = time.monotonic()
        self.facts: dict = self._read()

    def start(self, from_step: int, **facts) -> None:
        """Begins a session at `from_step`: `facts` are the environment's, and the run's own on the first start."""
        now, sessions = time.time(), self.facts.get("sessions", [])
        for session in sessions:
            if session["status"] == "running":
                session.update(status="killed", cause="it did not end by itself: killed, or the power failed")
        facts = atomic.loads(atomic.dumps(facts))  # as it reads back, so that a tuple is no difference to a list
        first = self.facts or {**facts, "started": _clock(now)}
        session = {"started": _clock(now), "from_step": from_step, "pid": os.getpid(), "status": "running"}
        session |= {name: facts[name] for name in ("host", "devices", "process_count", "mesh") if name in facts}
        session["changed"] = {
            name: value for name, value in facts.items() if name not in session and first.get(name) != value
        }
        self._started = time.monotonic()
        self.facts = {**first, "status": "running", "cause": None, "ended": None, "result": first.get("result")}
        self.facts.pop("sha256", None)
        self.facts["sessions"] = [*sessions, {**session, "wall_seconds": 0.0}]
        self._write()

    def update(self, **facts) -> None:
        """Adds or replaces facts while the run goes on, and notes its time so far."""
        self._note(**facts)
        self._write()

    def _note(self, **facts) -> None:
        self.facts.update(facts)
        session = self.facts["sessions"][-1]
        session["wall_seconds"] = round(time.monotonic() - self._started, 3)
        self.facts["wall_seconds"] = round(sum(s["wall_seconds"] for s in self.facts["sessions"]), 3)

    def finish(self, status: Status, cause: str | None = None, result: dict | None = None) -> None:
        """Seals the session: how it ended, why, and the result (last step, final metrics, params_sha256).

        The result is sealed with the SHA-256 of metrics.jsonl and the head of chain.jsonl, and the manifest with its own.
        """
        result = result and result | sealed(self.path.parent)
        ended = _clock(time.time())
        self.facts["sessions"][-1].update(status=status, cause=cause, ended=ended)
        self._note(status=status, cause=cause, ended=ended, result=result)
        self.facts = seal.stamped(atomic.loads(atomic.dumps(self.facts)))
        self._write()

    def _read(self) -> dict:
        try:
            facts = atomic.loads(self.path.read_text())
            if not isinstance(facts, dict) or not isinstance(facts.get("sessions"), list) or "status" not in facts:
                raise ValueError("it is not a manifest that lmjax writes")
            return facts
        except FileNotFoundError:
            self._refuse_orphans()
            return {}
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(
                f"cannot read {self.path} ({error}); nothing was changed. It says what this run is: put back an "
                "undamaged copy, or start in another --workdir."
            ) from None

    def _refuse_orphans(self) -> None:
        for name in ("metrics.jsonl", "checkpoints"):
            path = self.path.parent / name
            if path.is_dir() and any(path.iterdir()) or path.is_file() and path.stat().st_size:
                raise UserError(
                    f"{self.path.parent} has {name} but no manifest.json, so nothing says what run this is. "
                    "Put the manifest back, or start in another --workdir."
                )

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self.path, atomic.dumps(self.facts, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error


def environment() -> dict:
    """The facts of this process for `Manifest.start`: packages, flags, devices, host."""
    import jax

    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        "command": sys.argv,
        "cwd": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "flags": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_FLAGS)},
        "host": {"name": socket.gethostname(), "cpus": os.cpu_count(), "usable_cpus": _usable_cpus(),
                 "processor": _processor()},
        "sources": sources(),
        "devices": {"platform": devices[0].platform, "kind": ", ".join(kinds), "count": len(devices)},
        "process_count": jax.process_count(),
    }  # fmt: skip


def sources() -> dict[str, str]:
    """The SHA-256 of every file of lmjax that this process has imported, by its path in the package.

    Without those that only read finished runs, or that tell where a run is: verbs, study, plan.
    """
    here, found = pathlib.Path(__file__).parent, {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and (path := pathlib.Path(file)).suffix == ".py" and path.is_relative_to(here):
            name = path.relative_to(here).as_posix()
            if not name.startswith(("verbs/", "study/", "plan/", "interop/", "__main__")):
                found[name] = _first_sight(path)
    return dict(sorted(found.items()))


@functools.cache
def _first_sight(path: pathlib.Path) -> str:
    """The hash of a file when it was first asked for: what this process has imported does not change with it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sealed(folder) -> dict[str, str]:
    """{metrics_sha256, chain} of a run directory: of the file metrics.jsonl, and the last head of chain.jsonl."""
    folder, found = pathlib.Path(folder), {}
    if (metrics := folder / "metrics.jsonl").is_file():
        found["metrics_sha256"] = hashlib.sha256(metrics.read_bytes()).hexdigest()
    if head := chain.sealed(folder):
        found["chain"] = head
    return found


def packages() -> dict[str, str]:
    """Version of every installed distribution, by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or distribution.read_text("")
        said = dict(_STATED.findall((text or "").partition("\n\n")[0]))  # the parser of e-mails takes half a second
        if "Name" in said:  # a half-removed package has no name
            found.setdefault(said["Name"].lower(), said.get("Version"))  # the first on the path is the one imported
    return dict(sorted(found.items()))


def params_sha256(params) -> str:
    """SHA-256 over path, dtype, shape and bytes of every array in the order of its path.

    The same for any sharding and number of devices. With several processes all of them must call it.
    """
    import jax
    import numpy as np

    from lmjax.checkpoint import arraystore
    from lmjax.sharding.distributed import whole

    digest = hashlib.sha256()
    for path, array in sorted(arraystore.by_path(params).items()):
        with jax.transfer_guard("allow"):
            found = whole(array)
        if sys.byteorder == "big":
            found = found.byteswap()
        digest.update(json.dumps([path, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(np.ascontiguousarray(found).tobytes())
    return digest.hexdigest()


def program_sha256(lowered) -> str:
    """SHA-256 of a lowered step as StableHLO text without source locations: what was asked of the compiler."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


class RunLock:
    """While held, no other process trains in `folder`; the system lets go of it when this process ends, however.

    UserError names the holder. Only process 0 of a run takes it.
    """

    def __init__(self, folder):
        import fcntl

        path = pathlib.Path(folder) / "lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}") from None
        os.register_at_fork(after_in_child=self.release)  # else a surviving worker process would hold it on
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 200).decode(errors="replace").strip() or "another process"
            self.release()
            raise UserError(
                f"{holder} is training in {folder} already; wait for it to end, or choose another --workdir"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    """The name of the CPU, whose vector instructions decide how sums are rounded."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
