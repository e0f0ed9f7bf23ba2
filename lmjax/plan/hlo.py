"""The text of a compiled XLA program, read: computations, instructions, shapes, trip counts and FLOPs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
HOST, HBM = 5, 0  # memory spaces of a TPU; all others are on the chip
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Array(NamedTuple):
    """A shape without its layout, and the memory space that it lies in."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype)
        if bits is None:
            found = re.match(r"[a-z]+(\d+)", self.dtype)
            bits = int(found[1]) if found else 0
        return -(-self.size * bits // 8)


class Instruction(NamedTuple):
    """One line. `rest` is what follows the operands: attributes, metadata and the compiler's notes."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result, tuples flattened
    operands: tuple[str, ...]
    inside: str  # the text between the parentheses
    rest: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    def called(self, what: str) -> str | None:
        """The computation that an attribute (calls, condition, body, to_apply) names."""
        found = re.search(rf"\b{what}=%?([\w.\-]+)", self.rest)
        return found and found[1]

    @property
    def scope(self) -> str:
        """Where in the model it comes from: JAX's name stack."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


class Computation(NamedTuple):
    name: str
    instructions: dict[str, Instruction]  # in the order of the schedule

    @property
    def root(self) -> Instruction:
        return next(one for one in reversed(self.instructions.values()) if one.root)

    def parameter(self, index: int) -> Instruction | None:
        return next((one for one in self.instructions.values()
                     if one.opcode == "parameter" and one.inside == str(index)), None)  # fmt: skip


class Module(NamedTuple):
    entry: Computation
    computations: dict[str, Computation]

    def inner(self, instruction: Instruction) -> Computation | None:
        """The computation of a fusion or a call."""
        return self.computations.get(instruction.called("calls") or instruction.called("to_apply") or "")

    def deep(self, computation: Computation) -> Iterator[Instruction]:
        """The instructions of a computation and of the fusions in it."""
        for one in computation.instructions.values():
            yield one
            if one.opcode in ("fusion", "call") and (inner := self.inner(one)):
                yield from self.deep(inner)


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` prints."""
    computations: dict[str, Computation] = {}
    current, entry = None, None
    for line in _logical(text):
        if line == "}":
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)):
            one = _instruction(line, found)
            current.instructions[one.name] = one
        elif line.endswith("{") and "->" in line and (found := COMPUTATION.match(line)):
            current = computations[found[2]] = Computation(found[2], {})
            entry = current if found[1] else entry
    if entry is None:
        raise ValueError("not the text of an HLO module: it has no ENTRY computation")
    return Module(entry, computations)


def _logical(text: str) -> Iterator[str]:
    """The lines of the text; the notes of a kernel, which are printed with line breaks, belong to its line."""
    pending = ""
    for line in text.splitlines():
        if pending and line != "}" and not INSTRUCTION.match(line):
            pending += line
            continue
        if pending:
            yield pending
        pending = line if INSTRUCTION.match(line) else ""
        if not pending:
            yield line


def arrays(text: str) -> tuple[Array, ...]:
    """Every array in a type: "(f32[2,3]{1,0:T(8,128)S(1)}, u32[])" has two."""
    found = []
    for dtype, dims, layout in ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Array(dtype, tuple(map(int, filter(None, dims.split(",")))), int(space[1]) if space else HBM))
    return tuple(found)


def _instruction(line: str, found: re.Match) -> Instruction:
    start = found.end()
    stop = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    bracket = line.index("(", stop)
    close = _closing(line, bracket)
    inside = line[bracket + 1 : close]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(found[2], line[stop:bracket].strip(), arrays(line[start:stop]), operands, inside,
                       line[close + 1 :], bool(found[1]))  # fmt: skip


def _closing(line: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(line, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(line) - 1


def trips(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a while loop runs; None if the text does not tell."""
    if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(known[1])
    condition, body = (module.computations.get(loop.called(what) or "") for what in ("condition", "body"))
    if condition is None or body is None:
        return None
    compare, constants = None, {}
    for one in module.deep(condition):
        compare = one if one.opcode == "compare" else compare
        if one.opcode == "constant" and one.inside.lstrip("-").isdigit():
            constants[one.name] = int(one.inside)
    if compare is None or len(set(constants.values())) != 1:
        return None
    limit, direction = next(iter(constants.values())), re.search(r"direction=(\w+)", compare.rest)[1]
    index = _induction(condition)
    first = _constant(computation, _element(computation, loop.operands[0], index)) or 0
    by = abs(_step(module, body, index))
    span = limit - first if direction in ("LT", "LE", "NE") else first - limit
    return max(0, -(-(span + (direction in ("LE", "GE"))) // by))


def _induction(condition: Computation) -> int:
    """Which element of the loop's tuple counts."""
    for one in condition.instructions.values():
        if one.opcode == "get-tuple-element" and one.arrays and not one.arrays[0].dims:
            return int(re.search(r"index=(\d+)", one.rest)[1])
    return 0


def _element(computation: Computation, name: str, index: int) -> str | None:
    made = computation.instructions.get(name)
    return made.operands[index] if made and made.opcode == "tuple" and index < len(made.operands) else None


def _constant(computation: Computation, name: str | None) -> int | None:
    while name is not None and (one := computation.instructions.get(name)):
        if one.opcode == "constant":
            return int(one.inside) if one.inside.lstrip("-").isdigit() else None
        name = one.operands[0] if one.opcode in ("copy", "bitcast", "convert") else None
    return None


def _step(module: Module, body: Computation, index: int) -> int:
    """By how much the counter grows: its new value is an addition of a constant, perhaps inside a fusion."""
    one = body.instructions.get(_element(body, body.root.name, index) or "")
    if one is not None and one.opcode == "fusion" and (inner := module.inner(one)):
        return next((value for part in inner.instructions.values() if (value := _constant(inner, part.name))), 1)
    if one is not None and one.opcode == "add":
        return next((value for name in one.operands if (value := _constant(body, name))), 1)
    return 1


def product_flops(computation: Computation, one: Instruction) -> float:
    """Of a dot or a convolution: two per multiplication; 0 for anything else."""
    if one.opcode == "dot":
        left = computation.instructions[one.operands[0]].arrays[0]
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        dims = [int(dim) for dim in contracted[1].split(",") if dim] if contracted else []
        return 2.0 * one.arrays[0].size * math.prod(left.dims[dim] for dim in dims)
    return _convolution_flops(computation, one) if one.opcode == "convolution" else 0.0


def _convolution_flops(computation: Computation, one: Instruction) -> float:
    """What of the window lies in the padding is not multiplied; the TPU compiler writes all products this way."""
    left, right = (computation.instructions[name].arrays[0].dims for name in one.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    image, kernel, out = labels.groups()
    options = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", one.rest) or ["", ""])[1]))
    spatial = [label for label in kernel if label.isdigit()]

    def each(name: str, default: str) -> list[str]:
        return options[name].split("x") if name in options else [default] * len(spatial)

    pairs = 1
    for at, label in enumerate(sorted(spatial, key=int)):
        low = each("pad", "0_0")[at].split("_")[0]
        pairs *= _valid(left[image.index(label)], int(each("size", "1")[at]), one.arrays[0].dims[out.index(label)],
                        int(each("stride", "1")[at]), int(low), int(each("lhs_dilate", "1")[at]),
                        int(each("rhs_dilate", "1")[at]))  # fmt: skip
    batch = one.arrays[0].dims[out.index("b")]
    return 2.0 * batch * right[kernel.index("o")] * right[kernel.index("i")] * pairs


@lru_cache(maxsize=4096)
def _valid(size: int, window: int, out: int, stride: int, low: int, dilate: int, spread: int) -> int:
    """How many pairs of an output and a window position meet an element that is there."""
    if window == 1 and low == 0 and dilate == 1:
        return out
    at = np.arange(out)[:, None] * stride + np.arange(window)[None, :] * spread - low
    return int(np.sum((at >= 0) & (at < (size - 1) * dilate + 1) & (at % dilate == 0)))
