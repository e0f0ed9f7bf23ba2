"""Compiler options for each kind of chip: only those that its compiler takes and whose effect was measured."""

from __future__ import annotations

FLAGS: dict[str, dict[str, str]] = {}


def flags_for(kind: str) -> dict[str, str]:
    """Options for `lowered.compile(compiler_options=...)` on this kind (v5e, v6e, ...); {} for any other."""
    return dict(FLAGS.get(kind, {}))
