"""Records out of text files, tables and pairs of files: all of them, in pieces, and what is none is named."""

import csv
import json
import pickle
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import readers, text
from lmjax.data.readers import lines, tables
from lmjax.data.readers import pairs as two_files
from lmjax.data.records import BadRecord
from lmjax.errors import UserError

VERSES = [f'And the {n}th line said, "go";\nthen 字{n}\t🙂 it ended.' for n in range(400)]


def everything(path, kind="text", columns=None):
    found = readers.find(path, kind, columns)
    return [record for piece in readers.pieces(found) for record in readers.read(found, piece)]


def bad(records):
    return [record for record in records if isinstance(record, BadRecord)]


def write_table(path, rows, header=("text",)):
    """Rows of strings in the format of the path's suffix."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
        pq.write_table(pa.table(columns), path, row_group_size=37)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter=tables.DELIMITERS[path.suffix])
            writer.writerows([header, *rows])


@pytest.fixture
def small_pieces(monkeypatch):
    for module in (lines, tables, two_files):
        monkeypatch.setattr(module, "SIZE", 1500)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("kind", ["text", "pairs", "labels"])
def test_a_table_gives_its_rows_whatever_the_pieces(tmp_path, small_pieces, suffix, kind):
    header = {"text": ["text"], "pairs": ["source", "target"], "labels": ["text", "label"]}[kind]
    rows = [(verse, f"other {verse}")[: len(header)] for verse in VERSES]
    write_table(tmp_path / f"a{suffix}", [(*row, "x") for row in rows], (*header, "more"))
    found = readers.find(tmp_path, kind)
    pieces = readers.pieces(found)
    assert len(pieces) > 5
    expected = [dict(zip(header, row, strict=True)) for row in rows]
    read = {piece: list(readers.read(pickle.loads(pickle.dumps(found)), piece)) for piece in reversed(pieces)}
    assert [record for piece in pieces for record in read[piece]] == expected


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_columns_name_the_fields_in_their_order(tmp_path, suffix):
    write_table(tmp_path / f"a{suffix}", [("one", "eins", "7")], ("en", "de", "n"))
    assert everything(tmp_path, "pairs", ("de", "en")) == [{"source": "eins", "target": "one"}]
    assert everything(tmp_path, "labels", ("en", "n")) == [{"text": "one", "label": "7"}]
    assert everything(tmp_path, "text", ("de",)) == [{"text": "eins"}]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["word ", "字", "é", "\n", "\n \t\n", "\r\n\r\n", "🙂"]), st.integers(1, 9000)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 200_000),
)
def test_pieces_of_a_text_give_the_documents_of_the_whole(tmp_path_factory, parts, size):
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_bytes("".join(part * count for part, count in parts).encode())
    whole = everything(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "SIZE", size)
        assert everything(file) == whole


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40), max_size=30),
    st.integers(1, 300),
)
def test_any_texts_come_back_from_any_table(tmp_path_factory, suffix, texts, size):
    folder = tmp_path_factory.mktemp("table")
    write_table(folder / f"a{suffix}", [(one, "x") for one in texts], ("text", "more"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "SIZE", size)
        patch.setattr(tables, "SIZE", size)
        assert [record["text"] for record in everything(folder)] == texts


def test_one_long_line_is_read(tmp_path):
    long = "All work and no play. " * 2_400_000  # 50 MB
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": long}) + '\n{"text": "b"}')
    assert [len(record["text"]) for record in everything(tmp_path)] == [1, len(long), 1]


FAULTS = [
    ("a.csv", b'text,n\n"a\nb",1\nonly\nc,2\n', "a.csv:4", "wrong number of columns", "1 fields, the header 2"),
    ("a.csv", b'text,n\na,1\n"b"c,2\nd,3\n', "a.csv:3", "broken row", "expected after"),
    ("a.csv", b'text\na\nb\n"never closed\nc\n', "a.csv:4", "broken row", "unexpected end of data"),
    ("a.tsv", b"text\tn\na\t1\ncaf\xe9\t2\n", "a.tsv:3", "invalid UTF-8", "0xe9"),
    ("a.csv", b"text\na\nx\0y\nb\n", "a.csv:3", "NUL byte", "NUL"),
    ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "a.jsonl:2", "missing field", "the keys body"),
    ("a.jsonl", b'{"text": "a"}\n\n{"text": null}\n', "a.jsonl:3", "missing value", "no 'text'"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "a.jsonl:2", "not JSON", "column"),
    ("a.txt", b"caf\xe9", "a.txt", "invalid UTF-8", "at byte 3"),
]


@pytest.mark.parametrize("name, content, where, reason, detail", FAULTS)
def test_a_broken_record_is_named_and_the_others_are_read(tmp_path, name, content, where, reason, detail):
    (tmp_path / name).write_bytes(content)
    records = everything(tmp_path)
    (found,) = bad(records)
    assert (found.where, found.reason) == (where, reason) and detail in found.detail
    good = [record["text"] for record in records if record is not found]
    assert all(len(one) == 1 or one == "a\nb" for one in good) and (name == "a.txt") == (not good)


def test_lines_are_counted_from_the_files_beginning_in_every_piece(tmp_path, small_pieces):
    write_table(tmp_path / "a.csv", [(verse,) for verse in VERSES])
    with open(tmp_path / "a.csv", "a") as file:
        file.write("too,many\n")
    entries = [json.dumps({"text": "x" * 50})] * 100 + ["{"]
    (tmp_path / "b.jsonl").write_text("\n".join(entries))
    found = readers.find(tmp_path, "text", ["text"])
    records = [record for piece in readers.pieces(found) for record in readers.read(found, piece)]
    assert [record.where for record in bad(records)] == ["a.csv:802", "b.jsonl:101"]  # two lines a verse, one header


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.csv",
            b"id,body\n1,x\n",
            "no column is named 'text'; its first line names 'id', 'body'.*data.columns=COLUMN",
        ),
        ("a.csv", b"Text\nx\n", "Did you mean 'Text'"),
        ("a.csv", b"text,text\nx,y\n", "two columns are named 'text'"),
        ("a.csv", b"", "its first line names none"),
        ("a.tsv", b"Call me Ishmael.\nSome years ago\n", "its first line names 'Call me Ishmael.'"),
        ("a.parquet", b"PAR1 and no more", "no parquet file that can be read"),
    ],
)
def test_a_table_without_the_column_says_what_it_has(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(name)}: .*{message}"):
        everything(tmp_path)


def test_tables_beside_texts_are_read_only_when_columns_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    write_table(tmp_path / "b.csv", [("a row",)])
    assert everything(tmp_path) == [{"text": "a text"}]
    assert readers.find(tmp_path).others == {".csv": 1}
    assert everything(tmp_path, "text", ["text"]) == [{"text": "a row"}]


def test_an_empty_field_of_a_pair_is_named(tmp_path):
    write_table(tmp_path / "a.csv", [("one", "eins"), ("two", " ")], ("source", "target"))
    records = everything(tmp_path, "pairs")
    assert records[0] == {"source": "one", "target": "eins"}
    assert records[1][:2] == ("a.csv:3", "empty field")


def test_two_files_are_pairs_line_by_line(tmp_path, small_pieces):
    (tmp_path / "news.en").write_text("".join(f"the {n}th line\r\n" for n in range(500)))
    (tmp_path / "news.de").write_text("\n".join(f"die {n}. Zeile 字" for n in range(500)))  # no end of the last
    records = everything(tmp_path, "pairs", ("en", "de"))
    assert records == [{"source": f"the {n}th line", "target": f"die {n}. Zeile 字"} for n in range(500)]
    assert everything(tmp_path, "pairs", ("de", "en"))[7] == {"source": "die 7. Zeile 字", "target": "the 7th line"}
    assert len(readers.pieces(readers.find(tmp_path, "pairs", ("en", "de")))) > 3
    with pytest.raises(UserError, match=r"which of news\.de and news\.en is the source.*data\.columns=de,en"):
        readers.find(tmp_path, "pairs")


def test_files_of_unequal_length_are_no_pairs(tmp_path):
    (tmp_path / "source.txt").write_text("one\ntwo\n")
    (tmp_path / "target.txt").write_text("eins\n")
    with pytest.raises(UserError, match=r"source\.txt has 2 lines, .*target\.txt 1: "):
        everything(tmp_path, "pairs")
    (tmp_path / "target.txt").write_text("eins\n\xff", "latin-1")
    assert bad(everything(tmp_path, "pairs"))[0][:2] == ("target.txt:2", "invalid UTF-8")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("some text") if path.suffix == ".txt" else write_table(path, [(verse,) for verse in VERSES])
    found = readers.find(tmp_path)
    (piece,) = readers.pieces(found)
    stream = readers.read(found, piece)
    next(stream)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=f"{re.escape(name)} changed while it was read"):
        list(stream)


def test_rows_of_a_parquet_file_may_be_missing_or_of_other_types(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", None, "c"], "label": [1, 2, 3]}), tmp_path / "a.parquet")
    records = everything(tmp_path, "labels")
    assert records[0] == {"text": "a", "label": "1"} and records[1][:2] == ("a.parquet row 2", "missing value")
    assert {record.reason for record in bad(everything(tmp_path, "text", ["label"]))} == {"not text"}


def test_a_flipped_bit_in_a_parquet_file_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": VERSES}), path, write_page_checksum=True, compression="none", use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"200th line") + 1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.parquet: this parquet file is damaged after row \d+"):
        everything(tmp_path)


def test_a_table_in_another_encoding_is_said_to_be(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nx\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.csv: .*it looks like UTF-16"):
        everything(tmp_path)


def test_lines_are_skipped_to_where_reading_them_leads(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 7)
    (tmp_path / "a").write_bytes(b"one\n\nthree is longer\nfour")
    for count, place in enumerate((0, 4, 5, 21, 25)):
        with open(tmp_path / "a", "rb") as stream:
            assert text.skip_lines(stream, count) == place == stream.tell()


def test_reading_tables_loads_neither_tensorflow_nor_jax(tmp_path):
    write_table(tmp_path / "a.parquet", [("x",)])
    code = (
        "import sys; from pathlib import Path; from lmjax.data import readers; f = readers.find(Path(sys.argv[1]));"
        "print([*readers.read(f, *readers.pieces(f))], {'tensorflow', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "[{'text': 'x'}] set()\n", done.stderr
