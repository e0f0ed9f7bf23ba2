"""Pytrees of arrays to and from disk by path, through Orbax, which is imported here and only when first needed.

What is stored is a flat dict, path -> array ("opt_state/0/mu/blocks/attention/query"), never a Python class: a state
that holds the same names, shapes and dtypes restores it, whatever its classes are called and however it is sharded.
"""

from __future__ import annotations

import logging
import os
import pathlib
import re
import sys
from typing import Any

_passed_on: list = []  # the hook for unraisable errors that was there before ours


def by_path(tree) -> dict[str, Any]:
    """The leaves of `tree` by path, in its order; Python and NumPy numbers become arrays on the first device."""
    import jax
    import jax.numpy as jnp

    flat = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in flat:
            raise ValueError(f"two arrays of the state have the same path {path!r}")
        flat[path] = leaf if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) else jnp.asarray(leaf)
    return flat


def rebuild(tree, flat: dict[str, Any]):
    """`tree` with its leaves replaced by those of `flat`, by path."""
    import jax

    return jax.tree.unflatten(jax.tree.structure(tree), [flat[path] for path in by_path(tree)])


def table(flat: dict[str, Any]) -> dict[str, dict]:
    """Shape and dtype of each array, as JSON."""
    return {path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in flat.items()}


def mismatch(wanted: dict[str, dict], stored: dict[str, dict], *, subset: bool = False) -> str | None:
    """The first path in which two tables differ, in words; with `subset` more may be stored than is wanted."""
    for path, entry in wanted.items():
        if path not in stored:
            return f"it has no {path} (wanted: {_words(entry)})"
        if stored[path] != entry:
            return f"{path} is {_words(stored[path])} in it, but {_words(entry)} is wanted"
    extra = next((path for path in stored if path not in wanted), None)
    if subset or extra is None:
        return None
    return f"it also has {extra} ({_words(stored[extra])}), which nothing here takes"


def open_store():
    """The Orbax checkpointer that `save` and `restore` take; about a second for the first import.

    Uncompressed OCDBT: ten files, whatever the number of arrays, and the least time on the processor (trained float32
    weights compress by 8 %). Each array is written by its first replica: slicing between replicas, Orbax's default,
    compiles a program for each shape and device in the middle of training.
    """
    import jax
    import orbax.checkpoint as ocp

    _leave_failures_to_us()
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False, type_handler_registry=registry)
    return ocp.AsyncCheckpointer(handler, async_options=ocp.AsyncOptions(timeout_secs=3600))


def save(store, folder: pathlib.Path, flat: dict[str, Any]) -> None:
    """Starts writing `flat` to the new `folder`; its arrays may be donated at once. Every process calls it."""
    import jax
    import orbax.checkpoint as ocp

    with jax.transfer_guard("allow"):
        store.save(folder, args=ocp.args.PyTreeSave({path: leaf for path, leaf in flat.items() if leaf.size}))


def restore(store, folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The stored arrays of the paths in `wanted`, in the shardings given there (without one: the first device)."""
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = {path: getattr(leaf, "sharding", None) or first for path, leaf in wanted.items()}
    full = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in wanted.items() if leaf.size}
    how = {
        path: ocp.ArrayRestoreArgs(sharding=shardings[path], global_shape=leaf.shape, dtype=leaf.dtype)
        for path, leaf in full.items()
    }
    with jax.transfer_guard("allow"):
        found = store.restore(folder, args=ocp.args.PyTreeRestore(item=full, restore_args=how, partial_restore=True))
        return {
            path: found[path] if path in found else jnp.zeros(leaf.shape, leaf.dtype, device=shardings[path])
            for path, leaf in wanted.items()
        }


def reason(error: BaseException) -> str:
    """What went wrong in a read or write, in one line: the system's own words where it gave any."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    text = str(error) or type(error).__name__
    if code := re.search(r"os_error_code='(\d+)'", text):  # TensorStore's way to say what the system said
        return os.strerror(int(code[1]))
    return text.strip().splitlines()[0][:300]


def _words(entry: dict) -> str:
    return f"{entry['dtype']}[{','.join(map(str, entry['shape']))}]"


def _leave_failures_to_us() -> None:
    """One failed write reaches the user once, as the message that we raise.

    Orbax logs it with a traceback as well; and it stops waiting at the first array that fails, so asyncio and
    TensorStore report each of the others, which failed for the same reason, as an error that nobody took.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_from_orbax)
    if sys.unraisablehook is not _report_unraisable:
        _passed_on.append(sys.unraisablehook)
        sys.unraisablehook = _report_unraisable


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return not re.search(r"orbax.checkpoint", record.pathname + record.getMessage())


def _report_unraisable(unraisable) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _passed_on[-1](unraisable)
