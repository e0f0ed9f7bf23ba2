"""From a contest's measurements to medians, ratios taken round by round, and a table."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

YARDSTICK, SUBJECT = "torch-eager", "lmjax"
NOISY = 0.1  # share of the cores used by strangers from which on the figures mean little
GREEDY = 0.98  # share of generated tokens that must be the best ones; rounding may decide between the best two


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(median, lower, upper)"""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def ratio(ours: dict, theirs: dict) -> tuple[float, float, float]:
    """(median, lower, upper quartile) of the ratio of tokens per second, each taken within one round."""
    pairs = zip(ours["tokens_per_second"], theirs["tokens_per_second"], strict=True)
    return quartiles([a / b for a, b in pairs])


def report(result: dict, console: Console) -> bool:
    """Prints a contest; whether all that finished have the same number of parameters and generated what is greedy."""
    found = result["contenders"]
    if not found:
        console.print("nobody finished")
        return False
    console.print(table(found, YARDSTICK if YARDSTICK in found else next(iter(found))))
    for name in found if SUBJECT in found else ():
        if name != SUBJECT:
            middle, low, high = ratio(found[SUBJECT], found[name])
            console.print(f"{SUBJECT} is {middle:.2f} x {name} (quartiles {low:.2f} to {high:.2f})")
    counts = {name: values["parameters"] for name, values in found.items()}
    alike = len(set(counts.values())) == 1
    console.print(f"parameters: {max(counts.values()):,} each" if alike else f"[red]parameters differ[/]: {counts}")
    for name, values in found.items():
        console.print(f"{name}: " + ", ".join(" ".join(version) for version in values["versions"].items()))
    shares = [share for values in found.values() for share in values["others"]]
    middle, worst = statistics.median(shares), max(shares)
    console.print(f"other processes used {middle:.0%} of the cores in the median turn, {worst:.0%} in the worst")
    if middle > NOISY:
        console.print("[red]the machine was not quiet: do not quote these figures[/]")
    return alike and all(values.get("greedy", 1.0) >= GREEDY for values in found.values())


def table(found: dict, reference: str) -> Table:
    """Rates and ratios; `first s` from the process's start to its first result, compilation caches empty and warm."""
    trained = any(values["losses"] for values in found.values())
    headings = ["tokens/s", "quartiles", f"x {reference}", "quartiles", "first s", "warm s", "peak MiB"]
    result = Table()
    result.add_column("contender")
    for heading in [*headings, "loss, first to last" if trained else "greedy"]:
        result.add_column(heading, justify="right")
    for name, values in found.items():
        rate, low, high = quartiles(values["tokens_per_second"])
        times, less, more = ratio(values, found[reference])
        warm, losses = values["first_seconds_warm"], values["losses"]
        result.add_row(
            name, f"{rate:.0f}", f"{low:.0f}-{high:.0f}", f"{times:.2f}", f"{less:.2f}-{more:.2f}",
            f"{values['first_seconds']:.1f}", "-" if warm is None else f"{warm:.1f}", f"{values['peak_mib']:.0f}",
            f"{losses[0]:.3f} to {losses[-1]:.3f}" if trained else f"{values['greedy']:.1%}",
        )  # fmt: skip
    return result
