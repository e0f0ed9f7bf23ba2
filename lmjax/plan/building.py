"""One plan: the train step of a config compiled for a topology, and every figure about it, as JSON."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lmjax import compiler, counted, flops, program
from lmjax.errors import UserError
from lmjax.plan import hlo, topology
from lmjax.plan.chips import CHIPS, Chip
from lmjax.plan.collectives import Network
from lmjax.plan.timeline import Account, Walk
from lmjax.provenance import program_sha256
from lmjax.sharding import AXES

TRAINED = ("bpe", "char_bpe", "unigram", "wordpiece")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}


def plan(config: ConfigDict, where: topology.Topology, *, keep: str | None = None, tuned: bool = True,
         roofline: dict | None = None) -> dict:  # fmt: skip
    """Everything that `lmjax plan` knows about `config` on `where`.

    keep: a file for the text of the program; tuned: with the compiler options for the chip; roofline: that of another
    plan on this machine, so that both are judged by one measurement.
    """
    if config.model.kind in counted.KINDS:
        raise UserError(f"model.kind={config.model.kind}: it is counted, not trained, so there is no step to compile")
    devices = topology.devices(where)
    vocab, classes = sizes(config)
    built = program.build(config, vocab=vocab, classes=classes, devices=devices)
    chip = CHIPS[where.kind] if where.kind in CHIPS else measured(devices, roofline)
    started = time.perf_counter()
    lowered = built.lower_step(tuned=tuned)
    lowering = time.perf_counter() - started
    facts = {
        "topology": where.name, "chip": chip.name, "devices": len(devices), "slices": where.slices,
        "mesh": {axis: size for axis, size in built.mesh.shape.items() if size > 1},
        "batch": config.batch, "length": config.data.length, "microbatches": config.optim.microbatches,
        "remat": getattr(config.model, "remat", None), "vocabulary": vocab,
        "versions": versions(where), "fingerprint": program_sha256(lowered),
        "roofline": {"flops": chip.flops, "hbm": chip.hbm, "link": chip.link, "between_slices": chip.network,
                     "source": chip.source},
        "options": (compiler.options(devices[0].device_kind) if tuned else None) or {},
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(built.params)),
        "model_flops": model_flops(config, built),
    }  # fmt: skip
    memory = state_memory(built, config)
    started = time.perf_counter()
    try:
        executable = lowered.compile()
    except Exception as error:
        if not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)):
            raise
        facts["seconds"] = {"lower": round(lowering, 2), "compile": round(time.perf_counter() - started, 2)}
        return facts | {"fits": False, "memory": memory | refused(str(error), memory, chip)}
    facts["seconds"] = {"lower": round(lowering, 2), "compile": round(time.perf_counter() - started, 2)}
    text = executable.as_text()
    if keep:
        with open(keep, "w") as file:
            file.write(text)
    module = hlo.parse(text)
    account = Walk(module, chip, network(built, where, chip), visible(config)).run()
    memory |= compiled_memory(executable.memory_analysis(), memory, account, chip)
    facts |= {"fits": memory["total"] <= memory["limit"], "memory": memory}
    return facts | timing(facts, account, chip, config) | {"collectives": collectives(account), "parts": parts(account)}


def sizes(config: ConfigDict) -> tuple[int, int]:
    """Vocabulary and classes: those that the config says, and only otherwise those of the data."""
    if config.data.kind == "text" and config.data.tokenizer in TRAINED and config.data.vocab:
        return config.data.vocab, 0
    if config.data.kind == "text" and config.data.tokenizer == "bytes" and not config.data.special:
        from lmjax.data.tokenizers.plain import Bytes

        return Bytes().vocab_size, 0
    from lmjax.data import open_dataset

    dataset = open_dataset(config.data, config.seed)
    return dataset.tokenizer.vocab_size if dataset.tokenizer else 0, len(dataset.classes)


def versions(where: topology.Topology) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"jax": jax.__version__}
    if where.kind in CHIPS:
        try:
            found["libtpu"] = version("libtpu")
        except PackageNotFoundError:
            pass
    return found


def model_flops(config: ConfigDict, built: program.Program) -> float:
    """Of one step on all devices: 6 per weight and token, 12 per layer, head and key position (`lmjax.flops`)."""
    per_token = flops.training_flops(built.params, built.dims, length=config.data.length, met=built.met)
    return per_token * config.batch * config.data.length


def visible(config: ConfigDict) -> float:
    """The share of the square of queries and keys that a kernel's blocks of a causal mask touch."""
    from lmjax.layers.splash import LARGEST_BLOCK

    if "decoder" not in config.model.kind and config.model.kind != "classifier":
        return 1.0
    blocks = max(1, config.data.length // LARGEST_BLOCK)
    return (blocks + 1) / (2 * blocks)


def state_memory(built: program.Program, config: ConfigDict) -> dict[str, float]:
    """Bytes a device of what goes into the step, from the shardings alone: the same whatever the compiler does."""

    def part(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
        )

    state = built.state
    return {"parameters": part(state.params), "optimizer": part(state.opt_state), "average": part(state.ema),
            "batch": part(built.batch(config.batch))}  # fmt: skip


def compiled_memory(found: Any, state: dict, account: Account, chip: Chip) -> dict[str, float]:
    """The compiler's own account of one device; what the forward pass keeps is a part of its temporaries."""
    temporary = found.temp_size_in_bytes
    kept = min(account.kept, temporary)
    new = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    total = found.argument_size_in_bytes + new + temporary + found.generated_code_size_in_bytes
    return {"arguments": found.argument_size_in_bytes, "results": new, "activations": kept,
            "temporaries": temporary - kept, "program": found.generated_code_size_in_bytes,
            "host": found.host_temp_size_in_bytes + found.host_argument_size_in_bytes,
            "total": total, "limit": chip.memory, "room": chip.memory - total}  # fmt: skip


def refused(message: str, state: dict, chip: Chip) -> dict[str, Any]:
    """What the compiler's out-of-memory error says: used, capacity, and the largest of what it wanted."""

    def size(pattern: str) -> float | None:
        found = re.search(pattern, message)
        return float(found[1]) * UNITS[found[2]] if found else None

    used = size(r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of")
    temporary = size(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\)")
    if used is None and temporary is not None:
        used = temporary + sum(state.values())
    limit = size(r" of ([\d.]+)([KMGT]?)i?B? hbm") or size(r"available HBM \(([\d.]+)([KMGT]?)\)") or chip.memory
    largest = [
        {"bytes": float(number) * UNITS[unit], "shape": shape.strip(), "scope": scope}
        for number, unit, scope, shape in re.findall(
            r"Size: ([\d.]+)([KMGT]?)\n(?:.*\n)*?\s+Operator: op_name=\"([^\"]*)\".*\n(?:.*\n)*?\s+Shape: (\S+)", message)
    ]  # fmt: skip
    return {"total": used, "limit": limit, "room": None if used is None else limit - used,
            "temporaries": temporary, "largest": largest[:5],
            "message": message.splitlines()[0]}  # fmt: skip


def network(built: program.Program, where: topology.Topology, chip: Chip) -> Network:
    """Where the devices of the mesh are, in its order."""
    devices = list(built.mesh.devices.flat)
    shape = tuple(built.mesh.shape[axis] for axis in AXES)
    count = np.arange(len(devices))
    if where.kind not in CHIPS:
        return Network(AXES, shape, count[:, None], np.zeros_like(count), (len(devices),), 1, chip.link, chip.network)
    coordinates = np.array([device.coords for device in devices])
    sides = tuple(int(np.ptp(column)) + 1 for column in coordinates.T)
    slices = np.array([getattr(device, "slice_index", None) or 0 for device in devices])
    return Network(AXES, shape, coordinates, slices, sides, chip.wraps, chip.link, chip.network)


def timing(facts: dict, account: Account, chip: Chip, config: ConfigDict) -> dict:
    """The estimate, and the bound that no schedule of this program can beat on this roofline."""
    own = facts["model_flops"] / facts["devices"]
    compute, memory = account.flops / chip.flops, account.bytes / chip.hbm
    links = sum(one.what.seconds * one.count for one in account.collectives)
    waited = sum(one.waited for one in account.collectives)
    bounds = {"compute": compute, "memory": memory, "network": links}
    bound = max(bounds.values())
    tokens = config.batch * config.data.length
    estimate = max(account.seconds, bound) if facts["topology"].partition(":")[0] in CHIPS else None

    def share(seconds: float | None) -> float | None:
        return own / (seconds * chip.flops) if seconds else None

    return {
        "hlo_flops": account.flops, "hbm_bytes": account.bytes,
        "time": {**bounds, "bound": bound, "bound_by": max(bounds, key=bounds.get), "bound_mfu": share(bound),
                 "estimate": estimate, "mfu": share(estimate), "exposed": waited, "kernels": account.kernels,
                 "copies": account.moving, "tokens_per_second": tokens / estimate if estimate else None},
        "notes": sorted(account.notes),
    }  # fmt: skip


def collectives(account: Account) -> list[dict]:
    """By kind, axis and place in the model: how often, bytes that a device sends, seconds, and seconds waited for."""
    groups: dict[tuple, dict] = {}
    for one in account.collectives:
        what = one.what
        key = (what.kind, what.axis, what.devices, one.overlapped)
        row = groups.setdefault(key, {"kind": what.kind, "axis": what.axis, "devices": what.devices,
                                      "overlapped": one.overlapped, "count": 0.0, "bytes": 0.0, "seconds": 0.0,
                                      "exposed": 0.0})  # fmt: skip
        row["count"] += one.count
        row["bytes"] += what.bytes * one.count
        row["seconds"] += what.seconds * one.count
        row["exposed"] += one.waited
    return sorted(groups.values(), key=lambda row: (-row["seconds"], row["kind"], row["axis"], row["overlapped"]))


def parts(account: Account) -> dict[str, dict[str, float]]:
    """By place in the model, what its instructions take."""
    return {
        name: {key: round(value, 9) for key, value in part._asdict().items()} for name, part in account.parts.items()
    }


def measured(devices: list[jax.Device], known: dict | None = None) -> Chip:
    """This machine's CPU, or its GPU: peaks from `lmjax.flops`, a copy for the bandwidth, and the memory there is."""
    if devices[0].platform != "cpu":
        found = flops.peak(devices[:1])
        limit = (devices[0].memory_stats() or {}).get("bytes_limit", math.inf)
        hbm = next((rate for name, rate in GPU_BANDWIDTH.items() if name in devices[0].device_kind), 1e12)
        peak = found.flops if found else math.inf
        return Chip(devices[0].device_kind, peak, hbm, limit, 4.5e11, 5e10, 1.0, 1, 1, {}, "data sheets")
    share = 1 / len(devices)  # all of them run on this machine's cores
    if known is None:
        found, rate = flops.peak(devices[:1]), copy_rate()
        source = f"{found.source}; a copy of 256 MiB; shared by {len(devices)} devices"
        known = {"flops": found.flops * share, "hbm": rate * share, "link": rate * share, "source": source}
    return Chip("CPU", known["flops"], known["hbm"], memory_here() * share, known["link"], known["link"], 1.0, 1, 1, {},
                known["source"])  # fmt: skip


GPU_BANDWIDTH = {
    "H200": 4.8e12,
    "H100": 3.35e12,
    "A100": 2.0e12,
    "B200": 8e12,
    "L40": 8.64e11,
    "L4": 3e11,
    "V100": 9e11,
}


def copy_rate() -> float:
    """Bytes a second read and written by a copy here, the best of three."""
    source, target = np.ones(2**25), np.empty(2**25)
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def memory_here() -> float:
    """Bytes of memory of this machine."""
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
