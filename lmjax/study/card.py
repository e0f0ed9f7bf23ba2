"""The model card of a finished run, after Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).

It says what can be known from the run's folder. What a model is for and should not be used for, its authors add.
"""

from __future__ import annotations

from pathlib import Path

from lmjax import atomic
from lmjax.config import flatten
from lmjax.data.card import Section, markdown, page
from lmjax.study import costs, report
from lmjax.study.records import EVALUATED, Record

MARKDOWN, PAGE = "MODEL_CARD.md", "model_card.html"
CAVEAT = ("Measured on the validation split of the training data alone, with one seed: there is no interval over seeds here, "
          "and nothing is known of other data, of bias or of harm. A study's report has the intervals.")  # fmt: skip


def write(record: Record) -> Path:
    """Write both files into the run's folder; the page's path. The same run gives the same bytes."""
    found, name = sections(record), str(record.manifest["experiment"])
    atomic.write(record.folder / MARKDOWN, markdown(name, found, "Model card"))
    atomic.write(record.folder / PAGE, page(name, found, "Model card"))
    return record.folder / PAGE


def sections(record: Record) -> list[Section]:
    """What the card says, in its order."""
    text = report.sample(record)
    found = [
        Section("Model", facts=model(record)),
        Section("Training", facts=training(record), note=costs.NOTE.removeprefix("Means over seeds. ")),
        Section("Results", facts=results(record), note=CAVEAT),
    ]
    if record.evaluation:
        found.append(Section("Evaluation", facts=evaluated(record.evaluation), note="By `lmjax eval`."))
    if text:
        found.append(Section("Sample", samples=[(f"at step {record.manifest['result']['step']}", text)]))
    return [*found, Section("Where the numbers are from", facts=origin(record))]


def model(record: Record) -> list[tuple[str, str]]:
    facts = [
        ("experiment", str(record.manifest["experiment"])),
        ("question", str(record.manifest.get("question") or "none")),
    ]
    count = record.manifest.get("parameters")
    facts += [("parameters", f"{count:,}")] if count is not None else []
    leaves = flatten(record.config)
    return facts + [(path, str(value)) for path, value in leaves.items()
                    if path.startswith("model.") and value not in (None, "", (), [])]  # fmt: skip


def training(record: Record) -> list[tuple[str, str]]:
    data = record.manifest.get("data") or {}
    facts = [("data", f"{data.get('source', 'unknown')}, fingerprint {data.get('fingerprint', 'unknown')}")]
    facts += [("objective", str(record.config.objective.kind))] if "kind" in record.config.objective else []
    facts += [("steps", f"{record.manifest['result']['step']:,} of {record.config.steps:,}")]
    facts += [("batch", f"{record.config.batch:,} rows"), ("seed", str(record.seed))]
    said = costs.said(costs.cost(record))
    return facts + [(name, value) for name, value in said.items() if value and name != "parameters"]


def results(record: Record) -> list[tuple[str, str]]:
    """The last value of every metric that is not about the optimizer or the clock."""
    kept = {name: value for name, value in record.metrics.items()
            if not name.startswith(("perf/", EVALUATED)) and name not in ("train/learning_rate", "train/skipped")}  # fmt: skip
    return [(name, f"{value:.6g}") for name, value in sorted(kept.items())]


def evaluated(found: dict) -> list[tuple[str, str]]:
    facts = [
        ("data", f"{found.get('data')}, {found.get('split')}: {found.get('examples')} {found.get('unit', 'examples')}")
    ]
    for name, one in sorted((found.get("metrics") or {}).items()):
        if isinstance(one, dict) and "value" in one:
            bounds = f" [{one['low']:.6g}, {one['high']:.6g}]" if {"low", "high"} <= one.keys() else ""
            facts.append((name, f"{one['value']:.6g}{bounds}"))
    return facts


def origin(record: Record) -> list[tuple[str, str]]:
    manifest = record.manifest
    code = (manifest.get("code") or {}).get("lmjax") or {}
    commit = str(code.get("commit", "unknown")) + (" with changes, in the manifest" if code.get("dirty") else "")
    devices, packages = manifest.get("devices") or {}, manifest.get("packages") or {}
    return [
        ("config hash", str(manifest["config_hash"])),
        ("parameters' SHA-256", str(manifest["result"].get("params_sha256"))),
        ("lmjax", commit),
        ("libraries", ", ".join(f"{name} {packages[name]}" for name in ("jax", "flax", "optax", "numpy") if name in packages)),
        ("devices", f"{devices.get('count')} x {devices.get('kind')}"),
        ("manifest", "manifest.json, beside this card"),
    ]  # fmt: skip
