"""Start-up of several processes, from plain environment variables."""

from __future__ import annotations

import os

import jax

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
        raise UserError(f"JAX_PROCESS_ID={index} of JAX_NUM_PROCESSES={count}: whole numbers, the first below the second")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
