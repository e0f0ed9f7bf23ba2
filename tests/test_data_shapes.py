"""Tags, numbers, spans, choices, and images with texts and labels: from the user's files to rows, and what is none."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from kind_folders import data, epoch, png, table
from rich.console import Console

from lmjax.data import kinds, open_dataset, row_view, shards
from lmjax.data.tokenizers import Bytes, train_bpe, train_symbols
from lmjax.data.tokenizers.offsets import covered, offsets
from lmjax.errors import UserError
from lmjax.trained import Loaded, asked_row

COUNT = 60
WORDS = "the small bird sings über dem Haus, 我 们 again".split()


def record(kind, n):
    words = [*WORDS[: 2 + n % 8], str(n)]
    if kind == "tags":
        return {"words": words, "tags": [["A", "B", "O"][(n + i) % 3] for i in range(len(words))]}
    if kind == "numbers":
        return {"text": f"text {n}", "value": n / 4 - 5 if n % 2 else n}
    if kind == "spans":
        context, answer = f"“{n}” birds are on the höuse {n * 7}, they sing.", "" if n % 5 == 0 else f"höuse {n * 7}"
        return {"question": f"Where {n}?", "context": context, "answer": answer,
                "start": context.index(answer) if answer else 0}  # fmt: skip
    choices = [f"{'so ' * (n % 9)}{n + i}" for i in range(3)]
    return {"question": f"Which of {n}" + " so" * (n % 12), "choices": choices, "label": n % 3}


def folder_of(kind, folder):
    if kind == "image_text_labels":
        rows = [(f"{n:03d}.png", f"about {n}", "ab"[n % 2]) for n in range(COUNT)]
        table(folder, ("file", "text", "label"), rows)
        for n in range(COUNT):
            (folder / f"{n:03d}.png").write_bytes(png(n))
        return folder
    folder.mkdir()
    lines = [json.dumps(record(kind, n), ensure_ascii=False) for n in range(COUNT)]
    (folder / "all.jsonl").write_text("\n".join(lines))
    return folder


KINDS = ("tags", "numbers", "spans", "choices", "image_text_labels")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))


def opened(folder, kind, **leaves):
    leaves = {"length": 99, "choices": 3, **leaves}
    return open_dataset(data(folder, kind, **leaves), 1, lambda line: None, workers=1)


def told(dataset, row):
    """What a row says, as the user's record does."""
    decode, kind = dataset.tokenizer.decode, dataset.kind
    if kind == "choices":
        texts = [decode(ids[real > 0]) for ids, real in zip(row["tokens"], row["segments"], strict=True)]
        parts = [decode(ids[types > 0]) for ids, types in zip(row["tokens"], row["types"], strict=True)]
        assert len({text[: len(text) - len(part)] for text, part in zip(texts, parts, strict=True)}) == 1
        return texts[0][: len(texts[0]) - len(parts[0])], tuple(parts), int(row["label"])
    text = decode(row["tokens"][row["segments"] > 0])
    if kind == "tags":
        at = [*np.flatnonzero(row["weights"]).tolist(), int(row["segments"].sum())]
        parts = [decode(row["tokens"][a:b]).strip() for a, b in zip(at[:-1], at[1:], strict=True)]
        assert not row["tags"][row["weights"] == 0].any()
        return tuple(parts), tuple(dataset.classes[row["tags"][i]] for i in at[:-1])
    if kind == "numbers":
        return text, float(row["value"])
    if kind == "spans":
        answer = decode(row["tokens"][row["start"] : row["end"] + 1])
        assert row["types"].sum() == len(row["tokens"]) - np.argmax(row["types"]) - (row["segments"] == 0).sum()
        assert row["tokens"][np.argmax(row["types"]) - 1] == dataset.tokenizer.special("sep")
        assert (row["types"][row["start"] : row["end"] + 1] == bool(answer)).all()
        return text, decode(row["tokens"][row["types"] > 0]), answer.strip()
    return row["image"].tobytes(), text, dataset.classes[row["label"]]


def expected(kind, n):
    made = record(kind, n) if kind != "image_text_labels" else None
    return {
        "tags": lambda: (tuple(made["words"]), tuple(made["tags"])),
        "numbers": lambda: (made["text"], float(made["value"])),
        "spans": lambda: (made["question"] + made["context"], made["context"], made["answer"]),
        "choices": lambda: (made["question"], tuple(made["choices"]), made["label"]),
    }[kind]()


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_record_is_a_row_that_says_what_it_said(tmp_path, kind, tokenizer, monkeypatch):
    folder = folder_of(kind, tmp_path / kind)
    leaves = {"tokenizer": tokenizer, "vocab": 400 if tokenizer == "bpe" else None}
    dataset = opened(folder, kind, **leaves)
    rows = [*epoch(dataset.train), *(dataset.valid.row(k) for k in range(len(dataset.valid)))]
    found = [told(dataset, row) for row in rows]
    if kind == "image_text_labels":
        names = sorted((text, label) for _, text, label in found)
        assert (
            names == sorted((f"about {n}", "ab"[n % 2]) for n in range(COUNT)) and len({f[0] for f in found}) == COUNT
        )
    else:
        assert sorted(found) == sorted(expected(kind, n) for n in range(COUNT))
    shapes = {name: (field.shape, np.dtype(field.dtype)) for name, field in
              kinds.fields(data(folder, kind, length=99, choices=3)).items()}  # fmt: skip
    for row in (rows[0], dataset.valid.row(len(dataset.valid))):
        assert {name: (np.shape(x), np.asarray(x).dtype) for name, x in row.items()} == shapes
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    again = opened(folder, kind, **leaves)
    assert again.fingerprint == dataset.fingerprint
    for k in (0, 7, COUNT + 3):
        one, other = dataset.train.row(k), again.train.row(k)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    out = Console(width=200, record=True, file=open("/dev/null", "w"))
    for line in row_view.lines(dataset, rows[0], "row", out):
        out.print(line)
    assert len(out.export_text()) > 20


def test_what_is_too_long_is_cut_or_left_out_and_never_an_answer(tmp_path):
    dataset = opened(folder_of("tags", tmp_path / "tags"), "tags", length=12)
    assert sum(dataset.stats["cut"].values()) > 30
    for row in epoch(dataset.train):
        assert row["tokens"].shape == (12,) and row["weights"].any()
    dataset = opened(folder_of("spans", tmp_path / "spans"), "spans", length=58)
    assert sum(dataset.stats["left_out"]["longer than a row"].values()) > 10
    dataset = opened(folder_of("choices", tmp_path / "choices"), "choices", length=32)
    known = {choice for n in range(COUNT) for choice in record("choices", n)["choices"]}
    cut = 0
    for row in epoch(dataset.train):
        question, choices, _ = told(dataset, row)
        assert set(choices) <= known
        cut += question not in {record("choices", n)["question"] for n in range(COUNT)}
    assert cut > 10


def test_the_characters_of_an_answer_are_those_of_its_tokens():
    text = "Über 我们 naïve, the unhappily ending."
    trained = [train_bpe([text] * 3, 300), train_symbols("words", [text]), train_symbols("chars", [text])]
    for tokenizer in (Bytes(), *trained):
        places, ids = offsets(tokenizer, text), tokenizer.encode(text)
        assert len(places) == len(ids)
        for answer in ("Über", "们", "naïve", "ending."):
            start = text.index(answer)
            first, last = covered(places, start, start + len(answer))
            said = tokenizer.decode(ids[first : last + 1])
            assert answer in said and len(said) <= len(answer) + 2
    assert covered(offsets(Bytes(), "a"), 1, 2) is None


@pytest.mark.parametrize("kind, wrong, message", [
    ("tags", {"words": ["a", "b"], "tags": ["X"]}, "2 words and 1 tags"),
    ("choices", {"question": "q", "choices": "a b c", "label": 1}, "a list of strings"),
    ("tags", {"words": ["a", 2.5], "tags": ["X", "Y"]}, "list of strings"),
    ("tags", {"words": ["a", ""], "tags": ["X", "Y"]}, "an item of 'words' is empty"),
    ("numbers", {"text": "a", "value": float("inf")}, "the value is 'inf'"),
    ("numbers", {"text": "a", "value": "ten"}, "the value is 'ten'"),
    ("numbers", {"text": "a", "value": True}, "must be a number"),
    ("spans", {"question": "q", "context": "abc def", "answer": "def", "start": 3}, "has ' de' at 3"),
    ("spans", {"question": "q", "context": "abc def", "answer": "def", "start": "x"}, "start is 'x'"),
    ("spans", {"question": "", "context": "abc def", "answer": "def", "start": 4}, "'question' is empty"),
    ("choices", {"question": "q", "choices": ["a", "b", "c"], "label": 3}, "from 0 to 2"),
    ("choices", {"question": "q", "choices": ["a", "b"], "label": 1}, "2 choices, and data.choices=3"),
    ("choices", {"question": "q", "choices": None, "label": 1}, "a list of strings"),
])  # fmt: skip
def test_what_is_no_record_is_named_or_counted(tmp_path, kind, wrong, message):
    folder = folder_of(kind, tmp_path / kind)
    with open(folder / "all.jsonl", "a") as file:
        file.write("\n" + json.dumps(wrong) + "\n")
    with pytest.raises(UserError, match=message):
        opened(folder, kind)
    dataset = opened(folder, kind, clean={"bad": "drop"})
    assert dataset.train.epoch_rows + len(dataset.valid) == COUNT
    assert sum(dataset.stats["cleaning"]["bad"].values()) == 1


def yields():
    yield from (record("spans", n) for n in range(COUNT))


def yields_wrong():
    yield {"question": "q", "context": "c", "answer": "d", "start": 0}


def test_a_function_yields_records_as_users_write_them(tmp_path):
    dataset = opened(f"{__name__}:yields", "spans")
    assert told(dataset, dataset.valid.row(0)) in {expected("spans", n) for n in range(COUNT)}
    with pytest.raises(UserError, match="the answer is 'd'"):
        opened(f"{__name__}:yields_wrong", "spans")


def test_no_rule_of_cleaning_parts_words_from_their_tags(tmp_path):
    folder = folder_of("tags", tmp_path / "tags")
    with pytest.raises(UserError, match="data.clean.unicode would part texts"):
        opened(folder, "tags", clean={"unicode": "nfc"})
    rare = json.dumps({"words": ["never"], "tags": ["Z"]})
    (folder / "all.jsonl").write_text(f"{(folder / 'all.jsonl').read_text()}\n{rare}\n")
    for fold in range(3):
        try:
            opened(folder, "tags", folds=3, fold=fold)
        except UserError as error:
            assert "label 'Z' is never seen in training" in str(error)
            assert (
                sum(opened(folder, "tags", folds=3, fold=fold, clean={"bad": "drop"}).stats["unseen_labels"].values())
                == 1
            )
            break
    else:
        raise AssertionError("in one of the folds it is validated on")


def test_a_table_without_the_columns_is_refused(tmp_path):
    table(tmp_path / "rows", ("text", "number"), [("a", 1)])
    with pytest.raises(UserError, match="no column is named 'value'"):
        opened(tmp_path / "rows", "numbers")
    dataset = opened(table(tmp_path / "more", ("text", "number"), [(f"a{n}", n) for n in range(40)]), "numbers",
                     columns=("text", "number"))  # fmt: skip
    assert {told(dataset, row) for row in epoch(dataset.train)} <= {(f"a{n}", float(n)) for n in range(40)}
    dataset = opened(table(tmp_path / "words", ("words", "tags"), [(f"a b{n}", "X Y") for n in range(40)]), "tags")
    assert {told(dataset, row) for row in epoch(dataset.train)} <= {(("a", f"b{n}"), ("X", "Y")) for n in range(40)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "image_text_labels"])
def test_rows_may_begin_and_end_as_those_of_bert(tmp_path, kind):
    folder = folder_of(kind, tmp_path / kind)
    plain, dataset = opened(folder, kind), opened(folder, kind, marks="cls")
    cls, sep = (dataset.tokenizer.special(name) for name in ("cls", "sep"))
    for k in range(len(dataset.valid)):
        row, before = dataset.valid.row(k), plain.valid.row(k)
        assert told(dataset, row) == told(plain, before)
        for tokens, others in zip(np.atleast_2d(row["tokens"]), np.atleast_2d(before["tokens"]), strict=True):
            n = int((others > 0).sum())
            assert (tokens[0], tokens[n]) == (cls, sep) and not tokens[n + 1 :].any()
            shown = [[i for i in ids if i < 256] for ids in (tokens[:n].tolist(), others[:n].tolist())]
            assert shown[0] == shown[1]
    if kind == "tags":
        short = opened(folder, kind, marks="cls", length=12)
        row = next(row for row in epoch(short.train) if row["segments"].all())
        assert row["tokens"][-1] == sep and row["weights"][-1] == 0
    with pytest.raises(UserError, match="data.marks=cls is for records with a row of their own"):
        opened(folder, "pairs", marks="cls")


def test_lists_of_hugging_face_datasets_are_read_with_the_names_of_their_classes(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    names = datasets.Features({"words": datasets.Sequence(datasets.Value("string")),
                               "ner": datasets.Sequence(datasets.ClassLabel(names=["O", "PER"]))})  # fmt: skip
    rows = {"words": [["Anna", "sings", str(n)] for n in range(40)], "ner": [[1, 0, n % 2] for n in range(40)]}
    datasets.Dataset.from_dict(rows, features=names).save_to_disk(str(tmp_path / "set"))
    dataset = opened(f"hf:{tmp_path / 'set'}", "tags", columns=("words", "ner"))
    found = {told(dataset, row) for row in epoch(dataset.train)}
    assert (
        found <= {(("Anna", "sings", str(n)), ("PER", "O", ["O", "PER"][n % 2])) for n in range(40)} and len(found) > 20
    )


@pytest.mark.parametrize("marks, length", [("doc", 30), ("cls", 30), ("cls", 8)])
def test_a_text_that_is_asked_has_the_row_that_it_has_in_training(tmp_path, marks, length):
    folder = table(tmp_path / "rows", ("text", "label"), [(f"number {n}", "ab"[n % 2]) for n in range(40)])
    leaves = data(folder, "labels", marks=marks, length=length)
    dataset = open_dataset(leaves, 1, lambda line: None, workers=1)
    loaded = Loaded(SimpleNamespace(config=SimpleNamespace(data=leaves)), dataset, {}, 0)
    shown = {tuple(dataset.valid.row(k)["tokens"].tolist()) for k in range(len(dataset.valid))}
    asked = [asked_row(loaded, f"number {n}", None) for n in range(40)]
    assert shown <= {tuple(row["tokens"].tolist()) for row in asked}
    assert all(np.array_equal(row["segments"] > 0, row["tokens"] > 0) for row in asked)
