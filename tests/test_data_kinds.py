"""Pairs, labelled texts, captioned and labelled images: from a folder to rows, nothing lost, doubled or mixed up."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from kind_folders import KINDS, both, data, epoch, folder_of, records, table
from PIL import Image

from lmjax.data import examples, kinds, open_dataset, shards
from lmjax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_row_of_pairs_holds_them_whole_and_counts_the_target_and_its_end(tmp_path, packing):
    folder = folder_of("pairs", tmp_path / "pairs")
    dataset = open_dataset(data(folder, "pairs", packing=packing, length=130), 1, workers=1)
    decode, sep, doc = dataset.tokenizer.decode_bytes, dataset.tokenizer.special("sep"), dataset.tokenizer.doc
    assert (max(row["segments"].max() for row in epoch(dataset.train)) > 1) == (packing == "best_fit")
    found = []
    for rows in both(dataset):
        for row in rows:
            for segment in range(1, row["segments"].max() + 1):
                here = row["segments"] == segment
                tokens, targets, weights = row["tokens"][here], row["targets"][here], row["weights"][here]
                at = int(np.flatnonzero(tokens == sep)[0])
                assert tokens[0] == doc and targets[-1] == doc and (targets[:-1] == tokens[1:]).all()
                assert (row["positions"][here] == np.arange(len(tokens))).all()
                assert (weights == (np.arange(len(tokens)) >= at)).all()
                target = decode(tokens[at + 1 :]).decode()
                assert decode(targets[weights > 0]).decode() == target
                assert row["bytes"][here].sum() == len(target.encode())
                found.append({"source": decode(tokens[:at]).decode(), "target": target})
            assert not row["weights"][row["segments"] == 0].any()
    key = lambda record: record["source"]  # noqa: E731
    assert sorted(found, key=key) == sorted(records(folder, "pairs"), key=key)


def test_labels_are_numbered_as_numbers_and_stay_with_their_texts(tmp_path):
    folder = folder_of("labels", tmp_path / "labels")
    said = []
    dataset = open_dataset(data(folder, "labels", length=24), 1, said.append, workers=1)
    assert dataset.classes == ("9", "10", "11") and dataset.kind == "labels"
    expected = {record["text"].encode()[:23]: record["label"] for record in records(folder, "labels")}
    found = {}
    for rows in both(dataset):
        for row in rows:
            real = row["segments"] == 1
            assert row["tokens"][0] == dataset.tokenizer.doc and row["weights"] == 1
            assert (row["positions"][real] == np.arange(real.sum())).all()
            found[dataset.tokenizer.decode_bytes(row["tokens"][real])] = dataset.classes[row["label"]]
    assert found == expected
    cut = sum(len(record["text"].encode()) + 1 > 24 for record in records(folder, "labels"))
    assert sum(dataset.stats["cut"].values()) == cut and any(
        line.startswith(f"cut at the end: {cut} ") for line in said
    )
    assert (
        np.bincount([row["label"] for row in epoch(dataset.train)]).tolist() == dataset.stats["label_counts"]["train"]
    )


@pytest.mark.parametrize("kind", ["images", "image_labels"])
def test_images_are_scaled_by_the_shorter_side_and_their_middle_is_kept(tmp_path, kind):
    folder = folder_of(kind, tmp_path / kind)
    dataset = open_dataset(data(folder, kind), 1, workers=1)
    expected = {}
    for record in records(folder, kind):
        image = Image.open(io.BytesIO(record["image"]))
        width, height = image.size
        short = min(width, height)
        image = image.resize((round(width * 8 / short), round(height * 8 / short)), Image.Resampling.BILINEAR)
        left, top = (image.width - 8) // 2, (image.height - 8) // 2
        pixels = np.asarray(image)[top : top + 8, left : left + 8]
        expected[pixels.tobytes()] = record.get("label", record.get("caption"))
    found = {}
    for rows in both(dataset):
        for row in rows:
            if kind == "images":
                said = dataset.tokenizer.decode(row["tokens"][row["segments"] == 1])
                assert row["bytes"].sum() == len(said.encode()) and row["weights"].sum() == len(said.encode()) + 1
            else:
                said = dataset.classes[row["label"]]
            found[row["image"].tobytes()] = said
    assert found == expected
    assert (dataset.tokenizer is None) == (kind == "image_labels")


def test_transparency_is_white_and_grey_is_grey():
    def pixel(mode, colour, **options):
        file = io.BytesIO()
        Image.new(mode, (3, 5), colour).save(file, "PNG", **options)
        made = examples.pixels(file.getvalue(), 2)
        assert made.shape == (2, 2, 3) and made.dtype == np.uint8 and (made == made[0, 0]).all()
        return tuple(made[0, 0].tolist())

    assert pixel("RGBA", (10, 20, 30, 0)) == (255, 255, 255)
    assert pixel("RGBA", (10, 20, 30, 255)) == (10, 20, 30)
    assert pixel("L", 77) == (77, 77, 77)
    assert pixel("1", 1) == (255, 255, 255)
    assert pixel("I;16", 77 << 8) == (77, 77, 77)
    assert pixel("P", 0, transparency=0) == (255, 255, 255)


def test_a_thread_of_an_image_is_scaled_without_its_ends():
    """All of it would be 65,535 x 1,024 times 1,024 pixels."""
    pixels = np.zeros((1, 65535, 3), np.uint8)
    pixels[0, 32764:32771] = (10, 20, 30)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    made = examples.pixels(file.getvalue(), 1024)
    assert made.shape == (1024, 1024, 3) and (made == (10, 20, 30)).all()


def test_an_image_stands_as_a_viewer_shows_it():
    """JPEG's orientation 6: the first row is the right side."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    file, about = io.BytesIO(), Image.Exif()
    about[0x0112] = 6
    Image.fromarray(pixels).save(file, "JPEG", exif=about, quality=95)
    made = examples.pixels(file.getvalue(), 16)
    assert (made[:, 10:] > 200).all() and (made[:, :6] < 50).all()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_fields_of_their_kind_and_hosts_see_one_batch(tmp_path, kind):
    config = data(folder_of(kind, tmp_path / kind), kind)
    dataset = open_dataset(config, 5, workers=1)
    fields = kinds.fields(config)
    for make, number in ((dataset.train_batch, 40), (dataset.valid_batch, dataset.valid_batches(8) - 1)):
        batch = make(number, 8)
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            name: ((8, *field.shape), np.dtype(field.dtype)) for name, field in fields.items()
        }
        parts = [make(number, 8, slice(first, first + 2)) for first in range(0, 8, 2)]
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
    filled = len(dataset.valid) - (dataset.valid_batches(8) - 1) * 8
    assert 0 < filled < 8 and not any(value[filled:].any() for value in batch.values())
    assert batch["weights"].reshape(8, -1).any(axis=1).sum() == filled


@pytest.mark.parametrize("kind", KINDS)
def test_every_epoch_has_every_record_once_in_an_order_of_its_own(tmp_path, kind):
    dataset = open_dataset(data(folder_of(kind, tmp_path / kind), kind), 5, workers=1)
    count = int(dataset.train.epoch_rows)
    rows = [
        [
            b"".join(value.tobytes() for value in dataset.train.row(k).values())
            for k in range(e * count, (e + 1) * count)
        ]
        for e in range(3)
    ]
    assert rows[0] != rows[1] != rows[2] and len(set(rows[0])) == count
    assert sorted(rows[0]) == sorted(rows[1]) == sorted(rows[2])


@pytest.mark.parametrize("kind", KINDS)
def test_shards_read_one_by_one_are_those_in_memory(tmp_path, kind, monkeypatch):
    config = data(folder_of(kind, tmp_path / kind), kind)
    dataset = open_dataset(config, 5, workers=1)
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    again = open_dataset(config, 5)
    for k in range(60):
        for one, other in zip(dataset.train.row(k).items(), again.train.row(k).items(), strict=True):
            assert one[0] == other[0]
            np.testing.assert_array_equal(one[1], other[1])


def test_what_no_row_can_hold_is_left_out_and_counted(tmp_path):
    rows = [(f"short {n}", "kurz") for n in range(30)] + [(f"long {n}", "lang " * 40) for n in range(10)]
    said = []
    dataset = open_dataset(
        data(table(tmp_path / "pairs", ("source", "target"), rows), "pairs"), 1, said.append, workers=1
    )
    left_out = dataset.stats["left_out"]["longer than a row"]
    assert sum(left_out.values()) == 10 and any("10 longer than a row of data.length=48" in line for line in said)
    kept = [len(dataset.train.documents.lengths), len(dataset.valid.documents.lengths)]
    assert sum(kept) == 30 and kept[0] + left_out["train"] == dataset.stats["train"]["documents"]
    with pytest.raises(
        UserError, match=r"all .* pairs of the train split are longer than a row of data.length=4 tokens; 208"
    ):
        open_dataset(data(tmp_path / "pairs", "pairs", length=4), 1, workers=1)


def test_pairs_of_two_folders_are_mixed_and_both_validate(tmp_path):
    first = folder_of("pairs", tmp_path / "first")
    second = table(tmp_path / "second", ("source", "target"), [(f"two {n}", f"zwei {n}") for n in range(60)])
    mixture = SimpleNamespace(sources=(str(second),), weights=(3, 1), temperature=1.0, repeats=None)
    config = data(first, "pairs", packing="best_fit", length=130, mixture=mixture, tokenizer="bpe", vocab=300)
    dataset = open_dataset(config, 1, workers=1)
    decode = dataset.tokenizer.decode
    of_second = ["zwei" in decode(dataset.train.row(k)["tokens"]) for k in range(400)]
    assert sum(of_second) == dataset.train.counts(400)[str(second)] > 80
    text = "".join(decode(row["tokens"]) for row in (dataset.valid.row(k) for k in range(len(dataset.valid))))
    assert "guten Tag" in text and "zwei" in text
    row = dataset.train.row(of_second.index(True))
    assert 0 < row["weights"].sum() < (row["segments"] > 0).sum()


def test_short_texts_come_first_when_asked(tmp_path):
    section = SimpleNamespace(by="length", epochs=1, noise=0.0, start_length=None, grow_rows=None)
    dataset = open_dataset(data(folder_of("labels", tmp_path / "labels"), "labels", length=99, curriculum=section), 1)
    lengths = [int(row["segments"].sum()) for row in epoch(dataset.train)]
    assert lengths == sorted(lengths) and len(set(lengths)) > 5
    section.start_length, section.grow_rows = 4, 10
    with pytest.raises(UserError, match="data.curriculum.start_length cuts texts"):
        open_dataset(data(tmp_path / "labels", "labels", curriculum=section), 1)
