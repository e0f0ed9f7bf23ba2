"""The checkpoints of finished runs: their hashes, and whether they are the run's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lmjax import atomic, chain, seal
from lmjax.history import History
from lmjax.study.records import Record


def checkpoints_of(folder: Path) -> dict[str, dict]:
    """Size and SHA-256 of every file of every sealed checkpoint of a run, as the seals say."""
    found = {}
    for path in _slots(folder):
        if (path / seal.NAME).is_file():
            sealed = (path / seal.NAME).read_bytes()
            own = {"bytes": len(sealed), "sha256": hashlib.sha256(sealed).hexdigest()}
            found[path.name] = {**json.loads(sealed)["files"], seal.NAME: own}
    return found


def fault_of(record: Record) -> str:
    """What is wrong with a run's checkpoints: damaged, or another run's; "" if nothing is. Reads their parameters."""
    return stranger(record) or next(
        filter(None, (_parameters_fault(record, path) for path in _slots(record.folder))), ""
    )


def stranger(record: Record) -> str:
    """The same without reading parameters, and without JAX.

    A checkpoint keeps the last of every metric; those of another run, clocks among them, are never all the same.
    """
    for path in _slots(record.folder):
        if fault := seal.damage(path, path.name):
            return f"the checkpoint {path} is damaged: {fault}"
        facts = atomic.loads((path / "checkpoint.json").read_text())
        latest, own = (facts.get("host") or {}).get("latest") or {}, {}
        for line in record.history:
            own |= line if line["step"] <= facts["step"] else {}
        for name in sorted(latest.keys() & own.keys()):
            if repr(latest[name]) != repr(own[name]):
                return (
                    f"the checkpoint {path} is of another run: its {name} is {latest[name]}, and this run's at step "
                    f"{facts['step']} is {own[name]}: swapped"
                )
    return ""


def _parameters_fault(record: Record, path: Path) -> str:
    """Whether the parameters in a checkpoint hash to what the run noted when it had them."""
    step, result = int(path.name), record.manifest["result"]
    noted = {line["step"]: line["params"] for line in History(record.folder / chain.NAME).read() if "params" in line}
    noted[result["step"]] = result.get("params_sha256")
    if noted.get(step) is None:
        return ""
    found = parameters_sha256(path, counted=record.config.model.kind == "ngram")
    if found == noted[step]:
        return ""
    return (
        f"the checkpoint {path} is of another run: its parameters have the SHA-256 {found[:12]}, and this run's at step "
        f"{step} had {noted[step][:12]}: swapped"
    )


def parameters_sha256(path: Path, *, counted: bool = False) -> str:
    """`provenance.params_sha256` of the parameters in a sealed checkpoint; `counted`: of counts, which JAX never sees."""
    from lmjax import checkpoint, provenance
    from lmjax.checkpoint import plain

    if counted:
        from lmjax.counted import sha256

        return sha256(plain.restore(path.parent, int(path.name))[1])
    import jax

    stored = atomic.loads((path / "checkpoint.json").read_text())["arrays"]
    wanted = {
        name.removeprefix("params/"): jax.ShapeDtypeStruct(tuple(entry["shape"]), entry["dtype"])
        for name, entry in stored.items()
        if name.startswith("params/")
    }
    checkpoints = checkpoint.Checkpoints(path.parent)
    try:
        restored = checkpoints.restore({"params": wanted}, step=int(path.name), unused="ignore")
    finally:
        checkpoints.close()
    return provenance.params_sha256(restored.state["params"])


def _slots(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("[0-9]*"))
