"""`lmjax plan --search`: remat policies x microbatches x meshes, compiled one after the other, and the best of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lmjax.config import flatten, update
from lmjax.errors import UserError
from lmjax.plan import topology, worker
from lmjax.plan.table import gib, seconds

REMATS = ("none", "minimal", "full")  # from the fastest to the leanest
AXES = ("data", "fsdp", "tensor")


class Candidate(NamedTuple):
    """What a plan is made with."""

    remat: str
    microbatches: int
    mesh: dict[str, int]

    @property
    def overrides(self) -> dict[str, object]:
        mesh = {f"layout.mesh.{axis}": size for axis, size in self.mesh.items()}
        return {"model.remat": self.remat, "optim.microbatches": self.microbatches, **mesh}

    @property
    def words(self) -> str:
        mesh = " ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        return f"remat={self.remat} microbatches={self.microbatches} {mesh}"


def search(config: ConfigDict, where: topology.Topology, *, limit: int, say: Callable[[str], None] = print,
           ask: Callable[..., dict] = worker.ask, tuned: bool = True) -> dict:  # fmt: skip
    """Plans of at most `limit` candidates, and which of them nothing beats in both time and memory.

    A candidate that must need more memory than one that fitted already, and cannot be faster, is still compiled: the
    compiler has the last word. One that the config or the mesh refuses is listed with its reason.
    """
    if limit < 1:
        raise UserError(f"--limit={limit}: 1 or more")
    tried: list[dict] = []
    options: dict[str, Any] = {"tuned": tuned}
    for candidate in itertools.islice(candidates(config, where), limit):
        say(f"{len(tried) + 1} of at most {limit}: {candidate.words}")
        try:
            found = ask(update(config, candidate.overrides), where, **options)
        except UserError as error:
            found = {"refused": str(error)}
        if where.kind in topology.HERE and "roofline" in found:
            options.setdefault("roofline", found["roofline"])
        tried.append({"overrides": candidate.overrides, "words": candidate.words, "plan": found})
    if not tried:
        raise UserError(
            f"no mesh of {where.devices or 'these'} devices divides batch={config.batch} rows; change batch"
        )
    for one in tried:
        one["pareto"] = _fits(one) and not any(_beats(other, one) for other in tried if _fits(other))
    fitting = [one for one in tried if _fits(one)]
    best = min(fitting, key=lambda one: (time_of(one["plan"]), one["plan"]["memory"]["total"]), default=None)
    return {"tried": tried, "best": best and best["words"]}


def candidates(config: ConfigDict, where: topology.Topology) -> Iterator[Candidate]:
    """The config's own choice first; then those that change least: remat, then microbatches, then the mesh."""
    leaves = flatten(config)
    devices = where.devices or 1
    own = _own_mesh(leaves, devices)
    meshes = [own, *(mesh for mesh in _meshes(devices) if mesh != own)]
    micro = sorted({leaves["optim.microbatches"] * 2**n for n in range(3)})
    first = Candidate(leaves.get("model.remat", "none"), leaves["optim.microbatches"], own)
    remats = REMATS if "model.remat" in leaves else ("none",)
    every = [Candidate(*one) for one in itertools.product(remats, micro, meshes)]

    def rank(one: Candidate) -> tuple:
        changed = (one.remat != first.remat) + 2 * (one.microbatches != first.microbatches) + 3 * (one.mesh != own)
        return changed, one.mesh.get("tensor", 1), one.mesh.get("data", 1), one.microbatches, REMATS.index(one.remat)

    for one in [first, *sorted((one for one in every if one != first), key=rank)]:
        rows = one.mesh.get("data", 1) * one.mesh.get("fsdp", 1)
        if config.batch % (one.microbatches * rows) == 0:
            yield one


def _own_mesh(leaves: dict, devices: int) -> dict[str, int]:
    sizes = {path.rpartition(".")[2]: size for path, size in leaves.items() if path.startswith("layout.mesh.")}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    return {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}


def _meshes(devices: int) -> list[dict[str, int]]:
    """Ways to cut the devices over data, fsdp and tensor; tensor at most 8, where its links are near."""
    found = []
    for tensor in (size for size in (1, 2, 4, 8) if devices % size == 0):
        rest = devices // tensor
        for data in (size for size in range(1, rest + 1) if rest % size == 0):
            if data in (1, rest) or data <= 4:
                mesh = {"data": data, "fsdp": rest // data, "tensor": tensor}
                found.append(mesh | dict.fromkeys(("context", "expert", "stage"), 1))
    return found


def time_of(plan: dict) -> float:
    """The estimate, or where there is none, the bound."""
    return plan["time"]["estimate"] or plan["time"]["bound"]


def _fits(one: dict) -> bool:
    return one["plan"].get("fits", False)


def _beats(other: dict, one: dict) -> bool:
    mine, its = ((time_of(each["plan"]), each["plan"]["memory"]["total"]) for each in (one, other))
    return its[0] <= mine[0] and its[1] <= mine[1] and its != mine


def as_json(found: dict) -> str:
    return json.dumps(found, indent=2, sort_keys=True, allow_nan=False) + "\n"


def show(name: str, found: dict, console: Any) -> None:
    """A line a candidate, the Pareto set marked, and how to ask for the best."""
    from rich.table import Table

    table = Table("", "candidate", "memory a device", "time a step", "MFU", "", title=name, title_justify="left", box=None,
                  pad_edge=False, header_style="bold")  # fmt: skip
    for one in sorted(found["tried"], key=_order):
        plan = one["plan"]
        if "refused" in plan:
            table.add_row("", one["words"], "", "", "", f"[dim]{plan['refused'].splitlines()[0]}[/]")
            continue
        total = gib(plan["memory"]["total"])
        if not plan["fits"]:
            table.add_row("", one["words"], total, "", "", "[red]does not fit[/]")
            continue
        mfu = plan["time"]["mfu"] or plan["time"]["bound_mfu"]
        mark = "[bold green]best[/]" if one["words"] == found["best"] else "[green]*[/]" if one["pareto"] else ""
        table.add_row(mark, one["words"], total, seconds(time_of(plan)), f"{100 * mfu:.1f} %", "")
    console.print(table)
    best = next((one for one in found["tried"] if one["words"] == found["best"]), None)
    if best is None:
        console.print("[bold red]none fits[/]: more devices, a smaller batch or length, or a smaller optimizer")
        return
    flags = " ".join(f"--config.{path}={value}" for path, value in best["overrides"].items())
    console.print(f"* nothing tried is both faster and smaller. The best fit: {flags}")


def _order(one: dict) -> tuple:
    plan = one["plan"]
    return (0, time_of(plan)) if plan.get("fits") else (1, plan.get("memory", {}).get("total") or math.inf)
