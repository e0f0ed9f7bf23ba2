"""What makes the runs of a study no measurement of its variants: each fault is named, with the runs that show it."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from ml_collections import ConfigDict

from lmjax.config import ABSENT, config_hash, diff, flatten, override
from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.smoke import smoke
from lmjax.study.records import Record, study_of

Kind = Literal["stranger", "altered", "duplicate", "mislabelled", "outdated", "hidden", "evaluation", "code"]
KINDS = get_args(Kind)
NEUTRAL = ("seed", "data.workers")  # leaves in which the runs of a study may differ
Declared = tuple[ConfigDict, list[tuple[str, object, object]]]


class Fault(NamedTuple):
    """Something that a table of these runs would hide. `variants`: those whose numbers it spoils."""

    kind: Kind
    variants: tuple[str, ...]
    message: str


def faults(study: Experiment, records: Sequence[Record]) -> list[Fault]:
    """Everything wrong with `records` as the runs of a study; [] of sound ones."""
    strange = list(_strangers(study, records))
    own = [record for record in records if study_of(record) == study.name and record.variant in study.names()]
    config = functools.cache(study.config)
    known = [(record, declared(record, config(record.variant))) for record in own]
    found = [*strange, *_altered(own), *_duplicates(own), *_mislabelled(study, known)]
    reference = reference_of(study, own)
    if reference is not None:
        found += [
            *_hidden(study, own, reference),
            *_outdated(study, known, reference),
            *_evaluation(own, reference),
            *_code(own),
        ]
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
    return list(dict.fromkeys(map(word, versions(facts))))


def versions(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The code of each session of a run, as its manifest has it."""
    found = [facts.get("code")] + [session.get("changed", {}).get("code") for session in facts.get("sessions", [])]
    return [code for code in found if code]


def telling(versions: Sequence[Mapping[str, Any]], configs: Sequence[ConfigDict]) -> Callable[[Mapping], str]:
    """What tells the code of these runs apart: the commits and the package lmjax, and where that is too little all changes.

    What is not committed outside of the package makes configs at most, which are compared as such; but parts that a
    config names by "module:attribute" may be anywhere, and old manifests do not know the package's hash.
    """
    if all(map(package, versions)) and not any(map(names_own_parts, configs)):
        return lambda code: f"{' '.join(str(code[name].get('commit')) for name in sorted(code))} {package(code)}"
    return word


def package(code: Mapping[str, Any]) -> str | None:
    """The hash of the package lmjax; None in manifests from before it was noted."""
    return (code.get("lmjax") or {}).get("package_sha256")


def names_own_parts(config: ConfigDict) -> bool:
    """Whether a leaf names code outside of lmjax; that which gives data is left out, for all its rows are hashed."""
    texts = [
        text for path, value in flatten(config).items()
        if not (path.startswith("data.") and path.endswith(("source", "sources")))
        for text in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(text, str)
    ]  # fmt: skip
    return any(re.fullmatch(r"(?!lmjax\.)[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) for text in texts)


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


def _mislabelled(study: Experiment, known: Sequence[tuple[Record, Declared]]) -> Iterator[Fault]:
    """Runs without what their variant declares: the study was edited since, or the command line had it otherwise."""
    for record, (config, _) in known:
        leaves, wanted = flatten(record.config), flatten(config)
        for path in wanted:
            if _within(path, study.factor(record.variant)) and leaves.get(path, ABSENT) != wanted[path]:
                text = (f"{record.folder} has {path}={leaves.get(path, ABSENT)}, and {record.variant} of {study.name} is "
                        f"{path}={wanted[path]}")  # fmt: skip
                yield Fault("mislabelled", (record.variant,), text)


def _outdated(study: Experiment, known: Sequence[tuple[Record, Declared]], reference: Record) -> Iterator[Fault]:
    """Runs whose config, apart from their own overrides, the study does not give any more: it was edited since.

    A leaf that runs or study lack came or went with another lmjax, of which the manifests tell.
    """
    held: dict[str, list[Record]] = {}
    for record, (_, otherwise) in known:
        told = (*study.factor(record.variant), *(path for path, _, _ in secrets(study, record, reference)))
        rows = [row for row in otherwise if not _within(row[0], told) and ABSENT not in row[1:]]
        if rows:
            more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
            said = ", ".join(f"{path}={old} (the study says {new})" for path, old, new in rows[:4]) + more
            held.setdefault(said, []).append(record)
    for said, some in held.items():
        variants = tuple(dict.fromkeys(record.variant for record in some))
        yield Fault("outdated", variants, f"{study.name} has changed since {_named(some)} ran with {said}")


def declared(record: Record, whole: ConfigDict) -> Declared:
    """The config `whole` that a study as it is now gives a run's variant, or its small version if the run is a smoke run's.

    With it the leaves that the run has otherwise: (path, value in the run, value by the study with the run's overrides).
    """
    last = [session["changed"]["overrides"] for session in record.manifest.get("sessions", [])
            if "overrides" in session.get("changed", {})][-1:]  # fmt: skip
    texts = (last or [record.manifest.get("overrides") or []])[0]
    found = []
    for make in (lambda: whole, lambda: smoke(whole)):
        config = make()
        try:
            wanted = override(config, texts)
        except UserError:
            wanted = config  # a leaf that was overridden is not there any more: the difference says which
        found.append((config, [row for row in diff(record.config, wanted) if row[0] not in NEUTRAL]))
        if not found[-1][1]:
            break
    return min(found, key=lambda one: len(one[1]))


def _hidden(study: Experiment, records: Sequence[Record], reference: Record) -> Iterator[Fault]:
    for record in records:
        factor, extra = study.factor(record.variant), secrets(study, record, reference)
        if extra:
            listed = ", ".join(f"{path} from {old} to {new}" for path, old, new in extra)
            declares = f"besides {', '.join(factor)}" if factor else "although the base changes nothing"
            text = f"{record.folder} has a hidden second change: {listed}, {declares} (against {reference.folder})"
            yield Fault("hidden", (record.variant,), text)


def secrets(study: Experiment, record: Record, reference: Record) -> list[tuple[str, object, object]]:
    """What a run changes in the reference besides the factors that both declare."""
    allowed = (*study.factor(record.variant), *study.factor(reference.variant))
    return [row for row in changes(reference, record) if not _within(row[0], allowed)]


def _evaluation(records: Sequence[Record], reference: Record) -> Iterator[Fault]:
    expected = fingerprint(reference)
    for record in records:
        if fingerprint(record) != expected:
            text = (f"{record.folder} was evaluated on other data than {reference.folder}: fingerprint "
                    f"{str(fingerprint(record))[:12]}, not {str(expected)[:12]}")  # fmt: skip
            yield Fault("evaluation", (record.variant,), text)


def _code(records: Sequence[Record]) -> Iterator[Fault]:
    """Runs with a session of another code than most have."""
    ran = [(record, code) for record in records for code in versions(record.manifest)]
    key = telling([code for _, code in ran], [record.config for record in records])
    packages = {package(code) for _, code in ran}
    same = "; the package lmjax is the same in all" if len(packages) == 1 and None not in packages else ""
    runs: dict[str, list[Record]] = {}
    for record, code in ran:
        runs.setdefault(key(code), []).append(record)
    usual = max(runs, key=lambda one: len(runs[one]), default=None)
    words = {key(code): word(code) for _, code in ran}
    for other in (one for one in runs if one != usual):
        variants = tuple(dict.fromkeys(record.variant for record in runs[other]))
        text = (f"mixed commits: {_named(runs[other])} ran at {words[other]}, and {len(runs[usual])} others at "
                f"{words[usual]} (+: uncommitted changes){same}")  # fmt: skip
        yield Fault("code", variants, text)


def _named(records: Sequence[Record]) -> str:
    more = f" and {len(records) - 5} more" if len(records) > 5 else ""
    return ", ".join(str(record.folder) for record in records[:5]) + more


def fingerprint(record: Record) -> str | None:
    """Of the contents of both splits, the tokenizer and the labels."""
    return (record.manifest.get("data") or {}).get("fingerprint")


def _within(path: str, parts: Sequence[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _one(part: dict[str, Any]) -> str:
    commit = str(part.get("commit", "unknown"))
    if commit == "unknown":
        sha256 = part.get("record_sha256") or part.get("package_sha256") or part.get("sha256")
        return str(part.get("version") or "file") + ":" + str(sha256)[:8]
    if not part.get("dirty"):
        return commit[:12]
    others = sorted(f"{name} {file.get('sha256')}" for name, file in (part.get("untracked") or {}).items())
    return f"{commit[:12]}+{_short([part.get('diff_sha256'), others])}"


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
