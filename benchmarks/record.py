"""Runs studies and writes what they measured: every variant and seed trained and evaluated by the command line.

    python benchmarks/record.py mnist emoji_retrieval --seeds 0 1 2

Finished cells are kept, so that the command can be given again. experiments/results/STUDY.md and STUDY.json then hold
the metrics of the validation split, their mean over seeds with its 95 % t interval (or, of a single seed, the interval
over examples of its evaluation), a trivial baseline beside them, and what made them: commit, config hash, minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
SHOWN = ("accuracy", "f1_macro", "bleu", "chrf", "exact_match", "rougeL", "text_by_image/recall@1",
         "text_by_image/recall@10", "image_by_text/recall@1", "image_by_text/recall@10",
         "bits_per_byte", "perplexity", "nll")  # fmt: skip


def lmjax(*words: str) -> str:
    """The standard output of a command, whose messages go to the terminal."""
    done = subprocess.run([sys.executable, "-m", "lmjax", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"lmjax {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def cell(name: str, seed: int, runs: Path) -> dict:
    """One variant and seed, trained unless it is finished, and evaluated."""
    folder = runs / name / str(seed)
    lmjax("train", name, f"--config.seed={seed}", f"--workdir={folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    saved = folder / "evaluation.json"
    if not saved.exists():
        lmjax("eval", str(folder), "--json")
    report = json.loads(saved.read_text())
    metrics = {name: [one["value"], one.get("low"), one.get("high")] for name, one in report["metrics"].items()}
    metrics = {name: [value, None, None] for name, value in report["objective"].items()} | metrics
    return {
        "seed": seed, "metrics": metrics, "examples": report["examples"], "baseline": baseline(report),
        "parameters": manifest["parameters"], "config_hash": manifest["config_hash"],
        "commit": commit(manifest["code"]), "params_sha256": manifest["result"]["params_sha256"],
        "minutes": sum(session["wall_seconds"] or 0 for session in manifest["sessions"]) / 60,
    }  # fmt: skip


def commit(code: dict) -> str:
    """The commit of lmjax that a run was made with, and whether there were changes on top."""
    one = code.get("lmjax", code)
    return f"{one.get('commit', 'unknown')[:10]}{'+' if one.get('dirty') else ''}"


def baseline(report: dict) -> dict[str, float]:
    """What a guess without looking reaches: the commonest class, or any one of the candidates."""
    found = {}
    if "confusion" in report:
        support = np.array(report["confusion"]).sum(axis=1)
        found["accuracy"] = float(support.max() / support.sum())
    for name in report["metrics"]:
        if "/recall@" in name:
            found[name] = int(name.split("@")[1]) / report["examples"]
    return found


def over_seeds(cells: list[dict], metric: str) -> str:
    """Mean with its 95 % interval."""
    from scipy import stats

    values = np.array([one["metrics"][metric][0] for one in cells])
    if len(values) == 1:
        value, low, high = cells[0]["metrics"][metric]
        return f"{value:.4g}" + (f" [{low:.4g}, {high:.4g}]" if low is not None else "")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.4g} ± {half:.2g}"


def table(study: str, question: str, rows: dict[str, list[dict]]) -> str:
    """The Markdown of a study's results."""
    first = next(iter(rows.values()))[0]
    metrics = [name for name in SHOWN if any(name in cells[0]["metrics"] for cells in rows.values())]
    heads = ["variant", *metrics, "seeds", "parameters", "minutes", "config", "commit"]
    lines = [f"# {study}", "", question, "", f"Of {first['examples']:,} validation examples. "
             "± and brackets: 95 % intervals, over seeds, or over examples where there is one seed. "
             f"Minutes of a run on {os.cpu_count()} cores ({platform.processor() or platform.machine()}), JAX on CPU.", "",
             f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]  # fmt: skip
    for name, cells in rows.items():
        values = [over_seeds(cells, metric) if metric in cells[0]["metrics"] else "" for metric in metrics]
        minutes = np.mean([one["minutes"] for one in cells])
        lines.append(f"| {name} | {' | '.join(values)} | {len(cells)} | {cells[0]['parameters']:,} | {minutes:.1f} | "
                     f"{cells[0]['config_hash'][:10]} | {cells[0]['commit']} |")  # fmt: skip
    if trivial := first["baseline"]:
        values = [f"{trivial[metric]:.4g}" if metric in trivial else "" for metric in metrics]
        lines.append(f"| (a guess without looking) | {' | '.join(values)} | | | | | |")
    return "\n".join(lines) + "\n"


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from lmjax.experiment import listing

    studies = listing().experiments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", choices=sorted(studies), metavar="STUDY")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the study")
    parser.add_argument("--variants", nargs="+", help="base and names; default: all of the study")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "record", help="where the run directories go")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in options.studies:
        study, saved = studies[name], RESULTS / f"{name}.json"
        rows = json.loads(saved.read_text()) if saved.exists() else {}
        for variant in options.variants or ("base", *study.variants):
            full = name if variant == "base" else f"{name}/{variant}"
            for seed in options.seeds or study.seeds:
                made = cell(full, seed, options.runs.resolve())
                others = [one for one in rows.get(variant, []) if one["seed"] != seed]
                rows[variant] = sorted([*others, made], key=lambda one: one["seed"])
                rows = {each: rows[each] for each in ("base", *study.variants) if each in rows}
                saved.write_text(json.dumps(rows, indent=1) + "\n")
                (RESULTS / f"{name}.md").write_text(table(name, study.question, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
