"""Folders of labelled texts, images and sounds as records, and what in them is broken, missing or left over."""

import io
import itertools
import subprocess
import sys

import numpy as np
import pytest

from lmjax.data import readers
from lmjax.data.readers import folders
from lmjax.data.records import BadRecord
from lmjax.errors import UserError

PIL = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")


def everything(path, kind, columns=None):
    found = readers.find(path, kind, columns)
    return [record for piece in readers.pieces(found) for record in readers.read(found, piece)]


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def picture(seed, form="PNG", size=24):
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    PIL.fromarray(pixels).save(stream := io.BytesIO(), form)
    return stream.getvalue()


def wave(seed, form="WAV", channels=1, seconds=0.5, rate=8000):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    soundfile.write(stream := io.BytesIO(), samples, rate, format=form)
    return stream.getvalue(), samples


def test_a_folder_for_each_label_is_labelled_text(tmp_path, monkeypatch):
    write(tmp_path, {"ham/a.txt": "see you", "spam/x/b.txt": "buy", "spam/c.txt": "", "d.txt": "?", "ham/e.md": "no"})
    records = everything(tmp_path, "labels")
    assert [record for record in records if isinstance(record, dict)] == [
        {"text": "see you", "label": "ham"},
        {"text": "buy", "label": "spam"},
    ]
    bad = {record.where: record.reason for record in records if isinstance(record, BadRecord)}
    assert bad == {"d.txt": "no label", "spam/c.txt": "empty field"}
    assert readers.find(tmp_path, "labels").others == {".md": 1}
    monkeypatch.setattr(folders, "SIZE", 1)
    assert everything(tmp_path, "labels") == records and len(readers.pieces(readers.find(tmp_path, "labels"))) == 2


def test_a_folder_for_each_label_is_labelled_images(tmp_path):
    files = {"cat/1.png": picture(1), "dog/2.JPG": picture(2, "JPEG"), "dog/notes.txt": "x"}
    records = everything(write(tmp_path, files), "image_labels")
    assert records == [
        {"image": files["cat/1.png"], "label": "cat"},
        {"image": files["dog/2.JPG"], "label": "dog"},
    ]


@pytest.mark.parametrize("table", ["captions.csv", "captions.tsv", "captions.jsonl", "list.csv"])
def test_images_have_the_captions_of_a_list(tmp_path, table):
    images = {f"pictures/{n}.png": picture(n) for n in range(3)}
    rows = [("pictures/1.png", "one, 字"), ("./pictures/0.png", "zero")]
    rows += [("../secret.png", "out"), ("pictures/9.png", "gone"), ("pictures/2.png", "")]
    if table.endswith("l"):
        content = "\n".join(f'{{"file": "{file}", "caption": "{caption}"}}' for file, caption in rows)
    else:
        between = "," if table.endswith(".csv") else "\t"
        content = "\n".join(between.join(f'"{one}"' for one in row) for row in [("file", "caption"), *rows])
    records = everything(write(tmp_path, {table: content} | images), "images")
    assert records[:2] == [
        {"image": images["pictures/1.png"], "caption": "one, 字"},
        {"image": images["pictures/0.png"], "caption": "zero"},
    ]
    assert [record.reason for record in records[2:]] == ["missing file", "missing file", "empty field"]


def test_images_that_the_list_forgets_are_counted(tmp_path):
    write(tmp_path, {"captions.csv": "file,caption\na.png,x\n", "a.png": picture(1), "b.png": picture(2)})
    assert readers.find(tmp_path, "images").others == {"files not in captions.csv": 1}


def test_a_list_may_have_other_columns(tmp_path):
    write(tmp_path, {"metadata.csv": "file_name,n,text\na.png,1,hello\n", "a.png": picture(1)})
    assert everything(tmp_path, "images", ("file_name", "text"))[0]["caption"] == "hello"
    with pytest.raises(UserError, match="no column is named 'file'; .* 'file_name', 'n', 'text'"):
        everything(tmp_path, "images")


def test_a_text_beside_an_image_is_its_caption(tmp_path):
    files = {"a.png": picture(1), "a.txt": "a square\n", "b/c.jpg": picture(2, "JPEG"), "readme.txt": "read me"}
    records = everything(write(tmp_path, files), "images")
    assert records[0] == {"image": files["a.png"], "caption": "a square"}
    assert records[1][:2] == ("b/c.jpg", "no text beside it") and len(records) == 2
    assert readers.find(tmp_path, "images").others == {".txt": 1}


def broken_images():
    whole = picture(5, size=40)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    jpeg = picture(6, "JPEG", size=64)
    summed = whole[:-16] + bytes(4) + whole[-12:]  # the check sum of the pixels, before the last chunk
    return {
        "sum": summed,
        "cut": whole[:middle],
        "flipped": flipped,
        "empty": b"",
        "text": b"no image",
        "jpeg": jpeg[: len(jpeg) // 2],
    }


@pytest.mark.parametrize("fault", broken_images())
def test_a_broken_image_is_named_and_the_others_are_read(tmp_path, fault):
    write(tmp_path, {"x/a.png": picture(1), "x/b.png": broken_images()[fault], "x/c.png": picture(3)})
    first, second, third = everything(tmp_path, "image_labels")
    assert first["image"] == picture(1) and third["image"] == picture(3)
    assert second[:2] == ("x/b.png", "broken image")


@pytest.mark.parametrize("form, near", [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.5)])
@pytest.mark.parametrize("channels", [1, 2])
def test_sounds_are_mixed_to_one_channel_and_keep_their_rate(tmp_path, form, near, channels):
    raw, samples = wave(1, form, channels)
    name = f"a.{form.lower()}"
    write(tmp_path, {name: raw, "transcripts.csv": f"file,text\n{name},hello there\n"})
    (record,) = everything(tmp_path, "speech")
    assert (record["rate"], record["text"], record["audio"].dtype) == (8000, "hello there", np.float32)
    np.testing.assert_allclose(record["audio"], samples.mean(axis=1), atol=near)
    write(tmp_path, {"a.txt": "hello there"})
    (tmp_path / "transcripts.csv").unlink()
    assert np.array_equal(everything(tmp_path, "speech")[0]["audio"], record["audio"])


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_sound_is_named(tmp_path, form, share):
    raw, _ = wave(2, form)
    name = f"b.{form.lower()}"
    write(tmp_path, {name: raw[: int(len(raw) * share)], "b.txt": "x", "c.wav": wave(3)[0], "c.txt": "y"})
    bad, good = everything(tmp_path, "speech")
    assert bad.where == name and bad.reason in ("truncated audio", "broken audio")
    assert good["text"] == "y"


@pytest.mark.parametrize(
    "raw, reason", [(b"", "broken audio"), (b"RIFF", "broken audio"), (wave(1, seconds=0)[0], "empty")]
)
def test_what_is_no_sound_is_named(tmp_path, raw, reason):
    write(tmp_path, {"a.wav": raw, "a.txt": "x"})
    (record,) = everything(tmp_path, "speech")
    assert record.where == "a.wav" and record.reason.startswith(reason)


@pytest.mark.parametrize(
    "kind, files, message",
    [
        ("images", {"a.txt": "x"}, r"no \.png, \.jpg or \.jpeg file in this folder \(found: 1 \.txt\)"),
        ("images", {"a.png": "x"}, r"no caption for the 1 files: list them in captions\.csv"),
        ("speech", {"a.wav": "x"}, r"no text for the 1 files: list them in transcripts\.csv"),
        ("labels", {"a.txt": "x"}, "no labelled text: put one folder"),
        ("pairs", {"a.en": "x", "b.de": "y"}, "no pairs: put two files of equal line count"),
        ("images", {"a.png": "x", "b.csv": "x", "c.csv": "x"}, r"which of b\.csv, c\.csv lists the files"),
    ],
)
def test_a_folder_without_records_of_the_kind_says_what_is_needed(tmp_path, kind, files, message):
    with pytest.raises(UserError, match=message):
        readers.find(write(tmp_path, files), kind)


def test_an_image_that_changes_after_it_was_found_is_refused(tmp_path):
    write(tmp_path, {"x/a.png": picture(1), "x/b.png": picture(2)})
    found = readers.find(tmp_path, "image_labels")
    write(tmp_path, {"x/b.png": picture(2) + b"more"})
    with pytest.raises(UserError, match=r"b\.png changed while it was read"):
        [*itertools.chain(*(readers.read(found, piece) for piece in readers.pieces(found)))]


def test_reading_media_loads_no_tensorflow(tmp_path):
    write(tmp_path, {"a.wav": wave(1)[0], "a.txt": "x", "y/b.png": picture(1)})
    code = (
        "import sys; from pathlib import Path; from lmjax.data import readers\n"
        "for kind in ('speech', 'image_labels'):\n"
        "    f = readers.find(Path(sys.argv[1]), kind); print(len([*readers.read(f, *readers.pieces(f))]))\n"
        "print({'tensorflow', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "1\n1\nset()\n", done.stderr
