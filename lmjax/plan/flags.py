"""Compiler options for each kind of chip: only those that its compiler takes and whose effect was measured."""

from __future__ import annotations

# How much of the memory on the chip one fusion may take, in KiB; 16,384 unless set. Larger windows for the products of
# Llama 2 7B's MLP and their gradients: 8 % fewer estimated cycles on v5e, 10 % on v6e (where 32,768 changes nothing).
FLAGS: dict[str, dict[str, str]] = {
    "v5e": {"xla_tpu_scoped_vmem_limit_kib": "32768"},
    "v6e": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
}


def flags_for(kind: str) -> dict[str, str]:
    """Options for `lowered.compile(compiler_options=...)` on this kind (v5e, v6e, ...); {} for any other."""
    return dict(FLAGS.get(kind, {}))
