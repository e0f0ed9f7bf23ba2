"""What the loop of `lmjax train` costs over its bare compiled step: both in this process, turn by turn, same state.

    python benchmarks/loop_cpu.py [--vocab 256] [--rounds 15] [--count 4]

The loop prepares batches in the background, fetches every step's metrics while the next step runs, writes
metrics.jsonl and asks at each step whether to pause; nothing is evaluated or saved in these turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

# E402 below: they lie in peers/, which is on the path only now; the worker sets JAX's environment first.
import lmjax_worker as worker  # noqa: E402
from contest import ADAMW, MODEL  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=256, help="vocabulary size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default: %(default)s)")
    parser.add_argument("--count", type=int, default=4, help="steps in a turn (default: %(default)s)")
    options = parser.parse_args()
    job = MODEL | ADAMW | {"kind": "train", "seed": 0, "batch": 8, "batches": 4, "vocab": options.vocab}

    training = worker.Training(job, Path(tempfile.mkdtemp()))
    turns = {"bare": training.bare, "loop": training.loop}
    for turn in turns.values():
        turn(2)  # warm-up
    ratios = []
    for number in range(options.rounds):
        seconds = {}
        for name in sorted(turns, reverse=bool(number % 2)):
            began = time.perf_counter()
            turns[name](options.count)
            seconds[name] = (time.perf_counter() - began) / options.count
        ratios.append(seconds["loop"] / seconds["bare"])
        print(f"round {number + 1}: bare {seconds['bare']:.3f} s a step, loop {seconds['loop']:.3f}", flush=True)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"the loop takes {middle:.3f} x the bare step (quartiles {low:.3f} to {high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
