"""Whether a bundle is what was made: every hash, every run, the code, and the tables from the raw metrics. No network."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lmjax.errors import UserError
from lmjax.study import archive, checks, rebuilt
from lmjax.study.bundle import LIST, commits, data_of, derived, insisted, listing, restored, versions, write
from lmjax.study.kept import stranger
from lmjax.study.records import Record, collect, read


class Verified(NamedTuple):
    """What was found. `sha256`: the bundle's name, to compare with the one that its authors gave; no faults: it holds.

    `pages`: whether its pages were made again too, byte for byte; other code than wrote them may word them otherwise.
    """

    study: str
    sha256: str
    files: int
    runs: int
    faults: tuple[str, ...]
    pages: bool


def verify(path: Path, runs: Path | None = None) -> Verified:
    """Check the bundle at `path`, a folder or ZIP file; `runs` is a workspace whose checkpoints are checked against it.

    UserError where there is no bundle; all that is wrong with one is in `faults`, each naming the file.
    """
    if runs is not None and not runs.is_dir():
        raise UserError(f"--runs={runs} is no folder: it is the workspace that the bundle was made from")
    files, faults = files_of(path)
    if LIST not in files:
        raise UserError(f"{path} is no bundle: it has no {LIST}; `lmjax bundle STUDY` makes one")
    faults += _changed(files)
    study, sha256, found, pages = path.name, "unknown", [], False
    try:
        listed = json.loads(files[LIST])
        study, sha256 = str(listed["study"]), str(listed["sha256"])
    except (ValueError, KeyError, TypeError):
        pass  # _changed has said so
    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging)
        write(folder, files)
        try:
            found, more, pages = _meaning(folder, files)
            faults += more
            if runs is not None:
                faults += _checkpoints(json.loads(files["checkpoints.json"]), runs)
        except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(str(error) if isinstance(error, UserError) else f"the bundle cannot be read: {error!r}")
        faults = [fault.replace(f"{folder}/", "") for fault in faults]
    return Verified(study, sha256, len(files), len(found), tuple(dict.fromkeys(faults)), pages)


def files_of(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Every file of a bundle by name, and what is wrong with how they are kept: a damaged ZIP file, a folder of nothing.

    UserError for what is neither a folder nor a whole ZIP file.
    """
    try:
        if path.is_dir():
            inside = sorted(path.rglob("*"))
            empty = [f"{one.relative_to(path)} was added: it is an empty folder" for one in inside
                     if one.is_dir() and not any(one.iterdir())]  # fmt: skip
            files = (one for one in inside if one.is_file() or one.is_symlink())
            return {one.relative_to(path).as_posix(): one.read_bytes() for one in files}, empty
        return archive.unpack(path.read_bytes(), path.name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _changed(files: Mapping[str, bytes]) -> Iterator[str]:
    """Files that are not as bundle.json lists them."""
    try:
        listed = json.loads(files[LIST])
        names = {name: (entry["bytes"], entry["sha256"]) for name, entry in listed["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"{LIST} was changed: it is not a list of files any more"
        return
    own = {name: data for name, data in files.items() if name != LIST}
    for name in sorted(names.keys() | own.keys()):
        if name not in own:
            yield f"{name} is missing"
        elif name not in names:
            yield f"{name} was added: {LIST} does not list it"
        elif (len(own[name]), hashlib.sha256(own[name]).hexdigest()) != names[name]:
            yield f"{name} was changed: it does not have the SHA-256 that {LIST} lists"
    if files[LIST] != listing(str(listed.get("study")), own):
        yield f"{LIST} does not list the files as they are" if names.keys() == own.keys() else f"{LIST} is out of date"


def _meaning(folder: Path, files: Mapping[str, bytes]) -> tuple[list[Record], list[str], bool]:
    """The runs, what is wrong with them or with what is said of them, and whether the pages were made again."""
    facts = json.loads(files["study.json"])
    study, faults = restored(facts), []
    for manifest in sorted(folder.glob("*/seed*/manifest.json")):
        try:
            read(manifest.parent)
        except UserError as error:
            faults.append(str(error))
    if faults:
        return [], faults, False
    found = collect(study, folder)
    faults += [fault.message for fault in checks.faults(study, found) if fault.kind not in insisted(facts)]
    faults += _code(files, found)
    if faults:
        return found, faults, False
    again = derived(folder)
    faults += rebuilt.faults(files, again)
    if files.get("versions.txt") != versions(found):
        faults.append("versions.txt does not name the packages that the manifests name")
    if _read(files.get("data.json", b"{}")) != _read(data_of(found)):
        faults.append("data.json does not name the data that the manifests name")
    return found, faults, rebuilt.same_pages(files, again)


def _read(data: bytes) -> dict[str, dict]:
    """What data.json says was read; how to obtain it may be said otherwise by a later lmjax."""
    return {name: {key: value for key, value in facts.items() if key != "obtain"}
            for name, facts in json.loads(data).items()}  # fmt: skip


def _code(files: Mapping[str, bytes], found: list[Record]) -> Iterator[str]:
    """Archives of code that are not those of the commits which the manifests name."""
    named = {commit for _, commit in commits(found)}
    held = {name.split("/")[1].rpartition(".")[0] for name in files if name.startswith("code/")}
    for commit in sorted(held):
        tar, text = (files.get(f"code/{commit}.{kind}") for kind in ("tar", "commit"))
        if commit not in named:
            yield f"code/{commit[:12]} is the code of another commit than the runs': {', '.join(sorted(named))[:100]}"
        elif tar is None or text is None:
            yield f"code/{commit[:12]} is not whole: it is a .tar and a .commit"
        elif fault := archive.code_fault(commit, archive.Code(text, tar)):
            yield f"code/{commit[:12]}.tar: {fault}"
    if held and named - held:
        yield f"the code of {', '.join(sorted(named - held))[:100]}, which runs here ran, is missing"


def _checkpoints(listed: Mapping[str, Mapping[str, Mapping]], runs: Path) -> Iterator[str]:
    """Checkpoints in a workspace that are not those of which the bundle has the hashes."""
    for home, slots in listed.items():
        for slot, names in slots.items():
            place = Path(runs) / home / "checkpoints" / slot
            for name, entry in names.items():
                file = place / name
                if not file.is_file():
                    yield f"{file} is missing"
                elif hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
                    yield f"{file} is not the bundle's: the checkpoint was changed or swapped for another"
        if (Path(runs) / home / "manifest.json").is_file() and (fault := _own(Path(runs) / home)):
            yield fault


def _own(folder: Path) -> str:
    try:
        return stranger(read(folder))
    except UserError as error:
        return str(error)
