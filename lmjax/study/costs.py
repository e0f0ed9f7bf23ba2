"""What runs cost, as their manifests and logs tell: parameters, tokens, FLOPs, time, and an estimate of the energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lmjax.study.records import Record

# Watts while it computes, by a part of the device's kind: board power of the data sheets; TPU v4's mean of Jouppi et
# al. 2023 (arXiv:2304.01433, table 1). Other devices have no figure here, and so no estimate.
WATTS = {"H200": 700.0, "H100": 700.0, "B200": 1000.0, "A100": 400.0, "V100": 300.0, "L40S": 350.0, "L4": 72.0,
         "TPU v4": 170.0}  # fmt: skip
CPU_WATTS = 10.0  # a core with its share of memory: an assumption


class Cost(NamedTuple):
    """Of one run; None for what its records do not tell.

    tokens: that weigh in the loss; flops: of the model, forward and backward; energy: in watt hours, an estimate.
    """

    parameters: int | None
    tokens: float | None
    flops: float | None
    seconds: float
    energy: float | None


def cost(record: Record) -> Cost:
    """The cost of a run."""
    facts, tokens = record.manifest, trained_on(record)
    each = flops_a_token(record)
    seconds = float(facts.get("wall_seconds") or 0.0)
    power = watts(record)
    return Cost(
        facts.get("parameters"), tokens, tokens * each if tokens and each else None, seconds,
        None if power is None else power * seconds / 3600,
    )  # fmt: skip


def trained_on(record: Record) -> float | None:
    """Tokens of all steps: of each logged window its speed times its time."""
    total, before = 0.0, 0
    for line in record.history:
        if "perf/tokens_per_second" in line and "perf/step_seconds" in line:
            total += line["perf/tokens_per_second"] * line["perf/step_seconds"] * (line["step"] - before)
            before = line["step"]
    return total if total and math.isfinite(total) else None


def flops_a_token(record: Record) -> float | None:
    """Of training: the share of the peak that a run logged, times the peak, over its speed."""
    peak = (record.manifest.get("peak") or {}).get("flops")
    for line in record.history:
        if peak and line.get("perf/mfu") and line.get("perf/tokens_per_second"):
            return float(round(line["perf/mfu"] * peak / line["perf/tokens_per_second"]))
    return None


def watts(record: Record) -> float | None:
    """The power that is assumed of a run's devices."""
    devices = record.manifest.get("devices") or {}
    if devices.get("platform") == "cpu":
        return CPU_WATTS * int((record.manifest.get("host") or {}).get("usable_cpus") or 1)
    known = (value for name, value in WATTS.items() if name.lower() in str(devices.get("kind")).lower())
    each = next(known, None)
    return None if each is None else each * int(devices.get("count", 1))


def mean(records: Sequence[Record]) -> Cost:
    """The mean over runs of what all of them tell."""
    columns = zip(*map(cost, records), strict=True)
    return Cost(*(None if None in values else sum(values) / len(values) for values in columns))


def said(of: Cost) -> dict[str, str]:
    """The same in words for a reader."""
    return {
        "parameters": "" if of.parameters is None else f"{of.parameters:,.0f}",
        "tokens": short(of.tokens),
        "FLOPs": "" if of.flops is None else f"{of.flops:.2e}",
        "time": duration(of.seconds),
        "energy (estimate)": "" if of.energy is None else f"{of.energy:.2g} Wh",
    }


def short(value: float | None) -> str:
    """1234567.0 -> 1.23M."""
    if value is None:
        return ""
    size = next((size for size in (1e12, 1e9, 1e6, 1e3) if value >= size), 1.0)
    return f"{value / size:.3g}{ {1e12: 'T', 1e9: 'B', 1e6: 'M', 1e3: 'k', 1.0: ''}[size] }"


def duration(seconds: float) -> str:
    """39.4 -> 39 s, 90 -> 1.5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


NOTE = (
    "Means over seeds. Tokens are those that weigh in the loss; FLOPs are the model's, forward and backward (Chowdhery "
    "et al. 2022, appendix B); time is of the whole run with compilation and evaluation. The energy is an estimate and "
    f"was not measured: time times {CPU_WATTS:.0f} W a CPU core, or the board power of an accelerator."
)
