"""The packaged corpora through TFDS: the same records, and no TensorFlow."""

import sys

import pytest

from lmjax.data import corpora
from lmjax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
builders = pytest.importorskip("lmjax.data.builders")


def installed(source):
    try:
        return list(corpora.records(source))
    except UserError as error:
        pytest.skip(str(error))


def prepared(name, folder):
    builder = tfds.builder(name, data_dir=folder)
    builder.download_and_prepare()
    return builder


def test_the_bible_by_its_name_has_every_document_and_no_tensorflow(tmp_path):
    documents = installed("bible")
    builder = prepared("bible", tmp_path)
    found = builder.as_data_source("train")
    assert sorted(record["text"].decode() for record in found) == sorted(record["text"] for record in documents)
    assert builder.info.redistribution_info.license == corpora.CORPORA["bible"].licence
    assert builder.info.citation == corpora.CORPORA["bible"].citation
    assert "tensorflow" not in sys.modules


def test_standard_splits_and_names_of_labels_survive(tmp_path):
    records = {split: installed(f"reuters_r8:{split}") for split in ("train", "test")}
    builder = prepared("reuters_r8", tmp_path)
    for split, expected in records.items():
        found = builder.as_data_source(split)
        pairs = {(record["text"].decode(), builder.info.features["label"].int2str(record["label"])) for record in found}
        assert len(found) == len(expected) and pairs == {(record["text"], record["label"]) for record in expected}


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_every_corpus_is_found_by_its_name_and_its_features_hold_its_records(name, tmp_path):
    builder = tfds.builder(name, data_dir=tmp_path)
    features = builder.info.features
    assert builder.info.redistribution_info.license == corpora.CORPORA[name].licence
    if name in ("emoji", "emoji_matches"):
        return  # drawing them all takes seconds
    try:
        record = next(corpora.records(name))
    except UserError as error:
        pytest.skip(str(error))
    back = features.deserialize_example_np(features.serialize_example(record))
    assert set(back) == set(record)
    for field in set(record) & {"text", "source", "target", "caption"}:
        assert back[field].decode() == record[field]
    if "audio" in record:
        assert (back["audio"] == record["audio"]).all() and back["rate"] == record["rate"]
