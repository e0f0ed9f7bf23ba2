"""Faults planted in pairs, labels and images: found, named and counted; nothing is lost in silence."""

import random

import pytest
from kind_folders import data, folder_of, png, records, table

from lmjax.data import open_dataset
from lmjax.data.split import Split
from lmjax.errors import UserError

DROP = {"clean": {"bad": "drop"}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))


def kept(dataset):
    return sum(dataset.stats[split]["documents"] for split in ("train", "valid"))


def test_two_files_of_unequal_length_are_refused_with_both_counts(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "a.en").write_text("".join(f"line {n}\n" for n in range(50)))
    (folder / "a.de").write_text("".join(f"Zeile {n}\n" for n in range(49)))
    for leaves in ({}, DROP):  # nothing can be counted as bad when it is not known which line is
        with pytest.raises(UserError, match=r"a\.en has 50 lines, .*a\.de 49"):
            open_dataset(data(folder, "pairs", columns=("en", "de"), **leaves), 0, workers=1)


def test_pairs_with_an_empty_or_unreadable_side_are_named_or_counted(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    sources = [f"line {n}".encode() for n in range(50)]
    targets = [f"Zeile {n}".encode() for n in range(50)]
    sources[7], targets[11], targets[23], sources[31] = b"", b" ", b"ab\xffcd", b"a\0b"
    (folder / "a.en").write_bytes(b"\n".join(sources) + b"\n")
    (folder / "a.de").write_bytes(b"\n".join(targets) + b"\n")
    with pytest.raises(UserError, match=r"a\.en:8: .*empty"):
        open_dataset(data(folder, "pairs", columns=("en", "de")), 0, workers=1)
    dataset = open_dataset(data(folder, "pairs", columns=("en", "de"), **DROP), 0, workers=1)
    assert dataset.stats["cleaning"]["bad"] == {"NUL byte": 1, "empty field": 2, "invalid UTF-8": 1}
    assert kept(dataset) == dataset.stats["read"]["documents"] == 46


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
@pytest.mark.parametrize("kind", ["images", "image_labels"])
def test_a_broken_image_is_named_and_can_be_left_out(tmp_path, kind, damage):
    folder = folder_of(kind, tmp_path / kind)
    broken = sorted(folder.rglob("*.png"))[20]
    raw = bytearray(broken.read_bytes())
    raw[len(raw) // 2] ^= 1
    bad = {"truncate": raw[: len(raw) // 2], "flip": raw, "empty": b"", "text": b"this is no picture"}
    broken.write_bytes(bad[damage])
    with pytest.raises(UserError, match=broken.name):
        open_dataset(data(folder, kind), 0, workers=1)
    said = []
    dataset = open_dataset(data(folder, kind, **DROP), 0, said.append, workers=1)
    assert dataset.stats["cleaning"]["bad"] == {"broken image": 1} and kept(dataset) == 59
    assert any("1 broken image" in line for line in said)


def test_an_image_without_a_caption_or_a_caption_without_its_image_is_named(tmp_path):
    folder = folder_of("images", tmp_path / "beside")
    (folder / "040.txt").unlink()
    with pytest.raises(UserError, match=r"040\.png: there is no 040\.txt"):
        open_dataset(data(folder, "images"), 0, workers=1)
    listed = tmp_path / "listed"
    rows = [(f"{n}.png", f"picture {n}") for n in range(40)]
    table(listed, ("file", "caption"), rows, "captions.csv")
    for n in range(39):
        (listed / f"{n}.png").write_bytes(png(n))
    with pytest.raises(UserError, match=r"'39\.png' is no file"):
        open_dataset(data(listed, "images"), 0, workers=1)
    dataset = open_dataset(data(listed, "images", **DROP), 0, workers=1)
    assert kept(dataset) == 39 and sum(dataset.stats["cleaning"]["bad"].values()) == 1


def odd_one(tmp_path, kind):
    """A folder with one record in validation whose label training never has, and that record's label."""
    rng = random.Random(3)
    for n in range(30):
        folder = tmp_path / f"{kind}{n}"
        label, word = f"odd{n}", f"the odd one {rng.random()}"
        if kind == "labels":
            rows = [(f"text {m}", "ab"[m % 2]) for m in range(60)] + [(word, label)]
            table(folder, ("text", "label"), rows)
        else:
            folder_of(kind, folder)
            (folder / label).mkdir()
            (folder / label / "one.png").write_bytes(png(1000 + n))
        record = next(record for record in records(folder, kind) if record["label"] == label)
        if Split(0.3).of(record["text" if kind == "labels" else "image"]) == "valid":
            return folder, label, word
    raise AssertionError("no record of 30 fell to validation")


@pytest.mark.parametrize("kind", ["labels", "image_labels"])
def test_a_label_never_seen_in_training_is_named_or_left_out_and_counted(tmp_path, kind):
    folder, label, word = odd_one(tmp_path, kind)
    with pytest.raises(
        UserError, match=f"label '{label}' is never seen in training, and validation has it 1 time"
    ) as error:
        open_dataset(data(folder, kind), 0, workers=1)
    assert kind != "labels" or (word in str(error.value) and "all.csv" in str(error.value))
    said = []
    dataset = open_dataset(data(folder, kind, **DROP), 0, said.append, workers=1)
    assert dataset.stats["unseen_labels"] == {label: 1} and label not in dataset.classes
    assert any(f"1 of label '{label}', never seen in training" in line for line in said)
    assert kept(dataset) == 60 and dataset.stats["read"]["documents"] == 61
    assert dataset.stats["read"]["unseen_labels"] == 1
    assert sum(map(sum, dataset.stats["label_counts"].values())) == 60


def test_labels_are_balanced_and_what_that_removed_is_counted(tmp_path):
    rows = [(f"rare {n}", "rare") for n in range(20)] + [(f"common {n}", "common") for n in range(100)]
    folder = table(tmp_path / "labels", ("text", "label"), rows)
    dataset = open_dataset(data(folder, "labels", clean={"balance": 2}), 0, workers=1)
    assert dataset.stats["cleaning"]["removed"] == {"balance": 60}
    found = dict(zip(dataset.classes, map(sum, zip(*dataset.stats["label_counts"].values(), strict=True)), strict=True))
    assert found == {"common": 40, "rare": 20}


def test_rules_look_at_every_text_of_a_pair(tmp_path):
    rows = [(f"a good line {n}", f"eine gute Zeile {n}") for n in range(40)]
    rows += [rows[3], ("a", "eine gute Zeile"), ("write to me@example.org now", "schreib an me@example.org jetzt")]
    folder = table(tmp_path / "pairs", ("source", "target"), rows)
    clean = {"exact_duplicates": True, "min_chars": 3, "pii": True}
    dataset = open_dataset(data(folder, "pairs", length=80, clean=clean), 0, workers=1)
    assert dataset.stats["cleaning"]["removed"] == {"exact_duplicates": 1, "min_chars": 1}
    assert dataset.stats["cleaning"]["changed"]["pii email"] == 2
    documents = [split.documents for split in (dataset.train, dataset.valid)]
    texts = [
        dataset.tokenizer.decode(some.read(i, 0, int(n))) for some in documents for i, n in enumerate(some.lengths)
    ]
    assert len(texts) == 41 and sum(text.count("<email>") for text in texts) == 2


def test_validation_pairs_that_training_holds_are_found(tmp_path):
    words = "hill rain sheep wet down slow home over under came went again tomorrow river stone".split()
    rng = random.Random(5)
    rows = [(f"{n} " + " ".join(rng.choices(words, k=30)), f"{n} ja") for n in range(40)]
    folder = table(tmp_path / "pairs", ("source", "target"), rows)
    clean = {"contamination": 8}
    open_dataset(data(folder, "pairs", length=300, clean=clean), 0, workers=1)
    copies = [(f"so {source}", f"{target}, ja") for source, target in rows]
    folder = table(tmp_path / "more", ("source", "target"), rows + copies)
    with pytest.raises(UserError, match="contamination"):
        open_dataset(data(folder, "pairs", length=300, clean=clean), 0, workers=1)


def own_pairs():
    return ({"source": f"day {n}", "target": f"Tag {n}"} for n in range(60))


def own_images():
    return ({"image": png(n)[: -30 if n == 7 else None], "label": str(n % 2)} for n in range(60))


def test_a_function_of_the_users_yields_records(monkeypatch):
    dataset = open_dataset(data(f"{__name__}:own_pairs", "pairs"), 0, workers=1)
    assert kept(dataset) == 60
    with pytest.raises(UserError, match="record 7 of .*:own_images: this is no whole PNG"):
        open_dataset(data(f"{__name__}:own_images", "image_labels"), 0, workers=1)
    images = open_dataset(data(f"{__name__}:own_images", "image_labels", **DROP), 0, workers=1)
    assert kept(images) == 59 and images.classes == ("0", "1")
    with pytest.raises(
        UserError, match=r"yields \{'source': 'day 0'.*; a record of data.kind=labels is a dict of text \(str\)"
    ):
        open_dataset(data(f"{__name__}:own_pairs", "labels"), 0, workers=1)
