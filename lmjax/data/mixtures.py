"""Several streams of rows as one: which stream row k comes from, and which of its rows that is, without walking there.

Row numbers are counted exactly, in whole numbers. After t rows each component has had its share of t as Webster's method
of apportionment rounds it (Balinski and Young 1982, "Fair Representation", appendix A): nobody's count ever falls when
t grows, all of them add up to t, and no share, however small, is rounded away for good. Within a block of BLOCK rows
the components are shuffled by (seed, block).
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lmjax.data import packing
from lmjax.data.shards import Documents
from lmjax.errors import UserError

BLOCK = 1024  # rows that are shuffled together


@dataclass(frozen=True)
class Phase:
    """Rows `start` to `stop` (None: for ever), in which nothing changes: the shares, and the counts before them."""

    start: int
    stop: int | None
    shares: dict[str, Fraction]
    before: dict[str, int]


class Mixture:
    """An endless stream of rows of its components' streams, or one that ends where all of them reach their caps.

    shares: of the rows, one a component. caps: epochs of a component at most; then its share goes to the others in
    proportion. Rows are the components' own, and each is packed by itself: no row holds two components.
    """

    def __init__(
        self,
        components: Mapping[str, packing.Stream],
        shares: Mapping[str, Fraction],
        seed: int,
        caps: Mapping[str, float] | None = None,
    ):
        self.components, self.seed, self.names = dict(components), seed, list(components)
        streams = list(self.components.values())
        self.length, self.documents = streams[0].length, joined([stream.documents for stream in streams])
        most = {name: max(1, math.floor(cap * components[name].epoch_rows)) for name, cap in (caps or {}).items()}
        self.phases = list(_phases({name: shares[name] for name in self.names}, most))
        self.end = self.phases[-1].stop
        self.tokens = sum(stream.tokens for stream in streams)
        self.epoch_rows = sum(stream.epoch_rows for stream in streams)
        self.efficiency = float(sum(share * Fraction(components[name].efficiency)
                                    for name, share in self.phases[0].shares.items()))  # fmt: skip
        self._block = functools.lru_cache(maxsize=4)(self._make_block)

    def row(self, k: int) -> packing.Row:
        """Row k: the components' own one that `place(k)` says."""
        name, own = self.place(k)
        return self.components[name].row(own)

    def place(self, k: int) -> tuple[str, int]:
        """The component of row k, and the number of that row in it. UserError past the end of all caps."""
        phase = self._phase(k)
        b, at = divmod(k - phase.start, BLOCK)
        which, own = self._block(phase.start, b)
        return self.names[which[at]], int(own[at])

    def counts(self, k: int) -> dict[str, int]:
        """How many of the rows before row k are each component's: exact, and they add up to k."""
        if k == 0:
            return dict.fromkeys(self.names, 0)
        phase = self._phase(k - 1)
        b, rest = divmod(k - phase.start, BLOCK)
        found = _counts(phase.shares, b * BLOCK)
        if rest:
            which, _ = self._block(phase.start, b)
            for i, n in enumerate(np.bincount(which[:rest], minlength=len(self.names)).tolist()):
                if n:
                    found[self.names[i]] += n
        return {name: phase.before[name] + found.get(name, 0) for name in self.names}

    def report(self) -> list[str]:
        """What it is made of, and what changes when a cap is reached: a line each."""
        lines = []
        for phase, following in zip(self.phases, [*self.phases[1:], None], strict=True):
            shares = ", ".join(f"{name} {float(share):.4g}" for name, share in phase.shares.items())
            lines.append(f"rows from {phase.start:,}: {shares}")
            gone = [name for name in phase.shares if following is None or name not in following.shares]
            if phase.stop is not None:
                then = "its share goes to the others" if following else "the mixture ends"
                lines.append(f"{' and '.join(gone)}: all of its repeats are used up at row {phase.stop:,}; {then}")
        return lines

    def _phase(self, k: int) -> Phase:
        for phase in self.phases:
            if phase.stop is None or k < phase.stop:
                return phase
        raise UserError(
            f"the mixture has {self.end:,} rows, and row {k:,} is asked for: every component has reached its "
            "data.mixture.repeats. Train for fewer steps, or allow more repeats, or leave one component without a cap"
        )

    def _make_block(self, start: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) the component and (n,) its own row number, of the rows of block b of the phase that starts there."""
        phase = next(phase for phase in self.phases if phase.start == start)
        first, last = b * BLOCK, (b + 1) * BLOCK
        if phase.stop is not None:
            last = min(last, phase.stop - start)
        had, has = _counts(phase.shares, first), _counts(phase.shares, last)
        quotas = np.array([has.get(name, 0) - had.get(name, 0) for name in self.names])
        which = np.repeat(np.arange(len(self.names)), quotas)
        which = which[packing.permutation(len(which), f"{self.seed}/mixture/{start}", b)]
        own = np.empty(len(which), np.int64)
        for i, name in enumerate(self.names):
            if quotas[i]:
                own[which == i] = phase.before[name] + had[name] + np.arange(quotas[i])
        return which, own


def joined(parts: list[Documents]) -> Documents:
    """The documents of all parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part.lengths) for part in parts])

    def read(i: int, start: int, stop: int) -> np.ndarray:
        p = int(np.searchsorted(ends, i, "right"))
        return parts[p].read(i - int(ends[p - 1]) if p else i, start, stop)

    return Documents(np.concatenate([part.lengths for part in parts]), read)


def shares(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None = None, temperature: float = 1.0
) -> dict[str, Fraction]:
    """Each component's share of the rows: weights, or sizes (tokens) where there are none, to the 1/temperature, over
    their sum. Raffel et al. 2020, arXiv:1910.10683, 3.5.2: 1 is by size, a high temperature makes all alike.

    Exact from then on. UserError for a share so small that not one of BLOCK rows would be its own.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise UserError(f"data.mixture.temperature={temperature}: above 0; 1 is by size, and higher is more alike")
    for name, weight in (weights or {}).items():
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"data.mixture.weights: {name} has {weight}; a weight is above 0: leave out what is not wanted"
            )
    raw = {name: Fraction(value) for name, value in (weights or sizes).items()}
    if temperature != 1:  # to 12 digits, so that another machine's power function makes the same rows
        top = max(raw.values())
        raw = {name: Fraction(f"{float(value / top) ** (1 / temperature):.12g}") for name, value in raw.items()}
    total = sum(raw.values())
    for name, value in raw.items():
        if value * BLOCK < total:
            raise UserError(
                f"{name} has {float(value / total):.2g} of the mixture, less than one row in {BLOCK}: raise its weight in "
                f"data.mixture.weights, raise data.mixture.temperature={temperature:g}, or leave it out"
            )
    return {name: value / total for name, value in raw.items()}


def _counts(shares: Mapping[str, Fraction], t: int) -> dict[str, int]:
    """Webster's apportionment of t rows: component c's n-th row comes at (n - 1/2) / share, and the first t are taken;
    at the same moment the earlier component goes first."""
    half = Fraction(len(shares), 2)
    # No more than it ends with: the moment of the t-th row is at least t - half.
    found = {name: max(0, math.floor((t - half) * share - Fraction(1, 2))) for name, share in shares.items()}
    queue = [((found[name] + Fraction(1, 2)) / share, i, name) for i, (name, share) in enumerate(shares.items())]
    heapq.heapify(queue)
    for _ in range(t - sum(found.values())):
        _, i, name = queue[0]
        found[name] += 1
        heapq.heapreplace(queue, ((found[name] + Fraction(1, 2)) / shares[name], i, name))
    return found


def _phases(shares: dict[str, Fraction], most: Mapping[str, int]):
    """Phases from row 0 on: each ends just before the first row that some component may no longer have."""
    start, before = 0, dict.fromkeys(shares, 0)
    left = dict(shares)
    while left:
        total = sum(left.values())
        now = {name: share / total for name, share in left.items()}
        ends = [
            ((most[name] - before[name] + Fraction(1, 2)) / share, name) for name, share in now.items() if name in most
        ]
        if not ends:
            yield Phase(start, None, now, dict(before))
            return
        moment, _ = min(ends)
        # The rows whose moment is before it: n = 1, 2, .. below moment * share + 1/2.
        rows = {name: math.ceil(moment * share + Fraction(1, 2)) - 1 for name, share in now.items()}
        size = sum(rows.values())
        if size:
            yield Phase(start, start + size, now, dict(before))
        start += size
        before = {name: before[name] + rows.get(name, 0) for name in before}
        left = {name: share for name, share in left.items() if before[name] < most.get(name, math.inf)}
