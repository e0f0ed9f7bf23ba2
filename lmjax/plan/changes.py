"""`lmjax plan --diff RUN_A RUN_B`: what differs between the programs of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmjax.config import diff, loads
from lmjax.errors import UserError
from lmjax.plan import topology, worker
from lmjax.plan.table import gib


def compare(a: Path, b: Path) -> dict:
    """Two runs' programs: one by the fingerprints in their manifests, or else compiled again and compared.

    Each is compiled for as many CPU devices as its run had, by the code and the packages of today; `notes` says where
    that is not the program that ran.
    """
    configs, manifests = [_config(folder) for folder in (a, b)], [_manifest(folder) for folder in (a, b)]
    differences = [[path, _word(x), _word(y)] for path, x, y in diff(*configs)]
    recorded = [sorted(set(manifest.get("program", {}).values())) for manifest in manifests]
    found = {"runs": [str(a), str(b)], "config": differences, "totals": {}, "parts": {}, "collectives": [], "notes": []}
    if recorded[0] and recorded[0] == recorded[1]:
        return found | {"same": True, "fingerprints": [prints[0] for prints in recorded]}
    plans = []
    for folder, config, manifest, ran in zip((a, b), configs, manifests, recorded, strict=True):
        count = manifest.get("devices", {}).get("count", 1)
        plans.append(worker.ask(config, topology.Topology("cpu", (count,))))
        if ran and plans[-1]["fingerprint"] not in ran:
            found["notes"].append(f"{folder} ran another program ({ran[0][:12]}) than its config gives today "
                                  f"({plans[-1]['fingerprint'][:12]}): other code, packages or devices")  # fmt: skip
    same = plans[0]["fingerprint"] == plans[1]["fingerprint"]
    found |= {"same": same, "fingerprints": [plan["fingerprint"] for plan in plans]}
    if not same:
        found |= {"totals": _totals(*plans), "parts": _parts(*plans), "collectives": _collectives(*plans)}
    return found


def _config(folder: Path) -> Any:
    try:
        return loads((folder / "config.json").read_text())
    except OSError as error:
        raise UserError(f"{folder} is no run directory: {error.strerror}: {error.filename}") from None


def _manifest(folder: Path) -> dict:
    try:
        return json.loads((folder / "manifest.json").read_text())
    except OSError as error:
        raise UserError(f"{folder} is no run directory: {error.strerror}: {error.filename}") from None


def _word(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _totals(a: dict, b: dict) -> dict[str, list]:
    def figures(plan: dict) -> dict[str, float]:
        memory = {f"memory: {name}": plan["memory"].get(name, 0) for name in
                  ("parameters", "optimizer", "average", "batch", "activations", "temporaries")}  # fmt: skip
        return {"parameters": plan["parameters"], "model FLOPs": plan["model_flops"], "compiled FLOPs": plan["hlo_flops"],
                "bytes to and from memory": plan["hbm_bytes"], "devices": plan["devices"], **memory}  # fmt: skip

    first, second = figures(a), figures(b)
    return {name: [first[name], second[name]] for name in first if first[name] != second[name]}


def _parts(a: dict, b: dict) -> dict[str, list]:
    """Places in the model whose instructions differ in number, FLOPs or bytes."""
    none = {"count": 0, "seconds": 0, "flops": 0, "bytes": 0}
    found = {}
    for name in sorted({*a["parts"], *b["parts"]}):
        pair = [plan["parts"].get(name, none) for plan in (a, b)]
        if any(pair[0][key] != pair[1][key] for key in ("count", "flops", "bytes")):
            found[name] = [{key: one[key] for key in ("count", "flops", "bytes")} for one in pair]
    return found


def _collectives(a: dict, b: dict) -> list[list]:
    rows = [{(row["kind"], row["axis"]): row for row in plan["collectives"]} for plan in (a, b)]
    found = []
    for key in sorted({*rows[0], *rows[1]}):
        bytes_sent = [each[key]["bytes"] if key in each else 0 for each in rows]
        if bytes_sent[0] != bytes_sent[1]:
            found.append([*key, *bytes_sent])
    return found


def as_json(found: dict) -> str:
    return json.dumps(found, indent=2, sort_keys=True, allow_nan=False) + "\n"


def show(found: dict, console: Any, most: int = 12) -> None:
    """The config's differences first, then totals, then the places in the model that changed most."""
    from rich.markup import escape
    from rich.table import Table

    from lmjax.view import count

    a, b = found["runs"]
    prints = [one[:12] for one in found["fingerprints"]]
    if found["same"]:
        console.print(f"[green]the same program[/] ({prints[0]}): {a} and {b}")
    else:
        console.print(f"[bold]two programs[/]: {a} ({prints[0]}) and {b} ({prints[1]})")
    for note in found["notes"]:
        console.print(f"[yellow]note: {escape(note)}[/]")
    for path, x, y in found["config"]:
        console.print(f"  config {path}: {escape(str(x))} -> {escape(str(y))}")
    if found["same"] or not found["totals"]:
        return
    table = Table("", a, b, box=None, pad_edge=False, header_style="bold")
    for name, (x, y) in found["totals"].items():
        shown = gib if "memory" in name else count
        table.add_row(name, shown(x), shown(y))
    for kind, axis, x, y in found["collectives"]:
        table.add_row(f"{kind} along {axis}, bytes sent", gib(x), gib(y))
    ranked = sorted(found["parts"].items(), key=lambda one: -abs(one[1][1]["bytes"] - one[1][0]["bytes"])
                    - abs(one[1][1]["flops"] - one[1][0]["flops"]))  # fmt: skip
    for name, (x, y) in ranked[:most]:
        words = [f"{count(one['flops'])}FLOP {gib(one['bytes'])}" if one["count"] else "-" for one in (x, y)]
        table.add_row(escape(name), *words)
    console.print(table)
    if len(ranked) > most:
        console.print(f"[dim]and {len(ranked) - most} more places; --json has them all[/]")


__all__ = ["as_json", "compare", "show"]
