"""A plan as a page of text."""

from __future__ import annotations

import json
from typing import Any

from lmjax.plan.advice import advise


def gib(number: float | None) -> str:
    """Bytes in the unit that suits them."""
    if number is None:
        return "unknown"
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f} B"


def seconds(number: float | None) -> str:
    if number is None:
        return "unknown"
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 1e6:.3g} us"


def as_json(found: dict) -> str:
    """Sorted and indented; only the times that compiling took differ from one call to the next."""
    return json.dumps(found | {"advice": advise(found)}, indent=2, sort_keys=True, allow_nan=False) + "\n"


def show(name: str, found: dict, console: Any) -> None:
    """All of a plan: does it fit, what it computes, what it sends, how fast it can be."""
    from lmjax.view import count

    mesh = " x ".join(f"{axis}={size}" for axis, size in found["mesh"].items()) or "one device"
    console.print(f"[bold]{name}[/] on {found['topology']}: {found['devices']} devices ({found['chip']}), {mesh}, "
                  f"batch {found['batch']} x {found['length']}, {found['parameters']:,} parameters")  # fmt: skip
    console.print(_verdict(found))
    _memory(found, console)
    if "time" in found:
        per = found["devices"]
        console.print(f"\nmodel FLOPs {count(found['model_flops'])} a step, {count(found['model_flops'] / per)} a device; "
                      f"compiled {count(found['hlo_flops'])} a device, {gib(found['hbm_bytes'])} to and from memory")  # fmt: skip
        _time(found, console)
        _collectives(found, console)
    console.print(f"\n[dim]lowered in {found['seconds']['lower']} s, compiled in {found['seconds']['compile']} s; "
                  f"program {found['fingerprint'][:12]}; {', '.join(f'{k} {v}' for k, v in found['versions'].items())}"
                  f"[/]")  # fmt: skip
    for note in found.get("notes", ()):
        console.print(f"[dim]note: {note}[/]")
    for line in advise(found):
        console.print(f"[yellow]{line}[/]")


def _verdict(found: dict) -> str:
    memory = found["memory"]
    if found["fits"]:
        return (
            f"[green]fits[/]: {gib(memory['total'])} of {gib(memory['limit'])} a device, {gib(memory['room'])} to spare"
        )
    over = "" if memory["room"] is None else f", {gib(-memory['room'])} too much"
    return f"[bold red]does not fit[/]: {gib(memory['total'])} of {gib(memory['limit'])} a device{over}"


def _memory(found: dict, console: Any) -> None:
    from rich.table import Table

    table = Table("a device", "bytes", box=None, pad_edge=False, header_style="bold")
    words = {"parameters": "parameters", "optimizer": "optimizer state", "average": "average of the parameters",
             "batch": "batch", "activations": "kept for the backward pass", "temporaries": "other temporaries",
             "results": "new results", "program": "program", "host": "on the host"}  # fmt: skip
    for name, word in words.items():
        if found["memory"].get(name):
            table.add_row(word, gib(found["memory"][name]))
    for one in found["memory"].get("largest", ()):
        table.add_row(f"[dim]wanted: {one['shape']} {one['scope']}[/]", gib(one["bytes"]))
    console.print(table)


def _time(found: dict, console: Any) -> None:
    time, roof = found["time"], found["roofline"]
    console.print(f"bound {seconds(time['bound'])} a step by {time['bound_by']} (compute {seconds(time['compute'])}, memory "
                  f"{seconds(time['memory'])}, network {seconds(time['network'])}): MFU at most "
                  f"{_share(time['bound_mfu'])}")  # fmt: skip
    if time["estimate"]:
        console.print(f"estimate {seconds(time['estimate'])} a step, MFU {_share(time['mfu'])}, "
                      f"{time['tokens_per_second']:,.0f} tokens/s; of it {seconds(time['exposed'])} waiting for the "
                      f"network, {seconds(time['kernels'])} in kernels, {seconds(time['copies'])} waiting for "
                      "memory")  # fmt: skip
    console.print(f"[dim]roofline of a device: {roof['flops'] / 1e12:.4g} TFLOP/s, {roof['hbm'] / 1e9:.4g} GB/s memory, "
                  f"{roof['link'] / 1e9:.4g} GB/s a link each way, {roof['between_slices'] / 1e9:.4g} GB/s between slices "
                  f"({roof['source']})[/]")  # fmt: skip


def _share(number: float | None) -> str:
    return "unknown" if number is None else f"{100 * number:.1f} %"


def _collectives(found: dict, console: Any) -> None:
    from rich.table import Table

    if not found["collectives"]:
        return
    table = Table("collective", "axis", "devices", "times", "bytes sent", "on its links", "exposed", "", box=None,
                  pad_edge=False, header_style="bold")  # fmt: skip
    for row in found["collectives"]:
        table.add_row(row["kind"], row["axis"], str(row["devices"]), f"{row['count']:,.0f}", gib(row["bytes"]),
                      seconds(row["seconds"]), seconds(row["exposed"]),
                      "overlapped" if row["overlapped"] else "synchronous")  # fmt: skip
    console.print()
    console.print(table)
