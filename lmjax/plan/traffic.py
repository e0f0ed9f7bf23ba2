"""What of its arrays an instruction of a compiled program really reads and writes."""

from __future__ import annotations

from lmjax.plan.hlo import HBM, Computation, Instruction


def read(inner: Computation, index: int) -> float | None:
    """Bytes that a fusion reads of a parameter if it only takes slices of it; None: all."""
    parameter = inner.parameter(index)
    if parameter is None:
        return None
    users = [one for one in inner.instructions.values() if parameter.name in one.operands]
    total = 0.0
    for one in users:
        if one.opcode in ("dynamic-slice", "slice", "gather") and one.operands[0] == parameter.name:
            total += one.bytes
        elif one.opcode == "dynamic-update-slice" and one.operands[0] == parameter.name:
            continue  # written in place
        else:
            return None
    return total


def written(inner: Computation, one: Instruction) -> list[tuple]:
    """Each result of a fusion and the bytes written of it."""
    root = inner.root
    parts = [inner.instructions.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    found = []
    for array, part in zip(one.arrays, parts, strict=False):
        while part is not None and part.opcode in ("bitcast", "copy") and part.operands:
            part = inner.instructions.get(part.operands[0])
        if part is not None and part.opcode == "dynamic-update-slice":
            update = inner.instructions.get(part.operands[1])
            found.append((array, update.bytes if update else array.bytes))
        elif part is not None and part.opcode == "parameter":
            found.append((array, 0))  # passed through
        else:
            found.append((array, array.bytes))
    return found


def stacked(body: Computation, count: int) -> float:
    """Bytes of the arrays of a loop's tuple that have a row for every turn and are written in it."""
    root = body.root
    arrays, kept = root.arrays, 0.0
    if len(arrays) != len(root.operands):
        return 0.0
    for index, (array, name) in enumerate(zip(arrays, root.operands, strict=True)):
        made = body.instructions.get(name)
        same = made is not None and made.opcode == "get-tuple-element" and f"index={index}," in made.rest + ","
        if array.dims and array.dims[0] == count and array.space == HBM and not same and array.size > count:
            kept += array.bytes
    return kept
