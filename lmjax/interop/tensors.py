"""The tensors of a checkpoint folder: safetensors, in one file or in shards with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5 * 10**9  # bytes a file at most, as the hub's own are
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack", "tf_model.h5", "model.ckpt")


class Tensor(NamedTuple):
    """A tensor of a checkpoint that is read when it is needed."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder by name; UserError names the file that is not there or not whole."""
    if (folder / SINGLE).is_file():
        return dict(_tensors(folder / SINGLE))
    if not (folder / INDEX).is_file():
        pickled = next((name for name in PICKLED if (folder / name).is_file()), None)
        instead = f"; {pickled} is another format: save it again with safe_serialization=True" if pickled else ""
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}{instead}")
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict):
        raise UserError(f"{folder / INDEX}: it has no weight_map, which says the file of each tensor")
    found = {}
    for name in sorted(set(placed.values())):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name} is missing: {INDEX} says that it is one of {len(set(placed.values()))} files"
            )
        found |= dict(_tensors(folder / name))
    if absent := sorted(set(placed) - set(found)):
        raise UserError(f"{folder / placed[absent[0]]} has no tensor {absent[0]}, which {INDEX} says is in it")
    return found


def read_json(file: Path) -> dict:
    """A JSON object; UserError names the file."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: an object was expected, and it is a {type(value).__name__}")
    return value


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, framework="np")
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file: {_fault(file) or error}") from None
    for name in opened.keys():  # it has keys, and cannot be iterated over
        part = opened.get_slice(name)
        yield name, Tensor(file, tuple(part.get_shape()), _reader(opened, name))


def _reader(opened: Any, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        return opened.get_tensor(name)

    return read


def _fault(file: Path) -> str | None:
    """What the first bytes, which say how long the file is, tell of one that is cut off."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 + length:
            return f"it has {size:,} bytes, and its header alone should take {8 + length:,}"
        try:
            header = json.loads(stream.read(length))
            end = 8 + length + max(part["data_offsets"][1] for name, part in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    return f"it has {size:,} bytes, and its header promises {end:,}; fetch it again" if size != end else None


def write_tensors(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, np.ndarray]], shard: int = SHARD
) -> list[str]:
    """Float32 tensors in safetensors, split into files of `shard` bytes at most with an index; the files' names.

    `tensors` comes in the order of `shapes`, and only one file of them is held in memory.
    """
    from safetensors.numpy import save_file

    files, room = [[]], shard
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        if files[-1] and size > room:
            files.append([])
            room = shard
        files[-1].append(name)
        room -= size
    stream = iter(tensors)
    names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    names = [SINGLE] if len(files) == 1 else names
    for file, held in zip(names, files, strict=True):
        save_file(dict(next(stream) for _ in held), folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        placed = {name: file for file, held in zip(names, files, strict=True) for name in held}
        total = 4 * sum(math.prod(shape) for shape in shapes.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": placed}, indent=2)
        (folder / INDEX).write_text(text + "\n", "utf-8")
    return names
