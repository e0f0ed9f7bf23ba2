"""What a worker process of Grain runs in place of the user's script: it leaves JAX out until Grain is there.

`multiprocessing` runs the parent's main module anew in each process that it spawns, before anything else. Grain imports
JAX and Orbax where they are installed, a second and 200 MB of each worker, and needs neither to make batches.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

LEFT_OUT = ("jax", "orbax")


def begin(*_: int) -> None:
    """The first thing that Grain calls in a worker: whoever needs JAX may import it now; it sees the CPU alone.

    The process ends when its parent does, even one that was killed: `multiprocessing`'s would go on for ever.
    """
    import multiprocessing

    for name in LEFT_OUT:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
    logging.disable(logging.NOTSET)
    os.environ["JAX_PLATFORMS"] = "cpu"
    threading.Thread(target=_outlive, args=(multiprocessing.parent_process(),), daemon=True).start()


def _outlive(parent) -> None:
    parent.join()
    os._exit(1)


if __name__ == "__mp_main__":
    logging.disable(logging.WARNING)  # Grain's, that there is no JAX
    for module in LEFT_OUT:
        sys.modules.setdefault(module, None)
