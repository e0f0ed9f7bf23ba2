"""Why two runs differ: what their manifests say, weighed by where their chains part. No JAX in here.

A cause can only act where it has a hand. Rows are made by the config, the data, the tokenizer, lmjax and its libraries;
what a step makes of the same rows is decided by the program that was asked for (its StableHLO), and below that by XLA,
its flags and the device. So where the programs are the same, what lies below them is suspected first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lmjax import atomic, chain
from lmjax.config import config_hash, diff, loads
from lmjax.errors import UserError

CAUSES = ("config", "data", "tokenizer", "code", "library", "XLA flags", "HLO", "device kind")
ABOVE = ("config", "tokenizer", "code", "library", "XLA flags", "HLO", "device kind")  # of another program
BELOW = ("XLA flags", "device kind", "library", "code", "config", "tokenizer")  # of the same program
OF_ROWS = ("config", "data", "tokenizer", "code", "library")
NUMERIC = (
    "jax",
    "jaxlib",
    "libtpu",
    "numpy",
    "flax",
    "optax",
    "ml-dtypes",
    "qwix",
    "grain",
    "tokenizers",
    "sentencepiece",
)
NO_MATTER = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "TF_CPP_", "LMJAX_", "PYTHONHASHSEED", "CUDA_VISIBLE")
MOST = 6  # names that a sentence lists


class Evidence(NamedTuple):
    """What a run directory says of itself; `lines` are those of its chain."""

    folder: Path
    config: ConfigDict
    manifest: dict[str, Any]
    lines: list[dict[str, Any]]


class Difference(NamedTuple):
    """One thing that two runs do not share: `cause` is one of CAUSES, `text` says what it was and is."""

    cause: str
    text: str


class Parting(NamedTuple):
    """Where two chains part: the first step that differs, and in what: "batch", "loss", "params" or "length"."""

    step: int
    what: str


def evidence(folder: Path) -> Evidence:
    """Of the run in `folder`; UserError if it is none or its chain was altered."""
    folder = Path(folder)
    try:
        config = loads((folder / "config.json").read_text())
        manifest = atomic.loads((folder / "manifest.json").read_text())
    except OSError as error:
        raise UserError(f"{folder} is no run directory: cannot read {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{folder}/manifest.json is not what lmjax writes: {error}") from None
    return Evidence(folder, config, manifest, chain.read(folder))


def parting(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Parting | None:
    """Where two chains part; None if they are the same as far as both go.

    Of parameters only steps count at which both chains have their hash: every.save may differ.
    """
    b_at = {line["step"]: line for line in b}
    for line in a:
        other = b_at.get(line["step"])
        for what in ("batch", "loss", "params"):
            if other is not None and what in line and what in other and line[what] != other[what]:
                return Parting(line["step"], what)
    return None


def differences(a: Evidence, b: Evidence, until: int | None = None) -> list[Difference]:
    """What of CAUSES differs between two runs, in that order.

    A run of several sessions may have changed on its way: what any session before step `until` had counts.
    """
    found = list(_of_configs(a, b))
    for old in sessions(a.manifest, until):
        for new in sessions(b.manifest, until):
            trained = "data.tokenizer" if _is_trained(a.config) else None
            found += [*_of_data(old, new, trained), *_of_code(old, new), *_of_libraries(old, new), *_of_flags(old, new)]
            found += [*_of_programs(old, new), *_of_devices(old, new)]
    return sorted(dict.fromkeys(found), key=lambda difference: CAUSES.index(difference.cause))


def suspects(parted: Parting, found: Sequence[Difference], same_program: bool) -> list[Difference]:
    """Those of the differences that can make two runs part there, the likeliest first."""
    order = OF_ROWS if parted.what == "batch" else BELOW if same_program else ABOVE
    return sorted((one for one in found if one.cause in order), key=lambda one: order.index(one.cause))


def same_program(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether both manifests name the programs of their steps, and they are the same."""
    return bool(a.get("program")) and a.get("program") == b.get("program")


def sessions(manifest: Mapping[str, Any], until: int | None = None) -> list[dict[str, Any]]:
    """What each session of a run was made with, of those that began before step `until`."""
    found = []
    for session in manifest.get("sessions") or [{}]:
        if until is None or session.get("from_step", 0) < until:
            here = {name: session[name] for name in ("host", "devices", "process_count") if name in session}
            found.append({**manifest, **here, **session.get("changed", {})})
    return found or [dict(manifest)]


def _of_configs(a: Evidence, b: Evidence) -> Iterator[Difference]:
    for one in (a, b):
        sealed = one.manifest.get("config_hash")
        if sealed not in (None, config_hash(one.config)):
            yield Difference("config", f"{one.folder}/config.json was changed after the run: its hash is "
                             f"{config_hash(one.config)[:12]}, the manifest's {sealed[:12]}")  # fmt: skip
    changes = [f"{path} was {json.dumps(old)}, is {json.dumps(new)}" for path, old, new in diff(a.config, b.config)]
    if changes:
        yield Difference("config", _listed(changes))


def _of_data(old: Mapping, new: Mapping, trained: str | None) -> Iterator[Difference]:
    was, now = old.get("data", {}), new.get("data", {})
    rows, words = ({name: (was.get(name), now.get(name)) for name in ("fingerprint", "tokenizer")}).values()
    if words[0] != words[1]:
        by = " (it is trained on the data)" if trained else ""
        yield Difference("tokenizer", f"its fingerprint was {_short(words[0])}, is {_short(words[1])}{by}")
    if rows[0] != rows[1] and (words[0] == words[1] or trained):
        yield Difference("data", f"the fingerprint of {was.get('source')} was {_short(rows[0])}, is {_short(rows[1])}")


def _of_code(old: Mapping, new: Mapping) -> Iterator[Difference]:
    was, now = old.get("sources"), new.get("sources")
    if was and now:
        changed = [name for name in sorted(was.keys() & now.keys()) if was[name] != now[name]]
        if changed:
            at = f"at {_commit(old)} and at {_commit(new)}" if _commit(old) != _commit(new) else "not committed"
            yield Difference("code", f"lmjax/{_listed(changed)} ({at})")
    elif _code(old, "lmjax") != _code(new, "lmjax"):
        yield Difference("code", f"lmjax was {_commit(old)}, is {_commit(new)}")
    own = [None if _of_record(facts) else _code(facts, "experiment") for facts in (old, new)]
    if None not in own and own[0] != own[1]:
        yield Difference("code", "the experiment's own files have changed")


def _of_libraries(old: Mapping, new: Mapping) -> Iterator[Difference]:
    was, now = old.get("packages", {}), new.get("packages", {})
    names = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name) and name != "lmjax"]
    names = [name for name in names if name in NUMERIC or (name in was and name in now)]
    names.sort(key=lambda name: (NUMERIC.index(name) if name in NUMERIC else len(NUMERIC), name))
    changes = [f"{name} was {was.get(name, 'not there')}, is {now.get(name, 'not there')}" for name in names]
    if old.get("python") != new.get("python"):
        changes.append(f"Python was {old.get('python')}, is {new.get('python')}")
    if changes:
        yield Difference("library", _listed(changes))


def _of_flags(old: Mapping, new: Mapping) -> Iterator[Difference]:
    was, now = flags(old), flags(new)
    changes = [f"{name} was {was.get(name, 'not set')}, is {now.get(name, 'not set')}"
               for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]  # fmt: skip
    if changes:
        yield Difference("XLA flags", _listed(changes))


def flags(facts: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a manifest that can change a number; the flags in XLA_FLAGS one by one."""
    found = {}
    for name, value in facts.get("flags", {}).items():
        if name == "XLA_FLAGS":
            found |= {flag.partition("=")[0]: flag.partition("=")[2] or "true" for flag in value.split()}
        elif not name.startswith(NO_MATTER):
            found[name] = value
    return found


def _of_programs(old: Mapping, new: Mapping) -> Iterator[Difference]:
    was, now = old.get("program") or {}, new.get("program") or {}
    changed = [width for width in sorted(was.keys() & now.keys()) if was[width] != now[width]]
    if changed:
        width = changed[0]
        yield Difference("HLO", f"the lowered step was {was[width][:12]}, is {now[width][:12]}")


def _of_devices(old: Mapping, new: Mapping) -> Iterator[Difference]:
    changes = []
    for section, name, what in (
        ("devices", "platform", "platform"), ("devices", "kind", "device"), ("devices", "count", "devices"),
        ("host", "processor", "processor"), ("host", "usable_cpus", "CPUs to use"),
    ):  # fmt: skip
        was, now = old.get(section, {}).get(name), new.get(section, {}).get(name)
        on_host = section == "host" and "cpu" not in (old.get("devices", {}).get("platform"), None)
        if None not in (was, now) and was != now and not on_host:
            changes.append(f"{what}: was {was}, is {now}")
    was, now = old.get("process_count", 1), new.get("process_count", 1)
    changes += [f"processes: was {was}, is {now}"] if was != now else []
    if changes:
        yield Difference("device kind", _listed(changes))


def _is_trained(config: ConfigDict) -> bool:
    from lmjax.data.tokenizers import TRAINED

    return config.data.tokenizer in TRAINED


def _code(facts: Mapping[str, Any], whose: str) -> tuple | None:
    found = facts.get("code", {}).get(whose)
    return found and tuple(found.get(name) for name in ("commit", "diff_sha256", "sha256", "record_sha256"))


def _of_record(facts: Mapping[str, Any]) -> bool:
    """Whether a run began from a run directory's config.json: that is no code, and configs are compared as such."""
    return Path(facts.get("code", {}).get("experiment", {}).get("file", "")).name == "config.json"


def _commit(facts: Mapping[str, Any]) -> str:
    found = facts.get("code", {}).get("lmjax", {})
    return _short(found.get("commit")) + (" with changes" if found.get("dirty") else "")


def _short(value: str | None) -> str:
    return str(value)[:12]


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
