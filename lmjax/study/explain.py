"""What differs between two runs or configs, in words: settings, code, data, machine, results, and where each is from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lmjax import atomic
from lmjax.config import ABSENT, config_hash, diff
from lmjax.experiment import find
from lmjax.history import History
from lmjax.study import causes, checks
from lmjax.study.causes import Evidence
from lmjax.study.records import Record

MEANS = {  # of a leaf or section, where its name does not say all
    "seed": "another draw: initial parameters, order of the data, dropout",
    "every": "when it logs, evaluates and saves; the training is the same",
    "eval": "how it is measured; the training is the same",
    "data.workers": "who reads the data; the rows are the same",
    "data.source": "other data: losses do not compare",
    "data.tokenizer": "other tokens: losses per token do not compare",
    "data.valid_fraction": "another validation split: what is measured on it does not compare",
    "start": "begins from other parameters",
    "eval.patience": "when it stops by itself",
    "layout": "how it is spread over devices; equal up to rounding",
}
OF_CLOCKS = "perf/"
DEEPEST = 20  # runs in a line of descent


class Side(NamedTuple):
    """One of the two. `evidence` is None of a config that is not of a run directory."""

    name: str
    config: ConfigDict
    evidence: Evidence | None


class Explanation(NamedTuple):
    """All that differs, and where both come from. `changes`: (path, in A, in B, what that means, "" if it needs none).

    `causes` are those of two runs besides the config; `results`: (metric, A, B) of those that differ.
    """

    a: str
    b: str
    changes: tuple[tuple[str, object, object, str], ...]
    causes: tuple[causes.Difference, ...]
    chain: str
    results: tuple[tuple[str, object, object], ...]
    lineage: tuple[tuple[str, ...], ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs, neither in what they were made with nor in what came of it."""
        return not (self.changes or self.causes or self.results) and "differ" not in self.chain


def side(text: str) -> Side:
    """A run directory, a study, its variant, or a config function; UserError for what is none of them."""
    found = find(text)
    is_run = found.source_file.name == "config.json" and (found.source_file.parent / "manifest.json").is_file()
    return Side(text, found.config, causes.evidence(found.source_file.parent) if is_run else None)


def explain(a: Side, b: Side) -> Explanation:
    """What differs between two sides; of two configs, or a run and a config, the config alone."""
    changes = tuple((path, old, new, meaning(path)) for path, old, new in diff(a.config, b.config))
    lines = tuple(tuple(lineage(one)) for one in (a, b))
    if a.evidence is None or b.evidence is None:
        return Explanation(a.name, b.name, changes, (), "", (), lines)
    besides = tuple(one for one in causes.differences(a.evidence, b.evidence) if one.cause != "config")
    altered = tuple(causes.Difference("config", text) for one in (a, b) if (text := _altered(one)))
    return Explanation(a.name, b.name, changes, altered + besides, chained(a.evidence, b.evidence),
                       tuple(results(a.evidence, b.evidence)), lines)  # fmt: skip


def meaning(path: str) -> str:
    """What it means that a leaf differs; "" where its name says it."""
    parts = path.split(".")
    return next((MEANS[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in MEANS), "")


def chained(a: Evidence, b: Evidence) -> str:
    """How far two runs took the same steps."""
    common = {line["step"] for line in a.lines} & {line["step"] for line in b.lines}
    parted = causes.parting(a.lines, b.lines)
    if not common:
        return "no steps to compare: chain.jsonl of one or both is empty or not there"
    if parted is None:
        return f"the same steps, bit for bit, up to {max(common)}"
    if parted.step == min(common):
        return f"the {parted.what} differ from the first step on" if parted.what == "params" else (
            f"the {parted.what} differs from the first step on")  # fmt: skip
    return f"the same steps, bit for bit, up to {parted.step - 1}; at {parted.step} the {parted.what} differs"


def results(a: Evidence, b: Evidence) -> Iterator[tuple[str, object, object]]:
    """The last value of every metric that differs, clocks left out, and the step that each run has reached."""
    first, second = (latest(one) for one in (a, b))
    for name in sorted(first.keys() | second.keys(), key=lambda name: (name != "step", name)):
        if not name.startswith(OF_CLOCKS) and repr(first.get(name)) != repr(second.get(name)):
            yield name, first.get(name), second.get(name)


def latest(one: Evidence) -> dict[str, Any]:
    """The last of every metric of a run, and its step."""
    found: dict[str, Any] = {}
    for line in History(one.folder / "metrics.jsonl").read():
        found |= line
    return found


def lineage(one: Side) -> list[str]:
    """Where a side is from, a line each: its config, its sessions, and the runs that its parameters began from."""
    if one.evidence is None:
        return [f"config {config_hash(one.config)[:12]}"]
    lines, evidence, seen = [], one.evidence, set()
    while evidence is not None and len(seen) < DEEPEST:
        seen.add(str(evidence.folder.absolute()))
        lines += told(evidence)
        start = evidence.manifest.get("start")
        evidence = None
        if isinstance(start, dict):
            lines.append(f"began from step {start.get('step')} of {start.get('run')}")
            evidence = _ancestor(str(start.get("run")), seen)
            lines += [] if evidence else ["  which is not here any more, or is the same again"]
    return lines


def told(evidence: Evidence) -> list[str]:
    """A run and its sessions."""
    facts = evidence.manifest
    record = Record(evidence.folder, None, 0, evidence.config, facts, [], {}, None)
    code = ", then ".join(checks.codes(record)) or "unknown"
    lines = [f"{evidence.folder}: {facts.get('experiment')}, config {str(facts.get('config_hash'))[:12]}, code {code}, "
             f"{facts.get('status')}"]  # fmt: skip
    for number, session in enumerate(facts.get("sessions", []), 1):
        changed = ", ".join(sorted(session.get("changed", {})))
        lines.append(
            f"  session {number}: from step {session.get('from_step')}, {session.get('started')}, on "
            f"{session.get('host', {}).get('name')}, {session.get('status')}"
            + (f" ({session['cause']})" if session.get("cause") else "")
            + (f"; changed: {changed}" if changed else "")
        )
    return lines


def text(found: Explanation) -> list[str]:
    """The explanation as lines."""
    if found.same:
        lines = [f"A {found.a} and B {found.b}: nothing differs"]
    else:
        lines = [f"A {found.a}", f"B {found.b}", ""]
    if found.changes:
        lines.append("config")
        width = max(len(row[0]) for row in found.changes)
        for path, old, new, means in found.changes:
            lines.append(
                f"  {path:<{width}}  {word(old)} -> {word(new)}{ratio(old, new)}" + (f"   {means}" if means else "")
            )
    elif not found.same:
        lines.append("config: the same")
    for one in found.causes:
        lines.append(f"{one.cause}: {one.text}")
    if found.chain:
        lines.append(f"steps: {found.chain}")
    if found.results:
        lines.append("results")
        width = max(len(row[0]) for row in found.results)
        for name, old, new in found.results:
            lines.append(f"  {name:<{width}}  {word(old)} -> {word(new)}{gap(old, new)}")
    for letter, told_lines in zip("AB", found.lineage, strict=True):
        lines += [f"lineage of {letter}", *(f"  {line}" for line in told_lines)]
    return lines


def as_json(found: Explanation) -> str:
    """The explanation for programs."""
    facts = found._asdict() | {"same": found.same, "causes": [one._asdict() for one in found.causes]}
    facts["changes"] = [[path, _plain(old), _plain(new), means] for path, old, new, means in found.changes]
    facts["results"] = [[name, _plain(old), _plain(new)] for name, old, new in found.results]
    return atomic.dumps(facts, indent=1)


def word(value: object) -> str:
    """A value as tables show it."""
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def ratio(old: object, new: object) -> str:
    """(x 3) where both are positive numbers."""
    numbers = all(type(value) in (int, float) and value > 0 for value in (old, new))
    return f"  (x {new / old:.3g})" if numbers else ""


def gap(old: object, new: object) -> str:
    """(+0.01) where both are numbers."""
    numbers = all(type(value) in (int, float) for value in (old, new))
    return f"  ({new - old:+.4g})" if numbers else ""


def _plain(value: object) -> object:
    return None if value is ABSENT else value


def _altered(one: Side) -> str:
    sealed = one.evidence.manifest.get("config_hash")
    own = config_hash(one.config)
    return "" if sealed in (None, own) else f"config.json of {one.name} was altered: {own[:12]}, sealed {sealed[:12]}"


def _ancestor(folder: str, seen: set[str]) -> Evidence | None:
    path = Path(folder)
    if str(path.absolute()) in seen or not (path / "manifest.json").is_file():
        return None
    return causes.evidence(path)
