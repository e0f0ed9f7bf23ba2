"""Figures of a report as inline SVG: learning curves with bands, and intervals beside each other."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

POINTS = 160  # of a curve, at most
BEGINNING = 0.1  # of the steps, which may run out of the picture
COLOURS = 8  # of report.css


class Curve(NamedTuple):
    """Of a variant: at each step the mean over seeds, the lowest and the highest."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


class Bar(NamedTuple):
    """A line of a figure of intervals: its points are the seeds."""

    name: str
    value: float
    low: float
    high: float
    points: tuple[float, ...]


def curve(histories: Sequence[Sequence[dict]], metric: str) -> Curve | None:
    """The curve of one metric over the seeds' histories, at the steps that all have; None without any."""
    values = [
        {line["step"]: line[metric] for line in history if metric in line and math.isfinite(line[metric])}
        for history in histories
    ]
    steps = sorted(set.intersection(*map(set, values))) if values else []
    if not steps:
        return None
    steps = [steps[i] for i in spread(len(steps))]
    found = [[one[step] for one in values] for step in steps]
    return Curve(steps, [sum(some) / len(some) for some in found], list(map(min, found)), list(map(max, found)))


def spread(count: int) -> list[int]:
    """At most `POINTS` of so many positions, the first and the last among them."""
    most = min(count, POINTS)
    return list(range(count)) if most == count else sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within the bounds, about so many."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def mark(value: float) -> str:
    """A tick's number: 20000 -> 20k, 0.05 -> 0.05."""
    if abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "−")


def bounds(curves: Mapping[str, Curve]) -> tuple[float, float]:
    """Of the values, those of the beginning left out, with some air."""
    last = max(one.steps[-1] for one in curves.values())
    seen = [value for one in curves.values() for step, low, high in zip(one.steps, one.low, one.high, strict=True)
            if step >= BEGINNING * last for value in (low, high)]  # fmt: skip
    low, high = min(seen), max(seen)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air


def look(place: int) -> str:
    """The classes of the curve at a place, as report.css has them: eight colours, then dashed, then dotted."""
    return f"c{place % COLOURS}{('', ' dashed', ' dotted')[place // COLOURS % 3]}"


def curves(found: Mapping[str, Curve], *, width: int, title: str) -> str:
    """An SVG of so many units of width; a curve's classes are `look` of its place in `found`."""
    height, left, right, top, bottom = round(min(340, width * 0.72)), 48, 18, 10, 40
    low, high = bounds(found)
    last = max(one.steps[-1] for one in found.values())
    name = "".join(sign for sign in f"{title}-{width}" if sign.isalnum())

    def x(step: float) -> float:
        return left + (width - left - right) * step / last

    def y(value: float) -> float:
        return top + (height - top - bottom) * (
            high - min(max(value, low - 9 * (high - low)), high + 9 * (high - low))
        ) / (high - low)

    parts = [f'<clipPath id="{name}"><rect x="{left}" y="{top}" width="{width - left - right}" '
             f'height="{height - top - bottom}"/></clipPath>']  # fmt: skip
    for value in ticks(low, high, 5):
        parts.append(f'<path class="grid" d="M{left} {y(value):.1f}H{width - right}"/>'
                     f'<text class="end" x="{left - 6}" y="{y(value) + 4:.1f}">{mark(value)}</text>')  # fmt: skip
    for step in ticks(0, last, 5 if width > 500 else 3):
        parts.append(f'<text class="mid" x="{x(step):.1f}" y="{height - bottom + 18}">{mark(step)}</text>')
    parts.append(f'<path class="axis" d="M{left} {height - bottom}H{width - right}"/>')
    parts.append(f'<text class="mid quiet" x="{(left + width - right) / 2:.1f}" y="{height - 4}">step</text>')
    drawn = [(look(i), one) for i, one in enumerate(found.values())]
    parts.append(f'<g clip-path="url(#{name})">')
    for kind, one in drawn:
        there = [f"{x(step):.1f} {y(value):.1f}" for step, value in zip(one.steps, one.high, strict=True)]
        back = [f"{x(step):.1f} {y(value):.1f}" for step, value in zip(one.steps, one.low, strict=True)]
        parts.append(f'<path class="band {kind}" d="M{"L".join(there + back[::-1])}Z"/>')
    for kind, one in drawn:
        points = [f"{x(step):.1f} {y(value):.1f}" for step, value in zip(one.steps, one.mean, strict=True)]
        parts.append(f'<path class="line {kind}" d="M{"L".join(points)}"/>')
    return svg(width, height, f"Learning curves: {title}", "".join(parts) + "</g>")


def intervals(bars: Sequence[Bar], *, width: int, title: str, zero: bool) -> str:
    """Means with their 95 % intervals and the seeds as dots, a variant a line; zero: a line at 0, for differences."""
    each, top, bottom, right = 26, 6, 38, 12
    left = min(round(width * 0.42), 14 + round(7.2 * max(len(bar.name) for bar in bars)))
    height = top + bottom + each * len(bars)
    ends = [value for bar in bars for value in (bar.value, bar.low, bar.high, *bar.points) if math.isfinite(value)]
    ends += [0.0] if zero else []
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - air, high + air

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high, 5 if width > 500 else 3):
        parts.append(f'<path class="grid" d="M{x(value):.1f} {top}V{height - bottom}"/>'
                     f'<text class="mid" x="{x(value):.1f}" y="{height - bottom + 16}">{mark(value)}</text>')  # fmt: skip
    if zero:
        parts.append(f'<path class="zero" d="M{x(0):.1f} {top}V{height - bottom}"/>')
    for i, bar in enumerate(bars):
        y = top + each * (i + 0.5)
        parts.append(f'<text class="end" x="{left - 10}" y="{y + 4:.1f}">{html.escape(clipped(bar.name, left))}</text>')
        if not math.isfinite(bar.value):
            continue
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            parts.append(f'<path class="whisker" d="M{x(bar.low):.1f} {y}H{x(bar.high):.1f}"/>')
        parts += [f'<circle class="seed" cx="{x(value):.1f}" cy="{y + 6:.1f}" r="2"/>' for value in bar.points
                  if math.isfinite(value)]  # fmt: skip
        parts.append(f'<circle class="mean" cx="{x(bar.value):.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(
        f'<text class="mid quiet" x="{(left + width - right) / 2:.1f}" y="{height - 4}">{html.escape(title)}</text>'
    )
    return svg(width, height, title, "".join(parts))


def clipped(name: str, room: int) -> str:
    most = max(4, int((room - 10) / 7))
    return name if len(name) <= most else f"{name[: most - 1]}…"


def svg(width: int, height: int, title: str, inner: str) -> str:
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title, quote=True)}">'
            f"{inner}</svg>")  # fmt: skip
