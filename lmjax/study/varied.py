"""What stands under a table: what varied between the runs, as their records tell, and what the numbers are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.study.checks import changes, codes, fingerprint
from lmjax.study.records import EVALUATED, Record

TRAINING = ("data.packing", "data.curriculum.", "data.mixture.", "data.augment.", "data.workers", "data.buckets")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def notes(study: Experiment, records: Sequence[Record], reference: Record) -> list[str]:
    """What varied from seed to seed and what did not, and on what all ran; a sentence or two each."""
    found = [
        seeds(records),
        *missing(study, records),
        *random(records),
        *paired(records, reference),
        evaluation(records),
        *other_tasks(records, reference),
    ]
    return [*found, *early(records), *machines(records)]


def seeds(records: Sequence[Record]) -> str:
    """Which seeds each variant has."""
    held = {variant: [r.seed for r in records if r.variant == variant] for variant in _variants(records)}
    groups: dict[str, list[str]] = {}
    for variant, values in held.items():
        groups.setdefault(", ".join(map(str, sorted(values))), []).append(variant)
    if len(groups) == 1:
        values = next(iter(groups))
        return f"{'Seeds' if ',' in values else 'One seed,'} {values}{' of every variant' if ',' in values else ''}."
    return "Seeds " + "; ".join(f"{values} of {' and '.join(names)}" for values, names in groups.items()) + "."


def missing(study: Experiment, records: Sequence[Record]) -> list[str]:
    """The variants of the study of which no run is here."""
    absent = [name for name in study.names() if name not in _variants(records)]
    return [f"Not in this table, for no finished run of it is here: {', '.join(absent)}."] if absent else []


def random(records: Sequence[Record]) -> list[str]:
    """What a seed decides: the initial parameters and the order of the data, unless nothing in a run is random."""
    drawn = [record for record in records if not _counted(record)]
    found = []
    if drawn:
        starts = sorted({str(run) for record in drawn if (run := _leaf(record, "start", "run")) is not None})
        what = f"the parameters that {' and '.join(starts)} did not give" if starts else "the initial parameters"
        found.append(f"From seed to seed {what} and the order of the training data vary.")
    if counted := _variants([record for record in records if _counted(record)]):
        found.append(
            f"Nothing is random in {' and '.join(counted)}: counted, not trained, and the same with every seed."
        )
    return found


def paired(records: Sequence[Record], reference: Record) -> list[str]:
    """Whether the same seed gave every variant the same data in the same order: by the hash of each run's first batch."""
    drawn = [record for record in records if not _counted(record)]
    if len(_variants(drawn)) < 2:
        return []
    first = {(record.variant, record.seed): _first_batch(record.folder) for record in drawn}
    other = []
    for variant in _variants(drawn):
        of_variant = {seed: batch for (name, seed), batch in first.items() if name == variant}
        base = {seed: batch for (name, seed), batch in first.items() if name == reference.variant}
        if any(batch != base[seed] for seed, batch in of_variant.items() if seed in base):
            other.append(variant)
    if None in first.values():
        return ["The same seed means the same order of data wherever data and batch are the same."]
    same = "The same seed gave every variant the same batches, and the same initial parameters where their shapes agree"
    return [f"{same}, except {' and '.join(other)}, whose batches differ." if other else f"{same}."]


def evaluation(records: Sequence[Record]) -> str:
    """The sample that everything is evaluated on, which does not vary."""
    marks = sorted({str(fingerprint(record))[:12] for record in records})
    parts = {_leaf(record, "eval", "batches") for record in records}
    whole = (
        "the whole validation split" if parts == {None} else "the first batches of the validation split (eval.batches)"
    )
    if len(marks) > 1:
        return f"The evaluation sample differs between runs (data {', '.join(marks)}): their numbers do not compare."
    return (
        f"The evaluation sample does not vary: {whole} of data {marks[0]}. The intervals are over seeds, and do not cover "
        "another choice of evaluated examples."
    )


def judged(metrics: Sequence[str], records: Sequence[Record]) -> list[str]:
    """How `lmjax eval` measured the metrics that are its own; UserError where it was asked otherwise of some runs."""
    names = [metric.removeprefix(EVALUATED) for metric in metrics if metric.startswith(EVALUATED)]
    if not names:
        return []
    first = records[0]
    for record in records:
        if _asked(record, names) != _asked(first, names):
            raise UserError(f"{record.folder} and {first.folder} were evaluated otherwise: {_asked(record, names)} and "
                            f"{_asked(first, names)}; `lmjax eval` them again alike")  # fmt: skip
    return [
        f"{', '.join(EVALUATED + name for name in names)}: by `lmjax eval` at the end of each run, {_asked(first, names)}."
    ]


def _asked(record: Record, names: Sequence[str]) -> str:
    """Over what, with which settings, and computed by what."""
    found = record.evaluation or {}
    settings = [f"{name} {value}" for name, value in found.get("decoding", {}).items()]
    signatures = [text for name, text in found.get("signatures", {}).items() if name in names]
    return "; ".join([f"over {found.get('examples')} {found.get('unit')}", *settings, *dict.fromkeys(signatures)])


def other_tasks(records: Sequence[Record], reference: Record) -> list[str]:
    """Variants whose declared change reaches the evaluated rows: a longer row or other masks are another task."""
    found = []
    for variant in _variants(records):
        record = next(record for record in records if record.variant == variant)
        paths = [path for path, _, _ in changes(reference, record)
                 if path == "eval.batches" or path.startswith("data.") and not path.startswith(TRAINING)]  # fmt: skip
        if paths:
            found.append(f"{variant} changes {', '.join(paths)}, and with it what is evaluated.")
    return found


def early(records: Sequence[Record]) -> list[str]:
    """Runs that ended before their last step."""
    ended = [r for r in records if r.manifest["result"]["step"] < r.config.steps]
    return [f"{r.variant} with seed {r.seed} ended at step {r.manifest['result']['step']} of {r.config.steps}: "
            f"{r.manifest.get('cause') or 'stopped'}." for r in ended]  # fmt: skip


def machines(records: Sequence[Record]) -> list[str]:
    """Code, libraries and devices: once where they agree, and what differs where not."""
    words = sorted({word for record in records for word in codes(record)})
    changed = ", with uncommitted changes that each manifest holds" if any("+" in word for word in words) else ""
    found = [f"Code {', '.join(words)}{changed}."]
    kinds = sorted({_device(record) for record in records})
    libraries = {
        name: sorted({str(record.manifest.get("packages", {}).get(name)) for record in records}) for name in LIBRARIES
    }
    mixed = {name: values for name, values in libraries.items() if len(values) > 1}
    found.append(
        f"{'Device' if len(kinds) == 1 else 'Devices differ'}: {', '.join(kinds)}; JAX {', '.join(libraries['jax'])}."
    )
    if mixed:
        listed = "; ".join(f"{name} {' and '.join(values)}" for name, values in mixed.items())
        found.append(f"Versions of libraries differ between runs: {listed}.")
    return found


def _variants(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(str(record.variant) for record in records))


def _counted(record: Record) -> bool:
    return record.config.model.kind == "ngram"


def _leaf(record: Record, section: str, name: str) -> object:
    """A leaf that older or special configs may lack."""
    found = record.config[section] if section in record.config else {}
    return found[name] if name in found else None


def _device(record: Record) -> str:
    devices = record.manifest.get("devices") or {}
    return f"{devices.get('count', 1)} x {devices.get('kind', 'unknown')}"


def _first_batch(folder: Path) -> str | None:
    """The hash of the first step's rows in chain.jsonl; None where the run has none."""
    path = folder / "chain.jsonl"
    if not path.is_file():
        return None
    with open(path, encoding="utf-8") as lines:
        return json.loads(lines.readline()).get("batch")
