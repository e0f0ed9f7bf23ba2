"""Loading packed rows: how many times faster than the quickstart's step takes them, and at what share of a core.

    python benchmarks/load_rows.py [data.source=botocore ...] [--steps 30] [--json rows.json]

One run: the quickstart's step is trained first, for its rows a second; then each way of making the same batches takes
its turn, --rounds times: `train_batch` in this thread, Grain in this process, the training loop's own thread
(data.workers=0) and 1 and 2 worker processes; then the packing modes and a mixture in this thread, and texts changed at
random (data.augment) as a run makes them. Medians; compare the ratios, and only within one run.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs import lm
from lmjax.config import override
from lmjax.data import Prefetch, open_dataset
from lmjax.data.grain_source import Workers, as_grain, batches_of

Take = Iterator[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of the quickstart's config, such as data.source=botocore")
    parser.add_argument("--mixed-with", default="botocore", help="the other component of the mixture")
    parser.add_argument("--steps", type=int, default=30, help="of the quickstart, for its rate; 0: none")
    parser.add_argument("--batches", type=int, default=200, help="made by each way in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    words = options.overrides
    config = override(lm.quickstart(), words)
    needed = step_rate(words, options.steps) if options.steps else None
    ways = dict(ways_of(config)) | dict(modes_of(config, options.mixed_with))
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, make in ways.items():
            rounds[name].append(measure(make, options.batches, config.batch))
    found = {name: [statistics.median(column) for column in zip(*taken, strict=True)] for name, taken in rounds.items()}
    print(table(found, needed, config))
    if options.json:
        options.json.write_text(
            json.dumps({"step_rows_a_second": needed, "rows_a_second_and_cpu": found}, indent=1) + "\n"
        )


def step_rate(words: list[str], steps: int) -> float:
    """Rows a second that training the quickstart takes, the median of its log lines without the first."""
    with tempfile.TemporaryDirectory() as folder:
        leaves = [
            f"steps={steps}",
            "every.log=5",
            f"every.eval={steps}",
            f"every.save={steps}",
            "eval.batches=1",
            *words,
        ]
        run = [sys.executable, "-m", "lmjax", "train", "configs/lm.py:quickstart", f"--workdir={folder}/run"]
        subprocess.run([*run, *(f"--config.{leaf}" for leaf in leaves)], check=True, stdout=subprocess.DEVNULL)
        lines = map(json.loads, (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines())
        rates = [line["perf/tokens_per_second"] for line in lines if "perf/tokens_per_second" in line]
    return statistics.median(rates[1:]) / override(lm.quickstart(), words).data.length


def ways_of(config: Any) -> Iterator[tuple[str, Callable[[], Take]]]:
    """The ways to make the batches of config, by name: each starts anew."""
    make, opened = makers(config)
    yield "this thread", lambda: map(make, iter(range(1 << 40)))
    yield "Grain, this process", lambda: iter(as_grain(opened))
    yield from workers_of(config, "")


def workers_of(config: Any, of: str) -> Iterator[tuple[str, Callable[[], Take]]]:
    """The ways of a run, by data.workers."""
    make, opened = makers(config)
    yield f"{of}data.workers=0", lambda: Prefetch(make, 0)
    for count in (1, 2):
        yield f"{of}data.workers={count}", lambda count=count: Prefetch(Workers(opened, count), 0)


def makers(config: Any) -> tuple[Callable[[int], Any], Callable[[], Callable[[int], Any]]]:
    """What makes a batch of its number, here; and what gives that in another process."""
    make = functools.partial(open_dataset(config.data, config.seed).train_batch, batch=config.batch)
    return make, functools.partial(batches_of, config.data, config.seed, "train", config.batch)


def modes_of(config: Any, other: str) -> Iterator[tuple[str, Callable[[], Take]]]:
    """Packing modes, a mixture of two, and rows that cost more: texts changed at random."""
    for name, words in {
        "best_fit": ["data.packing=best_fit"],
        "none": ["data.packing=none"],
        f"mixed with {other}": [f"data.mixture.sources={other}"],
    }.items():
        make, _ = makers(override(config, words))
        yield f"{name}, this thread", lambda make=make: map(make, iter(range(1 << 40)))
    changed = override(config, ["data.packing=none", "data.augment.text=swap,deletion,noise"])
    yield from workers_of(changed, "changed texts, ")


def measure(make: Callable[[], Take], number: int, size: int) -> tuple[float, float]:
    """Rows a second, and CPU seconds of this process (not of workers) a row, after the first ten batches."""
    batches = make()
    for _ in range(10):
        next(batches)
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(number):
        next(batches)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    if isinstance(batches, Prefetch):
        batches.close()
    return number * size / took, worked / (number * size)


def table(found: dict[str, list[float]], needed: float | None, config: Any) -> str:
    first = found["this thread"][0]
    lines = [
        f"rows of {config.data.length} tokens, batches of {config.batch}; {config.data.source}, {config.data.tokenizer}"
    ]
    lines += [f"the quickstart's step takes {needed:,.0f} rows a second"] if needed else []
    lines.append(
        f"{'':32}{'rows/s':>12}{'of the first':>14}" + (f"{'of the step':>14}{'of a core':>12}" if needed else "")
    )
    for name, (rate, cpu) in found.items():
        line = f"{name:32}{rate:12,.0f}{rate / first:14.2f}"
        lines.append(line + (f"{rate / needed:13.0f}x{cpu * needed:12.2%}" if needed else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
