"""The collectives of a compiled program: which mesh axis each runs along, what it moves and how long that takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmjax.plan.hlo import Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")  # fmt: skip


HOLDS = ("fusion", "async-start", "call-start")  # call-start: on the sparse cores, which a tpu7x gives its collectives


class Collective(NamedTuple):
    """One collective of the schedule. bytes: what a device sends; seconds: on links that nothing else uses."""

    kind: str
    axis: str  # mesh axes, joined by "+"
    devices: int
    bytes: float
    seconds: float
    scope: str
    channel: str | None


class Network(NamedTuple):
    """The devices in the order of the mesh: its axes, where each device is, and what its links carry."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    coordinates: np.ndarray  # (devices, dimensions of the torus)
    slices: np.ndarray  # (devices,)
    sides: tuple[int, ...]  # of the torus
    wraps: int  # a side from which on the links close to a ring
    link: float  # bytes a second, one way
    between: float  # bytes a second between slices

    def axis(self, group: Sequence[int]) -> str:
        """The mesh axes along which these devices differ; "all" if that is every axis of more than one."""
        at = np.stack(np.unravel_index(np.asarray(group), self.shape))
        names = [axis for axis, row in zip(self.axes, at, strict=True) if np.ptp(row) > 0]
        return "+".join(names) or "none"

    def across(self) -> list[int]:
        """A device of every slice."""
        return [int(index) for index in np.unique(self.slices, return_index=True)[1]]

    def crosses(self, group: Sequence[int]) -> bool:
        return bool(np.ptp(self.slices[np.asarray(group)]) > 0)

    def rings(self, group: Sequence[int]) -> list[tuple[int, bool]]:
        """Of each dimension of the torus along which the group extends: how far, and whether its links close."""
        at = self.coordinates[np.asarray(group)]
        spans = [(len(np.unique(at[:, i])), side) for i, side in enumerate(self.sides)]
        return [(span, span == side and side % self.wraps == 0) for span, side in spans if span > 1]


def find(module: Module, one: Instruction, network: Network) -> Collective | None:
    """The collective that an instruction is, starts, or holds inside its fusion; None for any other."""
    kind = kind_of(one)
    if kind is None and one.opcode in HOLDS and (inner := module.inner(one)):
        held = next((part for part in module.deep(inner) if kind_of(part)), None)
        if held is None:
            return None
        kind = kind_of(held)
        if kind == "all-reduce" and "scatter" in inner.name:  # the compiler's name for one with a slice behind it
            kind = "reduce-scatter"
        return _made(held, kind, network, one.scope or held.scope)
    return kind and _made(one, kind, network, one.scope)


def kind_of(one: Instruction) -> str | None:
    name = one.opcode.removesuffix("-start")
    return name if name in KINDS else None


def _made(one: Instruction, kind: str, network: Network, scope: str) -> Collective | None:
    group = first_group(one.rest, int(np.prod(network.shape)))
    if len(group) < 2:
        return None  # nothing leaves the device
    whole = payload(one)
    if kind == "reduce-scatter" and one.opcode == "reduce-scatter":
        whole *= len(group)  # its result is one part
    seconds, sent = cost(kind, whole, group, network)
    channel = re.search(r"channel_id=(\d+)", one.rest)
    return Collective(kind, network.axis(group), len(group), sent, seconds, scope, channel and channel[1])


def between_slices(one: Instruction, network: Network) -> Collective | None:
    """What a send hands to the hosts' network: the part of a collective that goes from slice to slice."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    group = network.across()
    if found is None or one.opcode != "send" or len(group) < 2:
        return None
    kind = found[1].lower().replace("_", "-")
    seconds, sent = cost(kind, one.arrays[0].bytes, group, network)
    return Collective(kind, network.axis(group), len(group), sent, seconds, one.scope, None)


def payload(one: Instruction) -> float:
    """Bytes of the whole result on a device; what starts has its operands and the network's notes beside it."""
    arrays = [array for array in one.arrays if array.dims or not one.opcode.endswith("-start")]
    if one.opcode.endswith("-start") and one.opcode != "all-reduce-start" and len(arrays) > 1:
        arrays = arrays[len(arrays) // 2 :]
    return float(sum(array.bytes for array in arrays))


def first_group(rest: str, devices: int) -> list[int]:
    """The first of the groups of devices, by their places in the mesh."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", rest):
        each = [sorted(map(int, pair.split(","))) for pair in re.findall(r"(\d+,\d+)", pairs[1])]
        return next((pair for pair in each if pair[0] != pair[1]), each[0][:1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return [int(number) for number in listed[1].split(",")]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        groups, shape, order = ([int(n) for n in (part or "").split(",") if n] for part in iota.groups())
        numbers = np.arange(np.prod(shape)).reshape(shape)
        numbers = (numbers.transpose(order) if order else numbers).reshape(groups)
        return [int(number) for number in numbers[0].ravel()]
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        return _of_mesh(mesh[1], mesh[2])
    return list(range(devices))


def _of_mesh(sizes: str, along: str) -> list[int]:
    """mesh['a'=2,'b'=4] {'b'}: the devices along b at the start of a; 'b':(2)2 is the part of b of size 2 after 2."""
    named = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    numbers = np.arange(int(np.prod(list(named.values())))).reshape(list(named.values()))
    keep = []
    chosen = {name: (int(before or 1), int(size or 0)) for name, before, size in
              re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)}  # fmt: skip
    for name, size in named.items():
        before, part = chosen.get(name, (1, 1))
        part = part or size
        keep.append(np.arange(part) * (size // before // part))
    return [int(number) for number in numbers[np.ix_(*keep)].ravel()]


def cost(kind: str, whole: float, group: Sequence[int], network: Network) -> tuple[float, float]:
    """Seconds, and the bytes that a device sends, of a collective over `whole` bytes on each device.

    Rings along every dimension of the torus that the group extends over, both ways where links close to a ring
    (Patarasuk and Yuan 2009; How to Scale Your Model, part 3); between slices one path a device.
    """
    n = len(group)
    if n < 2 or not whole:
        return 0.0, 0.0
    crosses, rings = network.crosses(group), network.rings(group)
    links = sum(2 if ring else 1 for _, ring in rings) or 2 * len(
        network.sides
    )  # two devices of a chip share all of it
    paths = network.between if crosses else network.link * links
    if kind == "collective-permute":  # programs send one each way at the same time
        return whole / paths, whole
    share = whole * (n - 1) / n
    if kind == "all-reduce":
        return 2 * share / paths, 2 * share
    if kind in ("all-to-all", "ragged-all-to-all") and not crosses:
        longest, ring = max(rings, default=(n, False))
        return whole * longest / (8 if ring else 4) / network.link, share
    return share / paths, share
