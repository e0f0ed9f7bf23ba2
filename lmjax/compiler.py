"""Compiler options for each kind of chip: only those that its compiler takes and whose effect was measured."""

from __future__ import annotations

# By the beginning of jax.Device.device_kind. How much of the memory on the chip one fusion may take, in KiB; 16,384
# unless set. For the products of Llama 2 7B's MLP and their gradients that is 8 % fewer estimated cycles on v5e (11 %
# with 65,536, which takes five times as long to compile) and 10 % on v6e, where 32,768 changes nothing.
OPTIONS = {
    "TPU v5 lite": {"xla_tpu_scoped_vmem_limit_kib": "32768"},
    "TPU v6 lite": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
    # Reductions on the sparse cores of a TPU7x: libtpu 0.0.42 dies of them in small programs, "Check failed: inc < core".
    "TPU7x": {"xla_tpu_enable_sparse_core_collective_offload_all_reduce": "false"},
}


def options(device_kind: str) -> dict[str, str] | None:
    """What `jax.jit(compiler_options=...)` of a train step gets on this device; None for those that need nothing."""
    found = next((each for kind, each in OPTIONS.items() if device_kind.startswith(kind)), None)
    return found and dict(found)
