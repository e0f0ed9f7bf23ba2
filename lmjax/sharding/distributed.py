"""Start-up of several processes, wherever a launcher has started them; and what they agree upon."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping

import jax
import numpy as np

from lmjax.errors import UserError
from lmjax.sharding import cluster, witness

VARIABLES = cluster.VARIABLES
# Seconds, each set by the variable: how long a start waits for all processes, and after how long without a sign of
# life a process counts as dead.
WAITS = {"LMJAX_START_SECONDS": 300, "LMJAX_HEARTBEAT_SECONDS": 60}


def start() -> None:
    """Join the other processes that `cluster.find` finds, if there are any; UserError says what is wrong with them."""
    if jax.distributed.is_initialized():
        return
    place = cluster.find(os.environ, cluster.metadata(os.environ))
    if place is not None:
        join(place)
    elif tasks := cluster.unstarted(os.environ):
        print(f"lmjax: warning: this job of SLURM has {tasks} tasks, and this process runs alone: begin the command "
              "with srun for all of them", file=sys.stderr)  # fmt: skip


def join(place: cluster.Place) -> None:
    """Meet the other processes at process 0. Who does not within the time ends with a message and exit code 2."""
    begin, beat = waits(os.environ).values()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    chosen = cluster.gpus(place, os.environ, len(list(cluster.devices("nvidia[0-9]*"))))
    late = threading.Timer(begin, refuse, (place, f"waited {begin} s (LMJAX_START_SECONDS) for the others at"))
    late.daemon = True
    late.start()  # JAX itself would abort, with a stack trace
    try:
        jax.distributed.initialize(place.address, place.count, place.index, chosen, "deactivate",
                                   initialization_timeout=begin + 60, heartbeat_timeout_seconds=beat)  # fmt: skip
    except RuntimeError as error:
        refuse(place, f"{str(error).splitlines()[0]}: could not meet the others at")
    late.cancel()
    witness.watch(place.index, place.count)


def refuse(place: cluster.Place, what: str) -> None:
    """End this process: the others cannot be met."""
    print(f"lmjax: process {place.index} of {place.count} (so says: {place.found}) {what} {place.address}\nWere all "
          f"{place.count} started, is this host known by that name everywhere, and its port free and open? "
          "JAX_COORDINATOR_ADDRESS=HOST:PORT chooses another.", file=sys.stderr, flush=True)  # fmt: skip
    os._exit(2)


def waits(env: Mapping[str, str]) -> dict[str, int]:
    """`WAITS`, as set."""
    return {name: cluster.number(env, name, default) for name, default in WAITS.items()}


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
