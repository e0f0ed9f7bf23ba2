"""What to change first when a plan does not fit, or wastes the chips."""

from __future__ import annotations

NEAR = (
    0.04  # share of the memory that had better stay free: the run time and the next version of the compiler take some
)


def advise(found: dict) -> list[str]:
    """Advice on one plan, the most useful first; none for one that fits and is fast."""
    return _memory(found) if not found["fits"] else _speed(found)


def _memory(found: dict) -> list[str]:
    memory, lines = found["memory"], []
    limit, mesh, devices = memory["limit"], found["mesh"], found["devices"]
    state = sum(memory.get(name, 0) for name in ("parameters", "optimizer", "average"))
    sharded = 1
    for axis in ("fsdp", "tensor", "stage", "expert"):
        sharded *= mesh.get(axis, 1)
    if state > 0.5 * limit and sharded < devices:
        lines.append(f"change first: --config.layout.mesh.data=1 --config.layout.mesh.fsdp=-1; parameters and optimizer "
                     f"take {state / 2**30:.2f} GiB a device, over {devices} devices "
                     f"{state * sharded / devices / 2**30:.2f} GiB")  # fmt: skip
    if state * sharded / devices > limit:
        lines.append(f"no layout of {devices} devices holds parameters and optimizer: {state * sharded / 2**30:.0f} GiB in "
                     f"all, so at least {int(state * sharded / limit) + 1} such devices, or a smaller optimizer "
                     "(--config.optim.name=adafactor)")  # fmt: skip
    if state <= limit and found["remat"] not in (None, "full"):
        lines.append(f"{'change first' if not lines else 'then'}: --config.model.remat=full instead of {found['remat']}: the "
                     "forward pass then keeps one activation a layer, for about a third more FLOPs")  # fmt: skip
    rows = devices
    for axis in ("tensor", "context", "stage", "expert"):
        rows //= mesh.get(axis, 1)
    more = found["microbatches"] * 2
    if found["batch"] % more == 0 and (found["batch"] // more) % max(rows, 1) == 0:
        lines.append(f"{'change first' if not lines else 'then'}: --config.optim.microbatches={more}: half the rows at a "
                     "time, with the same result")  # fmt: skip
    elif state <= limit:
        lines.append(f"{'change first' if not lines else 'then'}: more devices along context or tensor, or a smaller "
                     f"batch: {found['batch']} rows over {rows} devices cannot be cut into more microbatches")  # fmt: skip
    lines.append("`--search` tries these together")
    return lines


def _speed(found: dict) -> list[str]:
    time, memory, lines = found.get("time"), found["memory"], []
    if memory["room"] < NEAR * memory["limit"]:
        lines.append(
            f"tight: {memory['room'] / 2**20:.0f} MiB to spare; the run time and another compiler may need them"
        )
    if not time or not time["estimate"]:
        return lines
    waited = time["exposed"] / time["estimate"]
    if waited > 0.1:
        worst = max(found["collectives"], key=lambda row: row["exposed"])
        lines.append(f"{100 * waited:.0f} % of the step waits for the network, most for {worst['kind']} along "
                     f"{worst['axis']}: larger batches a device, or less of that axis, hide more")  # fmt: skip
    if found["remat"] == "full" and memory["room"] > 0.3 * memory["limit"]:
        lines.append("there is room to compute less twice: try --config.model.remat=minimal, or `--search`")
    return lines
