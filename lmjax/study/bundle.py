"""A study in one folder or ZIP file: its table and all that a stranger needs to check it.

```
bundle.json               size and SHA-256 of every other file, and one SHA-256 over them all: the bundle's name
study.json                question, base, variants, baseline, metrics, factors
VARIANT/seedN/            config.json, manifest.json, metrics.jsonl, chain.jsonl of every run, as the runs left them
table.json, table.txt     what the runs amount to, for programs and to read
report.html, .md, ...     the report in all its forms
writers.json              the files of lmjax that wrote these pages, by SHA-256: the same write them again, byte for byte
checkpoints.json          size and SHA-256 of every file of every checkpoint, by run
versions.txt, data.json   the packages that ran, and the data: fingerprints, and how to get them
code/COMMIT.tar, .commit  the code at the commit that ran, and git's text of the commit, which proves it
```
Nothing in it depends on when or where the bundle is made: the same runs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmjax import atomic
from lmjax.config import dumps, loads
from lmjax.errors import UserError
from lmjax.experiment import Experiment
from lmjax.study import archive, rebuilt
from lmjax.study.checks import KINDS, Kind, faults
from lmjax.study.kept import checkpoints_of, fault_of
from lmjax.study.records import Record, collect, folder_of
from lmjax.study.table import Table, refuse, table

FORMAT = "lmjax bundle 1"
LIST = "bundle.json"
OF_RUN = ("config.json", "manifest.json", "metrics.jsonl", "chain.jsonl", "evaluation.json")
DIGITS = 9  # of a number in table.json: the last ones are the processor's and the libraries'


def bundle(
    study: Experiment,
    source: Path,
    workspace: Path,
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    insist: Collection[Kind] = (),
    code: bool = True,
) -> str:
    """Write the bundle of a study's finished runs to `out`, a folder or FILE.zip; its SHA-256.

    `code` False leaves the files of the commit out: its name is in every manifest. UserError for runs that a table is
    refused for (unless of the kinds in `insist`), for a damaged or foreign checkpoint, and where `out` is something already.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    found = collect(study, workspace, seeds)
    if not found:
        raise UserError(f"{workspace} has no finished run of {study.name}: `lmjax sweep {study.name}` makes them")
    refuse(study, faults(study, found), insist)
    for record in found:
        if fault := fault_of(record):
            raise UserError(fault)
    files = contents(study, source, found, insist=insist, code=code)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as staging:
        folder = Path(staging) / "bundle"
        write(folder, files)
        files |= derived(folder)
        files[LIST] = listing(study.name, files)
        if out.suffix == ".zip":
            packed = Path(staging) / "packed"
            packed.write_bytes(archive.pack(files))
            packed.replace(out)
        else:
            write(folder, files)
            if out.is_dir():
                out.rmdir()
            shutil.move(folder, out)
    return json.loads(files[LIST])["sha256"]


def contents(
    study: Experiment, source: Path, found: Sequence[Record], *, insist: Collection[Kind] = (), code: bool = True
) -> dict[str, bytes]:
    """The files of a bundle that come from the runs, by name."""
    files = {"study.json": described(study, insist), "versions.txt": versions(found), "data.json": data_of(found)}
    files["README.md"] = README.format(study=study.name, question=study.question).encode()
    held = {}
    for record in found:
        home = f"{folder_of(record.variant)}/seed{record.seed}"
        files |= {f"{home}/{name}": path.read_bytes() for name in OF_RUN if (path := record.folder / name).is_file()}
        held[home] = checkpoints_of(record.folder)
    files["checkpoints.json"] = _json(held)
    return files | (code_of(found, source) if code else {})


def derived(folder: Path) -> dict[str, bytes]:
    """The files that follow from the others in `folder`: the table and the report, rebuilt from the raw metrics."""
    from lmjax.study import report, wording

    facts = json.loads((folder / "study.json").read_text())
    study = restored(facts)
    found = collect(study, folder)
    made = table(study, found, insist=insisted(facts))
    text = (wording.aligned(made) + "\n").replace(f"{folder}/", "").encode()
    pages = {f"report.{form}": report.render(study, found, made, form) for form in ("html", "md", "tex", "csv")}
    return {"table.json": tabled(made, folder), "table.txt": text, **pages, rebuilt.LIST: rebuilt.writers()}


def insisted(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of faults with which a bundle was made, of its study.json; true or false in early ones."""
    said = facts["insist"]
    return KINDS if said is True else tuple(said or ())


def described(study: Experiment, insist: Collection[Kind] = ()) -> bytes:
    """study.json."""
    return _json({
        "name": study.name, "question": study.question, "base": json.loads(dumps(study.config())),
        "variants": {name: dict(overrides) for name, overrides in study.variants.items()},
        "order": list(study.variants), "seeds": list(study.seeds), "metrics": list(study.metrics),
        "baseline": study.baseline, "factors": {name: list(paths) for name, paths in study.factors.items()},
        "insist": sorted(insist),
    })  # fmt: skip


def restored(facts: Mapping[str, Any]) -> Experiment:
    """The study that study.json describes; it need not be registered."""
    base = json.dumps(facts["base"])
    return Experiment(
        facts["name"], facts["question"], lambda: loads(base),
        {name: facts["variants"][name] for name in facts["order"]}, tuple(facts["seeds"]), tuple(facts["metrics"]),
        facts["baseline"], {name: tuple(paths) for name, paths in facts["factors"].items()},
    )  # fmt: skip


def tabled(made: Table, folder: Path) -> bytes:
    """table.json: all of the table, its numbers to DIGITS digits, its runs by their place in the bundle."""
    rows = [row._asdict() | {"cells": [_cell(cell._asdict()) for cell in row.cells]} for row in made.rows]
    return atomic.dumps(_rounded(made._asdict() | {"rows": rows}, f"{folder}/"), indent=1).encode() + b"\n"


def versions(found: Sequence[Record]) -> bytes:
    """versions.txt: Python and every package as pip takes them; where runs differ, each with the runs' number."""
    seen: dict[str, int] = {}
    for record in found:
        facts = record.manifest
        lines = [f"# Python {facts.get('python')}"] + [f"{k}=={v}" for k, v in facts.get("packages", {}).items()]
        for line in lines:
            seen[line] = seen.get(line, 0) + 1
    lines = [line if seen[line] == len(found) else f"{line}  # of {seen[line]} of {len(found)} runs" for line in seen]
    return ("\n".join(sorted(lines)) + "\n").encode()


def data_of(found: Sequence[Record]) -> bytes:
    """data.json: every set of data that a run read, its fingerprint, and how to get it."""
    from lmjax.data.corpora import CORPORA

    sets = {}
    for record in found:
        facts = record.manifest.get("data") or {}
        names = sorted({name for key, name in _strings(record.config.data) if key == "source"})
        ways = {}
        for name in names:
            corpus = CORPORA.get(name.partition(":")[0])
            if corpus is None:
                ways[name] = (
                    "files that are not part of lmjax: ask the authors; the fingerprint tells if they are the same"
                )
            else:
                ways[name] = (f"lmjax data fetch {name.partition(':')[0]}  ({corpus.package} {corpus.version}; licence: "
                              f"{corpus.licence})")  # fmt: skip
        sets.setdefault(str(facts.get("fingerprint")), {**facts, "obtain": ways})
    return _json(sets)


def code_of(found: Sequence[Record], source: Path) -> dict[str, bytes]:
    """code/COMMIT.tar and code/COMMIT.commit of every commit that a run's code was at; {} of an installed wheel."""
    homes = {"lmjax": Path(__file__).resolve().parent, "experiment": Path(source).resolve().parent}
    files = {}
    for whose, commit in commits(found):
        made = archive.code_at(_root(homes[whose]), commit)
        files |= {f"code/{commit}.tar": made.tar, f"code/{commit}.commit": made.commit}
    return files


def commits(found: Sequence[Record]) -> list[tuple[str, str]]:
    """("lmjax" or "experiment", commit) of all code in git that the runs ran."""
    sessions = [facts for record in found for facts in (record.manifest, *(
        session.get("changed", {}) for session in record.manifest.get("sessions", [])))]  # fmt: skip
    named = {
        (whose, part.get("commit", "unknown")) for facts in sessions for whose, part in facts.get("code", {}).items()
    }
    return sorted(pair for pair in named if pair[1] != "unknown")


def listing(study: str, files: Mapping[str, bytes]) -> bytes:
    """bundle.json."""
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    body = {"format": FORMAT, "study": study, "files": listed}
    return _json(body | {"sha256": hashlib.sha256(_json(body)).hexdigest()})


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _root(folder: Path) -> Path:
    return next((home for home in (folder, *folder.parents) if (home / ".git").exists()), folder)


def _strings(section: Any) -> list[tuple[str, str]]:
    """Every (key, text) of a config section and those within."""
    found = []
    for key, value in section.items():
        if hasattr(value, "items"):
            found += _strings(value)
        elif isinstance(value, str):
            found.append((key, value))
    return found


def _cell(cell: dict) -> dict:
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in cell.items()}


def _rounded(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item, prefix) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item, prefix) for item in value]
    if isinstance(value, str):
        return value.replace(prefix, "")
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


README = """# {study}

{question}

table.txt is what the study found, and table.json the same for programs. Each run is in VARIANT/seedN: its config, its
manifest (code, data, packages, machine), its raw metrics and the hash chain of its steps. `lmjax verify` of this folder
or file checks every hash and rebuilds the tables from the raw metrics, without a network. `lmjax reproduce
VARIANT/seedN` trains a run again and compares it step by step. versions.txt names the packages, data.json the data and
how to get it; code/, where it is, holds the code at the commit that ran.
"""
