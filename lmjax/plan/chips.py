"""What the chips are: the data sheets that a plan's roofline stands on, and the topologies the compiler knows."""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One JAX device. FLOP/s are dense bfloat16, bandwidths bytes a second."""

    name: str
    flops: float
    hbm: float  # bandwidth
    memory: float  # bytes that a program may have, as the compiler's own error says
    link: float  # of one link of the interconnect, one way
    network: float  # of the data-center network, for a device
    clock: float  # cycles a second: flops over the FLOPs a cycle of its matrix units
    dimensions: int  # of the torus
    wraps: int  # a side from which on the links close to a ring
    topology: dict[str, object]  # what get_topology_desc wants besides the name
    source: str


ON_CHIP = 20.0  # VMEM's bandwidth over that of HBM, about 22 on a v5e (How to Scale Your Model, part 1)
SHEET = "cloud.google.com/tpu/docs, system architecture of each version; links as in How to Scale Your Model, part 2"
# Clocks: the FLOPs a cycle are those of the matrix units, 4 or 8 of 128 x 128 or 4 of 256 x 256.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 1.228e12, 30.75 * GIB, 4.5e10, 6.25e9, 275e12 / 262144, 3, 4,
               {"chip_config_name": "megacore"}, SHEET),
    "v5e": Chip("TPU v5e", 197e12, 8.19e11, 15.75 * GIB, 4.5e10, 3.125e9, 197e12 / 131072, 2, 16, {}, SHEET),
    "v5p": Chip("TPU v5p", 459e12, 2.765e12, 95.74 * GIB, 9e10, 6.25e9, 459e12 / 262144, 3, 4, {}, SHEET),
    "v6e": Chip("TPU v6e", 918e12, 1.64e12, 31.25 * GIB, 9e10, 1.25e10, 918e12 / 524288, 2, 16, {}, SHEET),
    "tpu7x": Chip("TPU7x", 1153.5e12, 3.69e12, 94.75 * GIB, 9e10, 1.25e10, 1153.5e12 / 524288, 3, 4, {},
                  SHEET + "; half a chip"),
}  # fmt: skip
