"""Tensors of a checkpoint to parameters and back, with a report of every name: nothing is left out unsaid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmjax.errors import UserError
from lmjax.interop.family import Family
from lmjax.interop.pairs import Pair
from lmjax.interop.tensors import Tensor

SHOWN = 8  # names of a kind that a message lists


@dataclass
class Report:
    """What became of each name: theirs in all but `missing`, which has the names that were looked for, and ours."""

    loaded: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, str]:
        """How many names of each kind, and the first of them."""
        rows = {"loaded": f"{len(self.loaded)} tensors"}
        for kind in ("missing", "unexpected", "wrong_shape", "dropped", "copies", "buffers"):
            if names := list(getattr(self, kind)):
                rows[kind.replace("_", " ")] = f"{len(names)}: {listed(names)}"
        return rows

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def fill(
    family: Family, leaves: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], *,
    vocab: int, drop: Sequence[str] = (), fresh: bool = False,
) -> tuple[dict[str, np.ndarray], Report]:  # fmt: skip
    """Our parameters by path, float32, from the tensors of a checkpoint; and the report.

    `shapes` are those of all our parameters; `drop`: regular expressions for tensors that are left out on purpose;
    `fresh`: what is missing is left out of the result, to be initialised, and no error. UserError for names that are
    missing or unexpected, wrong shapes, and copies that differ from what they should repeat.
    """
    pairs, report, found = family.pairs(leaves), Report(), {}
    bare = bool(family.prefix) and not any(name.startswith(family.prefix) for name in tensors)
    names = {name.removeprefix(family.prefix) if bare else name: name for name in _names(pairs, shapes)}
    report.dropped = sorted(name for name in tensors if any(re.fullmatch(pattern, name) for pattern in drop))
    there = {names.get(name, name): tensor for name, tensor in tensors.items() if name not in report.dropped}
    for pair in pairs:
        _fill_pair(pair, shapes, there, vocab, report, found)
    for path in sorted(set(shapes) - {path for pair in pairs for path in pair.paths}):
        report.missing[f"({path})"] = path
    report.missing = {_short(name, family.prefix, bare): path for name, path in report.missing.items()}
    copies = family.copies(leaves)
    known = {*report.loaded, *(re.split(": ", text)[0] for text in report.wrong_shape)}
    for name in sorted(set(there) - known):
        if re.fullmatch(family.buffers, name):
            report.buffers.append(name)
        elif name in copies and copies[name] in there:
            _check_copy(there, name, copies[name])
            report.copies.append(name)
        else:
            report.unexpected.append(name)
    _refuse(report, next(iter(tensors.values())).file.parent if tensors else "the checkpoint", fresh)
    return found, report


def _fill_pair(pair: Pair, shapes, there, vocab: int, report: Report, found: dict) -> None:
    """The arrays of a pair, whole or not at all."""
    shape = shapes[pair.paths[0]]
    sizes, names = pair.sizes(shape, vocab), pair.names(shape)
    wanted = pair.their_shape(sizes)
    absent = [name for name in names if name not in there]
    wrong = [f"{name}: {list(there[name].shape)}, expected {list(wanted)}" for name in names
             if name in there and there[name].shape != wanted]  # fmt: skip
    report.missing |= dict.fromkeys(absent, ", ".join(pair.paths))
    report.wrong_shape += wrong
    report.loaded += [name for name in names if name in there and there[name].shape == wanted]
    if absent or wrong:
        return
    found |= {path: np.zeros(shapes[path], np.float32) for path in pair.paths}  # with what pads the vocabulary
    for layer, name in enumerate(names):
        for path, array in zip(pair.paths, pair.to_ours(there[name].read(), sizes), strict=True):
            place = found[path][layer] if pair.layered else found[path]
            place[tuple(slice(size) for size in array.shape)] = array


def _names(pairs: Sequence[Pair], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [name for pair in pairs for name in pair.names(shapes[pair.paths[0]])]


def _short(name: str, prefix: str, bare: bool) -> str:
    return name.removeprefix(prefix) if bare else name


def _check_copy(there: Mapping[str, Tensor], name: str, original: str) -> None:
    if there[name].shape != there[original].shape or not np.array_equal(there[name].read(), there[original].read()):
        raise UserError(
            f"{there[name].file}: {name} differs from {original}, although config.json says that they are tied"
        )


def _refuse(report: Report, where: Any, fresh: bool) -> None:
    wrong = []
    if report.missing and not fresh:
        wrong.append(f"missing: {listed(list(report.missing))} (--missing=init begins them afresh)")
    if report.wrong_shape:
        wrong.append(f"of another shape: {listed(report.wrong_shape)}")
    if report.unexpected:
        wrong.append(f"nothing here takes: {listed(report.unexpected)} (--drop=REGEX leaves them out)")
    if wrong:
        raise UserError(f"{where}: {len(report.loaded)} tensors fit, but\n  " + "\n  ".join(wrong))


def give(
    family: Family, leaves: Mapping[str, Any], params: Mapping[str, Any], *, vocab: int
) -> tuple[dict[str, tuple[int, ...]], Iterator[tuple[str, np.ndarray]]]:
    """The tensors of a checkpoint, shapes by name and then name and array one by one, from our parameters by path.

    UserError if the mapping leaves out a parameter, or the parameters lack one of it.
    """
    pairs = family.pairs(leaves)
    ours = {path for pair in pairs for path in pair.paths}
    if ours != set(params):
        odd = sorted(ours ^ set(params))
        raise UserError(f"a {family.model_type} checkpoint has another set of parameters; they differ in {listed(odd)}")
    placed = [(pair, params[pair.paths[0]].shape) for pair in pairs]
    shapes = {name: pair.their_shape(pair.sizes(shape, vocab)) for pair, shape in placed for name in pair.names(shape)}

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for pair, shape in placed:
            sizes, whole = pair.sizes(shape, vocab), [np.asarray(params[path], np.float32) for path in pair.paths]
            for layer, name in enumerate(pair.names(shape)):
                yield name, pair.to_theirs([one[layer] for one in whole] if pair.layered else whole, sizes)

    return shapes, arrays()
