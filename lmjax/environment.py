"""What must be set before JAX is imported: where compiled programs are kept, and the platform."""

from __future__ import annotations

import os
from pathlib import Path

from lmjax import heap

ACCELERATORS = ("accel*", "vfio/*", "nvidia*", "kfd")  # device files of TPUs, NVIDIA's and AMD's GPUs

STRICT = (  # what makes XLA repeat itself on GPUs: no atomic sums, and no kernel chosen by a stopwatch
    "--xla_gpu_deterministic_ops=true", "--xla_gpu_exclude_nondeterministic_ops=true", "--xla_gpu_autotune_level=0",
)  # fmt: skip


def strict(flags: str) -> str:
    """XLA_FLAGS with those of STRICT; CPUs and TPUs repeat themselves without, and take them without effect."""
    kept = [flag for flag in flags.split() if flag.partition("=")[0] not in {one.partition("=")[0] for one in STRICT}]
    return " ".join([*kept, *STRICT])


def cache_root() -> Path:
    """Where lmjax keeps prepared data and compiled programs: $LMJAX_CACHE, or ~/.cache/lmjax."""
    return Path(os.environ.get("LMJAX_CACHE") or Path.home() / ".cache" / "lmjax").expanduser()


def prepare() -> None:
    """Set what the user has not set. The values are in every run's manifest, as all XLA_ and JAX_ variables are."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_root() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if not any(next(Path("/dev").glob(pattern), None) for pattern in ACCELERATORS):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else an installed libtpu searches for its TPU, loudly


def start() -> None:
    """`prepare`, and import JAX, with a CPU that runs a step when it is asked to: `lmjax.heap` says why."""
    prepare()
    heap.share()
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
