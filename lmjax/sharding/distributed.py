"""Start-up of several processes, from plain environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import numpy as np

from lmjax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start() -> None:
    """Join the other processes if the three `VARIABLES` are set (host:port, how many, which one); else run alone."""
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not given or jax.distributed.is_initialized():
        return
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UserError(f"{', '.join(given)} is set, so {' and '.join(missing)} must be too, or none of them")
    address, count, index = given.values()
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID={index} of JAX_NUM_PROCESSES={count}: whole numbers, the first below the second"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))


def agree(decide: Callable[[], bool]) -> bool:
    """What process 0 decides; its UserError is one in every process, so that none waits for the others."""
    if jax.process_count() == 1:
        return decide()
    from jax.experimental import multihost_utils

    verdict, failure = 0, None
    if jax.process_index() == 0:
        try:
            verdict = int(decide())
        except UserError as error:
            verdict, failure = 2, error
    verdict = int(multihost_utils.broadcast_one_to_all(np.int32(verdict)))
    if verdict == 2:
        raise failure or UserError("process 0 refused to start: see its message")
    return bool(verdict)


def whole(leaf: jax.Array) -> np.ndarray:
    """The array on the host, wherever its parts lie; every process makes the same calls."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(jax.device_get(leaf))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
