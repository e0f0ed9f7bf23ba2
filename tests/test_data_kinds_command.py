"""`lmjax data build|stats|show` and the data card of pairs, labels and images say what was prepared."""

import base64
import io
import re

import numpy as np
import pytest
from kind_folders import KINDS, LEAVES, data, folder_of, table
from PIL import Image
from rich.console import Console

from lmjax.__main__ import main
from lmjax.data import open_dataset, picture, row_view


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def printed(capfd, action, folder, kind, *words, code=0):
    """What `lmjax data ACTION` prints."""
    leaves = {"kind": kind} | {name: LEAVES[name] for name in ("packing", "length", "valid_fraction", "image_size")}
    options = [f"--config.data.{name}={value}" for name, value in leaves.items()]
    assert main(["data", action, str(folder), *words, *options]) == code
    out, err = capfd.readouterr()
    return out if code == 0 else err


@pytest.mark.parametrize("kind", KINDS)
def test_build_and_stats_say_what_the_manifest_says(tmp_path, kind, capfd):
    folder = folder_of(kind, tmp_path / kind)
    built, stats = printed(capfd, "build", folder, kind, "--workers=1"), printed(capfd, "stats", folder, kind)
    dataset = open_dataset(data(folder, kind), 0)
    assert dataset.fingerprint in built and dataset.fingerprint in stats
    for split in ("train", "valid"):
        line = next(line for line in stats.splitlines() if line.startswith(split))
        assert line.split()[1] == str(dataset.stats[split]["documents"])
    for i, name in enumerate(dataset.classes):
        counts = [str(dataset.stats["label_counts"][split][i]) for split in ("train", "valid")]
        assert any(line.split()[:3] == [name, *counts] for line in stats.splitlines())
    assert ("tokens a document" in stats) == (kind != "image_labels")


@pytest.mark.parametrize("kind", KINDS)
def test_show_prints_the_image_the_label_and_the_text_of_a_row(tmp_path, kind, capfd):
    folder = folder_of(kind, tmp_path / kind)
    dataset = open_dataset(data(folder, kind), 0, workers=1)
    shown = printed(capfd, "show", folder, kind, "2", "--split", "valid")
    row = dataset.valid.row(2)
    about, _, rest = shown[shown.index("row 2 of valid: ") :].partition("\n")
    assert ("an image of 8 x 8 pixels" in about) == ("image" in row)
    assert ("label" in row) == ("label " in about)
    if "label" in row:
        assert f"label {dataset.classes[row['label']]} ({row['label']})" in about
    if "image" in row:
        assert rest.startswith(picture.shades(row["image"]).plain)
    if "tokens" in row:
        first = row["tokens"][row["segments"] == 1]
        assert dataset.tokenizer.decode(first) in rest.replace("<doc>", "").replace("<sep>", "")
        assert rest.count("<sep>") == (row["segments"].max() if kind == "pairs" else 0)


def test_an_image_in_a_terminal_has_the_colours_of_its_pixels():
    pixels = np.random.RandomState(0).randint(0, 256, (6, 4, 3), np.uint8)
    out = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    out.print(picture.blocks(pixels))
    found = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", out.file.getvalue())
    assert np.array(found, int).reshape(3, 4, 2, 3).transpose(0, 2, 1, 3).reshape(6, 4, 3).tolist() == pixels.tolist()


def test_a_large_image_is_made_small_by_means():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = (200, 100, 50)
    lines = picture.blocks(pixels, width=10).plain.split("\n")
    assert [len(line) for line in lines] == [10, 10]  # 10 x 4 pixels: two lines of half blocks
    assert picture.shades(pixels, width=10).plain.split("\n")[0] == "     ====="  # of luma 124


def test_the_two_marks_of_a_pair_are_shown_by_name(tmp_path):
    dataset = open_dataset(data(folder_of("pairs", tmp_path / "pairs"), "pairs"), 0, workers=1)
    row = dataset.train.row(0)
    shown = "".join(row_view.pieces(dataset.tokenizer, row["tokens"][row["segments"] == 1]))
    assert re.fullmatch(r"<doc>good day, number \d+<sep>guten Tag, Nummer \d+, (ja)*", shown)


def test_the_card_has_pictures_with_their_captions_and_counts_of_labels(tmp_path, cache):
    for kind in ("images", "image_labels"):
        folder = folder_of(kind, tmp_path / kind)
        dataset = open_dataset(data(folder, kind), 0, workers=1)
    pages = [path.read_text("utf-8") for path in sorted((cache / "data").glob("*/data_card.html"))]
    assert len(pages) == 2
    for page in pages:
        found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt=""><figcaption>([^<]+)', page)
        assert len(found) == 24
        images = [Image.open(io.BytesIO(base64.b64decode(raw))) for raw, _ in found]
        assert {image.size for image in images} == {(64, 64)} and len({image.tobytes() for image in images}) == 24
        captions = {caption for _, caption in found}
        assert captions == set(dataset.classes) or all(re.fullmatch(r"picture \d+ ✓", caption) for caption in captions)
    (labels,) = [
        path.read_text("utf-8") for path in (cache / "data").glob("*/DATA_CARD.md") if "Labels" in path.read_text()
    ]
    for name, count in zip(dataset.classes, dataset.stats["label_counts"]["train"], strict=True):
        assert f"| {name} | {count} |" in labels
    assert "SHA-256 of their image" in labels


def test_a_card_of_pairs_shows_both_sides_as_text(tmp_path, cache):
    rows = [(f"<b>bold</b> {n}", f"| fett {n}") for n in range(40)]
    open_dataset(data(table(tmp_path / "pairs", ("source", "target"), rows), "pairs"), 0, workers=1)
    (page,) = (cache / "data").glob("*/data_card.html")
    assert re.search(r"&lt;b&gt;bold&lt;/b&gt; \d+ → \| fett \d+", page.read_text("utf-8"))


@pytest.mark.parametrize(
    "action, kind, words, said",
    [
        ("tokenizer", "image_labels", (), "data.kind=image_labels has no text, and so no tokenizer"),
        ("show", "image_labels", ("999", "--split", "valid"), "the validation split has"),
    ],
)
def test_a_mistake_is_told(tmp_path, action, kind, words, said, capfd):
    folder = folder_of(kind, tmp_path / kind)
    assert said in printed(capfd, action, folder, kind, *words, code=2)
