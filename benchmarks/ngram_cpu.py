"""Tokens a second of counting n-grams on one core, of evaluating with them, and the memory that both take.

    python benchmarks/ngram_cpu.py

The Bible in bytes and in byte-pair tokens, read beforehand. The median of some rounds by the process's own CPU time;
memory is the most that the process held, above what it held before.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASKS = (("bytes", None, 5), ("bytes", None, 8), ("bpe", 1024, 3), ("bpe", 1024, 5), ("bpe", 8192, 5))


def measure(tokenizer: str, vocab: int | None, order: int, rounds: int) -> str:
    """A line of the table."""
    sys.path.insert(0, str(ROOT))
    from configs import ngram
    from lmjax import counted
    from lmjax.config import update
    from lmjax.data import open_dataset
    from lmjax.data.packing import permutation
    from lmjax.models.ngram import count

    config = update(ngram.of_bytes(), {"data.tokenizer": tokenizer, "data.vocab": vocab, "model.order": order})
    dataset = open_dataset(config.data, 0)
    documents, ids = dataset.train.documents, dataset.tokenizer
    order_of_documents = permutation(len(documents.lengths), 0, 0)
    stream = counted.joined(documents, order_of_documents)
    batches, held = list(counted.valid_batches(config, dataset, whole=True)), peak()
    counting, scoring = [], []
    for _ in range(rounds):
        began = time.process_time()
        model = count(stream, order=order, vocab=ids.vocab_size, doc=ids.doc)
        between = time.process_time()
        found = counted.evaluate(model, batches)
        counting.append(between - began)
        scoring.append(time.process_time() - between)
    tokens = sum(int(batch["weights"].sum()) for batch in batches)
    return (
        f"| {tokenizer} {ids.vocab_size:,} | {order} | {len(stream):,} | "
        f"{len(stream) / statistics.median(counting) / 1e6:.2f} M | {tokens / statistics.median(scoring) / 1e6:.2f} M | "
        f"{(peak() - held) >> 10} MiB | {counted.grams(model):,} | {found['bits_per_byte']:.3f} |"
    )


def peak() -> int:
    """KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", type=int, help=argparse.SUPPRESS)  # of a child, with its own memory
    options = parser.parse_args()
    if options.task is not None:
        print(measure(*TASKS[options.task], options.rounds))
        return 0
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    heads = (
        "tokenizer",
        "order",
        "tokens",
        "counted a second",
        "evaluated a second",
        "memory",
        "n-grams",
        "bits a byte",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for number in range(len(TASKS)):
        words = [sys.executable, __file__, f"--task={number}", f"--rounds={options.rounds}"]
        subprocess.run(words, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
