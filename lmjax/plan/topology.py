"""Names of topologies, the devices behind them, and the environment that the TPU compiler wants in its process."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmjax.errors import UserError, unknown
from lmjax.plan.chips import CHIPS

HERE = ("cpu", "gpu")  # devices of this machine
# Shapes that the compiler knows and clouds offer; a cube has its chips in three dimensions.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
COMPILER = {  # libtpu asks the cloud's metadata server for what is not said here, and floods stderr
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
}  # fmt: skip


class Topology(NamedTuple):
    """`v5e:4x4` is kind v5e and sides (4, 4); `cpu:8` is kind cpu and sides (8,)."""

    kind: str
    sides: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        if self.kind in HERE:
            return f"{self.kind}:{self.sides[0]}" if self.sides else self.kind
        each = f"{self.kind}:{'x'.join(map(str, self.sides))}"
        return each if self.slices == 1 else f"{each} x {self.slices} slices"

    @property
    def devices(self) -> int:
        """0: as many as there are."""
        each = math.prod(self.sides) if self.sides else 0
        return each * self.slices * (2 if self.kind == "tpu7x" else 1)


def known() -> list[str]:
    """Every topology with a shape that clouds offer."""
    shapes = {kind: FLAT if chip.dimensions == 2 else CUBES for kind, chip in CHIPS.items()}
    return [f"{kind}:{shape}" for kind, each in shapes.items() for shape in each]


def parse(text: str, slices: int = 1) -> Topology:
    """A UserError names what is known for a kind or a shape that is not."""
    kind, _, shape = text.partition(":")
    if slices < 1:
        raise UserError(f"--slices={slices}: 1 or more")
    if kind in HERE:
        if slices > 1 or (shape and not re.fullmatch(r"[1-9]\d*", shape)) or (kind == "gpu" and shape):
            raise UserError(f"topology {text!r}: cpu, cpu:N for N devices that share this machine, or gpu; no slices")
        return Topology(kind, (int(shape),) if shape else ())
    if kind not in CHIPS:
        raise unknown("topology", text, [*HERE, "cpu:8", *(f"{name}:SHAPE" for name in CHIPS)],
                      f"A SHAPE is such as {', '.join(FLAT)} for v5e and v6e, {', '.join(CUBES)} for the others.")  # fmt: skip
    shapes = FLAT if CHIPS[kind].dimensions == 2 else CUBES
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") + 1 != CHIPS[kind].dimensions:
        raise unknown(f"shape of {kind} in --topology", shape, shapes)
    return Topology(kind, tuple(map(int, shape.split("x"))), slices)


def environment(topology: Topology, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a process that compiles for `topology`; they must be there before JAX is imported."""
    made = dict(given)
    if topology.kind == "gpu":
        made.pop("JAX_PLATFORMS", None)
        return made | {"JAX_PLATFORMS": "cuda,cpu"}
    if topology.kind == "cpu":
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", made.get("XLA_FLAGS", ""))
        if topology.sides:
            flags += f" --xla_force_host_platform_device_count={topology.sides[0]}"
        return made | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    made.pop("JAX_COMPILATION_CACHE_DIR", None)  # such programs are not found in it again
    return made | COMPILER


def devices(topology: Topology) -> list[Any]:
    """The JAX devices; those of a TPU that is not there can only be compiled for."""
    import jax

    if topology.kind in HERE:
        platform = "cpu" if topology.kind == "cpu" else "gpu"
        try:
            return jax.devices(platform)
        except RuntimeError as error:
            raise UserError(f"--topology={topology.name}: JAX finds no GPU here ({error})") from None
    from jax.experimental import topologies

    options = dict(CHIPS[topology.kind].topology)
    if wraps := tuple(side % CHIPS[topology.kind].wraps == 0 for side in topology.sides):
        if any(wraps) and len(wraps) == 3:
            options["wrap"] = wraps
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = f"{topology.kind}:{'x'.join(map(str, topology.sides))}"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:
        shapes = FLAT if CHIPS[topology.kind].dimensions == 2 else CUBES
        hint = str(error).splitlines()[0]
        raise UserError(
            f"--topology={name}: the TPU compiler refuses it ({hint}). Known: {', '.join(shapes)}"
        ) from None
