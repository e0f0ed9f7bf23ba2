"""Augmented training rows, from a folder: what is predicted stays, what is asked for changes, and no epoch is alike."""

import json

import numpy as np
import pytest
import tiny

from lmjax.augment.settings import section
from lmjax.augment.text import insertion
from lmjax.config import update
from lmjax.data import augmented, corpora, open_dataset
from lmjax.errors import UserError

CHANGES = ("deletion", "swap", "noise", "mask")
NOUNS = "house tree river stone bird cloud road lamp ship glass".split()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))


def sentence(i):
    return f"The {NOUNS[i % 10]} and the {NOUNS[i // 10 % 10]} number {i} — naïve 大きな — are not alike at all."


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "texts"
    place.mkdir()
    with open(place / "all.jsonl", "w") as file:
        for i in range(60):
            german = f"Das {NOUNS[::-1][i % 10]} Nummer {i}, ja."
            record = {"text": sentence(i), "label": NOUNS[i % 3], "source": sentence(i), "target": german}
            file.write(json.dumps(record) + "\n")
    return place


def data(folder, kind="text", **leaves):
    names = {"source": str(folder), "kind": kind, "packing": "none", "length": 128, "special": ("mask",),
             "valid_fraction": 0.2, "augment.text": CHANGES, "augment.rate": 0.2, **leaves}  # fmt: skip
    return update(tiny.config(), {f"data.{name}": value for name, value in names.items()}).data


def opened(folder, kind="text", **leaves):
    return open_dataset(data(folder, kind, **leaves), 0, lambda line: None)


def parts(dataset, row):
    """The texts of a row between its special tokens, from the first token to the last target."""
    n = int((row["segments"] > 0).sum())
    ids = np.append(row["tokens"][:n], row["targets"][n - 1] if "targets" in row else [])
    return [dataset.tokenizer.decode(part[1:]) for part in np.split(ids, np.flatnonzero(ids == 256))[1:]]


@pytest.mark.parametrize("kind", ["text", "pairs", "labels"])
def test_a_row_stays_whole_and_keeps_what_is_predicted(folder, kind):
    dataset = opened(folder, kind)
    plain, many = dataset.train.stream, int(dataset.train.epoch_rows)
    assert many > 30 and isinstance(dataset.train, augmented.AugmentedRows)
    changed = masked = 0
    for k in range(2 * many):
        row, before = dataset.train.row(k), plain.row(k)
        assert {name: (x.shape, x.dtype) for name, x in row.items()} == {
            name: (x.shape, x.dtype) for name, x in before.items()
        }
        n = int((row["segments"] > 0).sum())
        np.testing.assert_array_equal(row["positions"][:n], np.arange(n))
        assert not row["tokens"][n:].any() and row["tokens"][0] == dataset.tokenizer.doc
        changed += not np.array_equal(row["tokens"], before["tokens"])
        masked += int((row["tokens"] == dataset.tokenizer.special("mask")).sum())
        if kind == "labels":
            assert row["label"] == before["label"] and row["weights"] == 1
            continue
        np.testing.assert_array_equal(row["tokens"][1:n], row["targets"][: n - 1])
        assert row["targets"][n - 1] == dataset.tokenizer.doc  # each text has its end
        np.testing.assert_array_equal(
            row["bytes"], dataset.tokenizer.token_bytes[row["targets"]] * (row["weights"] > 0)
        )
        if kind == "text":
            np.testing.assert_array_equal(
                row["weights"][:n] == 0, row["targets"][:n] == dataset.tokenizer.special("mask")
            )
        if kind == "pairs":
            np.testing.assert_array_equal(row["targets"][row["weights"] > 0], before["targets"][before["weights"] > 0])
            assert (row["weights"] > 0).sum() == (before["weights"] > 0).sum() > 0
    assert changed == 2 * many and masked > many


@pytest.mark.parametrize("kind", ["text", "pairs", "labels"])
def test_a_rate_of_0_is_the_row_itself_and_validation_is_never_changed(folder, kind):
    dataset, plain = opened(folder, kind, **{"augment.rate": 0.0}), opened(folder, kind, **{"augment.text": ()})
    loud = opened(folder, kind, **{"augment.rate": 0.9})
    assert plain.fingerprint == loud.fingerprint and not isinstance(plain.train, augmented.AugmentedRows)
    for k in range(20):
        for a, b in ((dataset.train, plain.train), (loud.valid, plain.valid)):
            row, same = a.row(k), b.row(k)
            assert all(np.array_equal(row[name], same[name]) for name in same)


def test_a_text_is_another_in_every_epoch_and_the_same_when_it_is_read_again(folder):
    dataset, again = opened(folder), opened(folder)
    many = int(dataset.train.epoch_rows)
    first, second = ([parts(dataset, dataset.train.row(e * many + k))[0] for k in range(many)] for e in range(2))
    assert not set(first) & set(second)
    assert [parts(again, again.train.row(k))[0] for k in reversed(range(many))] == first[::-1]
    whole = dataset.train_batch(3, 8)
    for name, x in whole.items():
        halves = [again.train_batch(3, 8, rows)[name] for rows in (slice(0, 4), slice(4, 8))]
        np.testing.assert_array_equal(np.concatenate(halves), x)
    other = open_dataset(data(folder), 1, lambda line: None)
    assert not {parts(other, other.train.row(k))[0] for k in range(many)} & set(first)


def test_what_grows_too_long_is_cut_but_a_pair_stays_as_it_was(folder):
    thesaurus = {word: ("large " + "y" * 30,) for word in (*NOUNS, "number")}

    def grown(words, index):
        return insertion(words, 0, index, 1.0, thesaurus=thesaurus)

    texts, pairs = (opened(folder, kind, length=110, **{"augment.text": ()}) for kind in ("text", "pairs"))
    row = augmented.AugmentedRows(texts.train, "text", texts.tokenizer, grown).row(0)
    assert row["weights"].all() and row["targets"][-1] != texts.tokenizer.doc
    assert "y" * 30 in parts(texts, row)[0]
    rows = augmented.AugmentedRows(pairs.train, "pairs", pairs.tokenizer, grown)
    for k in range(30):
        row, before = rows.row(k), pairs.train.row(k)
        assert all(np.array_equal(row[name], before[name]) for name in before)


def test_rows_of_a_mixture_are_changed_by_their_number_in_it_and_still_counted(folder, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    with open(other / "all.jsonl", "w") as file:
        file.writelines(json.dumps({"text": f"{sentence(i)} Truly."}) + "\n" for i in range(100, 130))
    mixed = opened(folder, **{"mixture.sources": (str(other),)})
    plain = opened(folder, **{"mixture.sources": (str(other),), "augment.text": ()})
    assert mixed.train.counts(20) == plain.train.counts(20) and sum(mixed.train.counts(20).values()) == 20
    assert mixed.fingerprint == plain.fingerprint
    assert all(parts(mixed, mixed.train.row(k)) != parts(plain, plain.train.row(k)) for k in range(20))


@pytest.mark.parametrize("kind", ["text", "labels"])
def test_half_a_character_at_a_cut_is_kept_with_the_row_or_dropped_and_never_made_another(folder, kind):
    short = {"length": 37, "augment.text": ("deletion",)}  # cuts signs of two and three bytes
    plain, changed = (opened(folder, kind, **short, **{"augment.rate": rate}) for rate in (0.0, 0.3))
    halves = 0
    for k in range(2 * int(plain.train.epoch_rows)):
        row, before = plain.train.row(k), plain.train.stream.row(k)
        assert all(np.array_equal(row[name], before[name]) for name in before)
        halves += "\ufffd" in plain.tokenizer.decode(row["tokens"][row["segments"] > 0])
        assert "\ufffd".encode() not in changed.tokenizer.decode_bytes(changed.train.row(k)["tokens"])
    assert halves


def test_synonyms_are_put_into_rows_or_wordnet_is_asked_for(folder):
    augmented.wordnet.cache_clear()
    try:
        corpora.files("wordnet")
    except UserError:
        with pytest.raises(UserError, match="lmjax data fetch wordnet"):
            opened(folder, **{"augment.text": ("synonyms",)})
        return
    dataset = opened(folder, **{"augment.text": ("synonyms",), "augment.rate": 0.5})
    assert any("rock" in parts(dataset, dataset.train.row(k))[0] for k in range(20))  # a stone


@pytest.mark.parametrize("leaves, message", [
    ({"augment.text": ("synonym",)}, "did you mean 'synonyms'"),
    ({"augment.image": ("flip",)}, "data.augment.image=flip is for images"),
    ({"augment.mix": ("cutmix",)}, "data.augment.mix=cutmix is for images with labels"),
    ({"augment.rate": 1.5}, "data.augment.rate=1.5: from 0 to 1"),
    ({"packing": "concat"}, "data.packing=none"),
    ({"special": None}, "data.special=mask adds it"),
    ({"kind": "images", "augment.text": ("swap",)}, r"data.augment.text=swap is for texts \(data.kind=text or pairs"),
    ({"kind": "images", "augment.text": (), "augment.image": ("flop",)}, "did you mean 'flip'"),
    ({"kind": "images", "augment.text": (), "augment.mix": ("mixup",)}, "data.kind=image_labels"),
])  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_read(folder, leaves, message):
    leaves = {"kind": "text", **leaves}
    config = data(folder, leaves.pop("kind"), **leaves)
    with pytest.raises(UserError, match=message):
        section(config)
        open_dataset(config, 0, lambda line: None)


def test_a_config_from_before_there_was_augmentation_has_none(folder):
    old = {name: leaf for name, leaf in data(folder).items() if name != "augment"}
    assert section(type("Old", (), old)) is None


@pytest.mark.parametrize("tokenizer", ["chars", "words", "bpe", "unigram", "wordpiece"])
def test_any_tokenizer_encodes_what_was_changed(folder, tokenizer):
    leaves = {"tokenizer": tokenizer, "augment.text": ("swap", "mask"), "length": 140}
    leaves |= {} if tokenizer == "chars" else {"vocab": 600}
    plain, dataset = opened(folder, **leaves, **{"augment.rate": 0.0}), opened(folder, **leaves)
    decode, mask = dataset.tokenizer.decode, dataset.tokenizer.special("mask")
    for k in range(20):
        row, before = dataset.train.row(k), plain.train.stream.row(k)
        same = plain.train.row(k)
        assert all(np.array_equal(same[name], before[name]) for name in before)
        hidden, words = int((row["tokens"] == mask).sum()), sorted(decode(before["tokens"]).split())
        left = sorted(decode(row["tokens"]).split())
        assert 1 <= hidden <= 4 and words != left and len(set(left) - set(words)) <= 6  # what touches a mark of its own
