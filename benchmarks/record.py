"""Writes the one table of what was recorded: every variant of every published study, beside what is trivial.

    lmjax sweep mnist && lmjax bundle mnist --small --out=experiments/results/mnist
    python benchmarks/trivial.py mnist
    python benchmarks/record.py

The runs are those of the bundles in experiments/results, read as `lmjax verify` reads them; the table is its README.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
sys.path.insert(0, str(ROOT))

ABOVE = """\
# Recorded results

Written by `python benchmarks/record.py` from the runs in the folders beside it, which `lmjax verify` checks. ± is half of
the 95 % interval of the mean over seeds (Student's t); brackets are the 95 % interval over the examples of the validation
split, of a single seed. Metrics are of the parameters after the last step, on the whole validation split. Trivial guesses
are of `python benchmarks/trivial.py`, on the same split. Minutes are those of a run from start to end on one core of two
(Xeon, 2.1 GHz, JAX on CPU), of a machine that others used at the same time and stopped now and then.

Two choices were made by what is validated on. MNIST's optimizer: Muon was ahead of AdamW after 120 steps. And
minilm_topics' "longer" was added after the base had missed the linear classifier: it is ahead by one text of 2,189, which
is no lead.

Not above what is simple: captions (that of the nearest training image is better), MNIST's vision Transformer (a linear
classifier is better), topics from scratch, and fine-tuning after masked words, whose 400 steps learned no more than how
frequent words are. Of emoji_retrieval there is an older run of one seed, in emoji_retrieval.md.

A row again: `lmjax sweep STUDY --seeds=0,`, then `lmjax eval RUN` where a metric's name begins with eval/; what a study
needs before that, its file says, and its minutes do not count. Commit and config are those of the first seed.
"""
HEADS = ("study", "variant", "metric", "value", "trivial", "seeds", "minutes", "config", "commit")


def rows(folder: Path, trivial: dict) -> Iterator[tuple[str, ...]]:
    """The rows of a bundle: one for each variant and metric."""
    from lmjax.study import bundle
    from lmjax.study.records import collect
    from lmjax.study.table import runs_of

    study = bundle.restored(json.loads((folder / "study.json").read_text()))
    for variant, held in runs_of(study, collect(study, folder)).items():
        minutes = [session["wall_seconds"] / 60 for one in held for session in one.manifest["sessions"]]
        first, seeds = held[0].manifest, ", ".join(str(one.seed) for one in held)
        made = f"`{first['config_hash'][:10]}`", f"`{first['code']['lmjax']['commit'][:10]}`"
        facts = (seeds, f"{sum(minutes) / len(held):.1f}", *made)
        for metric in study.measured():
            name = metric.partition("/")[2]
            guesses = trivial.get(study.name, {}).get(name, {})
            said = "; ".join(
                f"{number(value)} ({guess})" for guess, value in sorted(guesses.items(), key=lambda g: g[1])
            )
            link = f"[{study.name}]({study.name}/report.md)"
            yield (link, variant, metric, over_seeds(held, metric), said, *facts)


def over_seeds(held: Sequence, metric: str) -> str:
    """The mean with its 95 % interval: over seeds, or of a single one over examples, where its evaluation has that."""
    from lmjax.study import statistics

    values = [one.metrics[metric] for one in held]
    if len(values) > 1:
        mean, low, high = statistics.student(values)
        return f"{number(mean)} ± {(high - low) / 2:.2g}"
    one = (held[0].evaluation or {}).get("metrics", {}).get(metric.partition("/")[2])
    return number(values[0]) + (f" [{number(one['low'])}, {number(one['high'])}]" if one else "")


def number(value: float) -> str:
    """Four digits, and none of them beside zeros that say nothing."""
    return "nan" if math.isnan(value) else f"{value:.4g}"


def table(results: Path = RESULTS) -> str:
    """The Markdown of all bundles in a folder."""
    trivial = json.loads((results / "trivial.json").read_text())
    found = [row for file in sorted(results.glob("*/study.json")) for row in rows(file.parent, trivial)]
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}", *(f"| {' | '.join(row)} |" for row in found)]
    return "\n".join([ABOVE, *lines]) + "\n"


def main() -> int:
    (RESULTS / "README.md").write_text(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
