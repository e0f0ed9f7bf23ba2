"""A compiled step walked in the order of its schedule: seconds, FLOPs, bytes, and what the collectives expose.

An estimate, not a measurement. Every fusion takes the cycles that the TPU compiler itself expects, or, where it only
moves data, the time its bytes take at the data sheet's bandwidth if that is less; Pallas kernels run at half of the
peak; collectives are rings on their links (`collectives.cost`); what was started waits for nobody until its result is
needed. `cost_analysis` of the compiler counts the body of a loop once, and so is of no use here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lmjax.plan.chips import ON_CHIP, Chip
from lmjax.plan.collectives import Collective, Network, between_slices, find
from lmjax.plan.hlo import HBM, Computation, Instruction, Module, product_flops, trips
from lmjax.plan.traffic import read, stacked, written

KERNEL_SHARE = 0.5  # of the peak that an attention kernel reaches
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
        "iota", "opt-barrier", "add-dependency"}  # fmt: skip
NESTING = {"while", "body", "cond", "closed_call", "checkpoint", "rematted_computation", "shard_map", "scan", "branch_0_fun",
           "branch_1_fun", "custom_vjp_call", "custom_jvp_call", "pjit"}  # fmt: skip
MOVES = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")  # between HBM and the chip


@dataclass
class Exposure:
    """All runs of one collective: how often, and the seconds that the step waited for it."""

    what: Collective
    count: float = 1.0
    waited: float = 0.0
    overlapped: bool = False


class Part(NamedTuple):
    """What the instructions of one place in the model take, those of loops as often as they run."""

    count: float = 0.0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: Part, times: float = 1.0) -> Part:
        return Part(*(mine + times * its for mine, its in zip(self, other, strict=True)))


@dataclass
class Account:
    """What a part of the program takes on one device."""

    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0  # between HBM and the chip
    kernels: float = 0.0  # seconds of the above
    moving: float = 0.0  # seconds waited for copies between HBM and the chip
    collectives: list[Exposure] = field(default_factory=list)
    kept: float = 0.0  # bytes that loops of the forward pass stack for the backward pass
    parts: dict[str, Part] = field(default_factory=dict)  # by place in the model
    notes: set[str] = field(default_factory=set)


class Walk:
    """`Walk(module, chip, network, visible).run()` -> Account of the whole program."""

    def __init__(self, module: Module, chip: Chip, network: Network, visible: float = 1.0):
        self.module, self.chip, self.network, self.visible = module, chip, network, visible
        self._flops: dict[str, float] = {}
        self._open: set[str] = set()  # channels of collectives that fusions carry from their start to their end

    def run(self) -> Account:
        return self.walk(self.module.entry)

    def walk(self, computation: Computation) -> Account:
        """The instructions one after the other; links and copies run beside them."""
        total, started = Account(), {}
        free = {"network": 0.0, "slices": 0.0, "memory": 0.0}  # when each has finished what it was given
        for one in computation.instructions.values():
            if one.opcode in FREE:
                continue
            if one.opcode in ("send", "recv"):
                self._between(total, one, free, started)
            elif key := self._ends(one):
                self._finish(total, started.pop(key, None))
            elif one.opcode == "while":
                self._loop(total, computation, one)
            elif one.opcode == "conditional":
                self._branch(total, one)
            elif one.opcode == "call" and (inner := self.module.inner(one)):
                self._add(total, self.walk(inner), 1)
            elif what := self._collective(one):
                starts = one.opcode.endswith("-start") or self._has(one, "AsyncCollectiveStart")
                self._communicate(total, what, free, started, self._key(one, what) if starts else None)
                if one.opcode == "fusion" and not starts:
                    self._compute(total, computation, one)
            elif one.opcode in MOVES:
                moved = min(one.arrays[0].bytes, one.arrays[-1 if len(one.arrays) < 3 else 1].bytes)
                free["memory"] = max(free["memory"], total.seconds) + moved / self.chip.hbm
                total.bytes += moved
                started[one.name] = (None, free["memory"])
            else:
                self._compute(total, computation, one)
        return total

    def _collective(self, one: Instruction) -> Collective | None:
        what = find(self.module, one, self.network)
        if what is not None and one.opcode == "fusion":
            if what.channel in self._open:
                return None  # one more of the fusions that carry a collective which has started
            if self._has(one, "AsyncCollectiveStart"):
                self._open.add(what.channel)
        return what

    def _key(self, one: Instruction, what: Collective) -> object:
        return ("channel", what.channel) if one.opcode == "fusion" else one.name

    def _ends(self, one: Instruction) -> object:
        """The key of what this instruction waits for."""
        if one.opcode.endswith("-done"):
            return one.operands[0]
        if one.opcode == "fusion" and self._has(one, "AsyncCollectiveDone"):
            held = find(self.module, one, self.network)
            return ("channel", held.channel) if held else None
        return None

    def _has(self, one: Instruction, target: str) -> bool:
        inner = self.module.inner(one)
        return bool(inner) and any(part.opcode == "custom-call" and target in part.rest
                                   for part in inner.instructions.values())  # fmt: skip

    def _finish(self, total: Account, begun: tuple | None) -> None:
        if begun is None:
            return
        exposure, end = begun
        waited = max(0.0, end - total.seconds)
        total.seconds += waited
        if exposure is None:
            total.moving += waited
        else:
            exposure.waited += waited

    def _communicate(self, total: Account, what: Collective, free: dict, started: dict, key: object) -> None:
        begin = max(total.seconds, free["network"])
        free["network"] = begin + what.seconds
        exposure = Exposure(what, overlapped=key is not None)
        total.collectives.append(exposure)
        if key is None:
            exposure.waited = free["network"] - total.seconds
            total.seconds = free["network"]
        else:
            started[key] = (exposure, free["network"])

    def _between(self, total: Account, one: Instruction, free: dict, started: dict) -> None:
        """A collective between slices begins with its send and is needed when its receive is done."""
        found = re.search(r'rendezvous="([^"]*)"', one.rest)
        key = ("slices", found[1] if found else one.name)
        if one.opcode == "recv":
            begun = started.pop(key, None)
            started[key if begun is None else one.name] = one.name if begun is None else begun
        elif what := between_slices(one, self.network):
            free["slices"] = max(total.seconds, free["slices"]) + what.seconds
            total.collectives.append(Exposure(what, overlapped=True))
            receive = started.pop(key, None)
            started[key if receive is None else receive] = (total.collectives[-1], free["slices"])

    def _loop(self, total: Account, computation: Computation, one: Instruction) -> None:
        count = trips(self.module, computation, one)
        if count is None:
            total.notes.add(f"{one.name}: how often it runs is not in the program; counted once")
        body = self.module.computations[one.called("body")]
        inside = self.walk(body)
        if "transpose(" not in one.scope:
            inside.kept = stacked(body, count or 1) / (count or 1) + inside.kept
        self._add(total, inside, count if count is not None else 1)

    def _branch(self, total: Account, one: Instruction) -> None:
        names = re.findall(r"%([\w.\-]+)", one.rest.split("metadata=")[0])
        branches = [self.walk(self.module.computations[name]) for name in names if name in self.module.computations]
        if branches:
            self._add(total, max(branches, key=lambda account: account.seconds), 1)

    def _add(self, total: Account, part: Account, times: float) -> None:
        for name in ("seconds", "flops", "bytes", "kernels", "moving", "kept"):
            setattr(total, name, getattr(total, name) + times * getattr(part, name))
        for place, one in part.parts.items():
            total.parts[place] = total.parts.get(place, Part()).plus(one, times)
        total.notes |= part.notes
        total.collectives += [
            replace(one, count=one.count * times, waited=one.waited * times) for one in part.collectives
        ]

    def _compute(self, total: Account, computation: Computation, one: Instruction) -> None:
        moved, near = self._traffic(computation, one)
        flops, seconds = self._work(computation, one), 0.0
        if one.opcode == "custom-call" and "tpu_custom_call" in one.rest:
            flops = self._kernel_flops(computation, one, total)
            seconds = max(flops / (KERNEL_SHARE * self.chip.flops), moved / self.chip.hbm)
            total.kernels += seconds
        elif one.opcode == "custom-call" and not flops:
            moved = 0.0
        else:
            bound = max(moved / self.chip.hbm, near / (ON_CHIP * self.chip.hbm))
            cycles = re.search(r'estimated_cycles":"(\d+)"', one.rest)
            if cycles:
                expected = int(cycles[1]) / self.chip.clock
                seconds = max(expected, flops / self.chip.flops) if flops else min(expected, bound)
            else:
                seconds = max(bound, flops / self.chip.flops)
        total.seconds, total.flops, total.bytes = total.seconds + seconds, total.flops + flops, total.bytes + moved
        where = place(one.scope)
        total.parts[where] = total.parts.get(where, Part()).plus(Part(1, seconds, flops, moved))

    def _work(self, computation: Computation, one: Instruction) -> float:
        """FLOPs of the products in an instruction and in what it calls."""
        inner = self.module.inner(one) if one.opcode in ("fusion", "async-start") else None
        if inner is None:
            return product_flops(computation, one)
        if inner.name not in self._flops:
            self._flops[inner.name] = sum(self._work(inner, part) for part in inner.instructions.values())
        return self._flops[inner.name]

    def _traffic(self, computation: Computation, one: Instruction) -> tuple[float, float]:
        """Bytes from and to HBM, and all bytes; a slice counts as what is read of it, an update as what is written."""
        inner = self.module.inner(one) if one.opcode == "fusion" else None
        moved = near = 0.0
        for index, name in enumerate(one.operands):
            made = computation.instructions.get(name)
            if made is None or made.opcode in ("tuple", "constant"):
                continue
            taken = read(inner, index) if inner else None
            if one.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
                taken = one.bytes
            size = made.bytes if taken is None else min(taken, made.bytes)
            near += size
            moved += size if made.arrays and made.arrays[0].space == HBM else 0.0
        given = written(inner, one) if inner else [(array, array.bytes) for array in one.arrays]
        for array, size in given:
            near += size
            moved += size if array.space == HBM else 0.0
        return moved, near

    def _kernel_flops(self, computation: Computation, one: Instruction, total: Account) -> float:
        """Of splash attention: two products forward, three for dq, four for dk and dv (each over what is visible)."""
        products = next((n for word, n in (("_dkv", 4), ("_dq", 3), ("_fwd", 2)) if f"mha{word}" in one.name
                         or f"mqa{word}" in one.name), 0)  # fmt: skip
        shapes = [computation.instructions[name].arrays[0] for name in one.operands if name in computation.instructions]
        big = [array for array in shapes if array.dtype in ("bf16", "f32") and len(array.dims) >= 3]
        if not products or len(big) < 2:
            total.notes.add(f"{one.name.split('.')[0]}: a kernel whose FLOPs are not known; only its bytes are counted")
            return 0.0
        query, key = big[0], big[1]
        return 2.0 * products * query.size * key.dims[-2] * self.visible


def place(scope: str) -> str:
    """jit(train_step)/transpose(jvp(Decoder))/.../while/body/Block/mlp/btf,fd->btd/dot_general -> backward Block/mlp."""
    if not scope:
        return "elsewhere"
    names = [name for name in scope.split("/") if re.fullmatch(r"[A-Za-z_]\w*", name) and name not in NESTING]
    direction = "backward " if "transpose(" in scope else "forward " if "jvp(" in scope else ""
    return direction + ("/".join(names[:-1]) or "step")
