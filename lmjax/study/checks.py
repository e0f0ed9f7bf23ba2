"""What makes the runs of a study no measurement of its variants: each fault is named, with the runs that show it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lmjax.config import ABSENT, config_hash, diff, flatten
from lmjax.experiment import Experiment
from lmjax.study.records import Record, study_of

Kind = Literal["stranger", "altered", "duplicate", "mislabelled", "hidden", "evaluation", "code"]
NEUTRAL = ("seed", "data.workers")  # leaves in which the runs of a study may differ


class Fault(NamedTuple):
    """Something that a table of these runs would hide. `variants`: those whose numbers it spoils."""

    kind: Kind
    variants: tuple[str, ...]
    message: str


def faults(study: Experiment, records: Sequence[Record]) -> list[Fault]:
    """Everything wrong with `records` as the runs of a study; [] of sound ones."""
    strange = list(_strangers(study, records))
    own = [record for record in records if study_of(record) == study.name and record.variant in study.names()]
    found = [*strange, *_altered(own), *_duplicates(own), *_mislabelled(study, own)]
    reference = reference_of(study, own)
    if reference is not None:
        found += [*_hidden(study, own, reference), *_evaluation(own, reference), *_code(own)]
    return found


def reference_of(study: Experiment, records: Sequence[Record]) -> Record | None:
    """The run whose config the others are compared with: of the baseline, or the first if it has none."""
    of_baseline = [record for record in records if record.variant == study.baseline]
    return next(iter([*of_baseline, *records]), None)


def changes(reference: Record, record: Record) -> list[tuple[str, object, object]]:
    """(path, value in the reference, value here) of every leaf that differs and matters."""
    return [row for row in diff(reference.config, record.config) if row[0] not in NEUTRAL]


def codes(record: Record) -> list[str]:
    """The code of each session of a run, in a word: 1f0c9a4b2d33, 1f0c9a4b2d33+5e2a99c1 with uncommitted changes."""
    return codes_in(record.manifest)


def codes_in(facts: Mapping[str, Any]) -> list[str]:
    """The same of a manifest, of a run that need not be finished."""
    versions = [facts.get("code")] + [session.get("changed", {}).get("code") for session in facts.get("sessions", [])]
    return list(dict.fromkeys(word(code) for code in versions if code))


def word(code: Mapping[str, Any]) -> str:
    """lmjax's code and, where it lives elsewhere, the experiment's."""
    return " and ".join(_one(code[name]) for name in sorted(code, reverse=True))


def _strangers(study: Experiment, records: Sequence[Record]) -> Iterator[Fault]:
    for record in records:
        name = record.manifest.get("experiment")
        if study_of(record) != study.name:
            yield Fault("stranger", (), f"{record.folder} is a run of another study: {name}, not of {study.name}")
        elif record.variant not in study.names():
            yield Fault(
                "stranger", (), f"{record.folder} is a run of {name}, a variant that {study.name} does not have"
            )


def _altered(records: Sequence[Record]) -> Iterator[Fault]:
    for record in records:
        found, said = config_hash(record.config), str(record.manifest.get("config_hash"))
        if found != said:
            text = f"{record.folder}: the config has the hash {found[:12]}, and the manifest says {said[:12]}"
            yield Fault("altered", (record.variant,), text)


def _duplicates(records: Sequence[Record]) -> Iterator[Fault]:
    """A cell twice, or a run that is a copy of another under a new seed: clocks never agree to the last digit."""
    cells: dict[tuple, Record] = {}
    logs: dict[str, Record] = {}
    params: dict[tuple, Record] = {}
    for record in records:
        first = cells.setdefault((record.variant, record.seed), record)
        if first is not record:
            text = f"{record.folder} and {first.folder} both are {record.variant} with seed {record.seed}: a duplicated seed"
            yield Fault("duplicate", (record.variant,), text)
            continue
        first = logs.setdefault(repr(record.history), record)
        if first is record and record.config.model.kind != "ngram":  # counts are the same with every seed
            sha = record.manifest["result"].get("params_sha256")
            first = params.setdefault((record.variant, sha), record)
        if first is not record:
            text = f"{record.folder} is a copy of {first.folder}: a seed that is there twice is no second measurement"
            yield Fault("duplicate", (record.variant,), text)


def _mislabelled(study: Experiment, records: Sequence[Record]) -> Iterator[Fault]:
    """Runs without what their variant declares: the study was edited since, or the command line had it otherwise."""
    declared = {name: flatten(study.config(name)) for name in {record.variant for record in records}}
    for record in records:
        leaves, wanted = flatten(record.config), declared[record.variant]
        for path in wanted:
            if _within(path, study.factor(record.variant)) and leaves.get(path, ABSENT) != wanted[path]:
                text = (f"{record.folder} has {path}={leaves.get(path, ABSENT)}, and {record.variant} of {study.name} is "
                        f"{path}={wanted[path]}")  # fmt: skip
                yield Fault("mislabelled", (record.variant,), text)


def _hidden(study: Experiment, records: Sequence[Record], reference: Record) -> Iterator[Fault]:
    allowed = study.factor(reference.variant)
    for record in records:
        factor = study.factor(record.variant)
        extra = [row for row in changes(reference, record) if not _within(row[0], (*factor, *allowed))]
        if extra:
            listed = ", ".join(f"{path} from {old} to {new}" for path, old, new in extra)
            declares = f"besides {', '.join(factor)}" if factor else "although the base changes nothing"
            text = f"{record.folder} has a hidden second change: {listed}, {declares} (against {reference.folder})"
            yield Fault("hidden", (record.variant,), text)


def _evaluation(records: Sequence[Record], reference: Record) -> Iterator[Fault]:
    expected = fingerprint(reference)
    for record in records:
        if fingerprint(record) != expected:
            text = (f"{record.folder} was evaluated on other data than {reference.folder}: fingerprint "
                    f"{str(fingerprint(record))[:12]}, not {str(expected)[:12]}")  # fmt: skip
            yield Fault("evaluation", (record.variant,), text)


def _code(records: Sequence[Record]) -> Iterator[Fault]:
    """All sessions of all runs ran the same code: the same commit, and the same changes to it."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        for word in codes(record):
            runs.setdefault(word, []).append(record)
    if len(runs) > 1:
        usual = max(runs, key=lambda word: len(runs[word]))
        for word in (word for word in runs if word != usual):
            names = ", ".join(str(record.folder) for record in runs[word][:5])
            more = f" and {len(runs[word]) - 5} more" if len(runs[word]) > 5 else ""
            variants = tuple(dict.fromkeys(record.variant for record in runs[word]))
            text = (f"mixed commits: {names}{more} ran at {word}, and {len(runs[usual])} others at {usual} (+: uncommitted "
                    "changes)")  # fmt: skip
            yield Fault("code", variants, text)


def fingerprint(record: Record) -> str | None:
    """Of the contents of both splits, the tokenizer and the labels."""
    return (record.manifest.get("data") or {}).get("fingerprint")


def _within(path: str, parts: Sequence[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _one(part: dict[str, Any]) -> str:
    commit = str(part.get("commit", "unknown"))
    if commit == "unknown":
        return str(part.get("version") or "file") + ":" + str(part.get("record_sha256") or part.get("sha256"))[:8]
    if not part.get("dirty"):
        return commit[:12]
    others = sorted(f"{name} {file.get('sha256')}" for name, file in (part.get("untracked") or {}).items())
    return f"{commit[:12]}+{_short([part.get('diff_sha256'), others])}"


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
