"""TFDS (as ArrayRecord, without TensorFlow) and Hugging Face datasets on this machine as records."""

import functools
import io
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lmjax.data import readers, sources
from lmjax.data.readers import prepared
from lmjax.data.records import BadRecord
from lmjax.errors import UserError

COUNT = 40
NAMES = ["ham", "spam"]


@functools.cache
def picture(n):
    from PIL import Image

    Image.fromarray(np.full((4, 4, 3), n, np.uint8)).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def tone(n):
    return np.arange(n, n + 50, dtype=np.int16) * 100


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A prepared dataset with features of all kinds, and the same without its code."""
    import tensorflow_datasets as tfds

    class Mixed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            f = tfds.features
            content = {
                "text": f.Text(),
                "label": f.ClassLabel(names=NAMES),
                "image": f.Image(shape=(None, None, 3)),
                "audio": f.Tensor(shape=(None,), dtype=np.int16),
                "rate": f.Scalar(np.int64),
            }
            return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(content))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for n in range(COUNT):
                text = f"text {n} 字" if n != 7 else b"caf\xe9"
                image = io.BytesIO(picture(n))
                yield n, {"text": text, "label": n % 2, "image": image, "audio": tone(n), "rate": 8000}

    builder = Mixed(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    soundfile = pytest.importorskip("soundfile")

    def sound(n):
        soundfile.write(stream := io.BytesIO(), tone(n), 8000, format="WAV")
        return {"bytes": stream.getvalue(), "path": None}

    content = {
        "text": [f"text {n} 字" if n != 7 else None for n in range(COUNT)],
        "label": [n % 2 for n in range(COUNT)],
        "image": [{"bytes": picture(n), "path": None} for n in range(COUNT)],
        "audio": [sound(n) for n in range(COUNT)],
    }
    types = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=NAMES),
        "image": datasets.Image(),
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    }
    folder = tmp_path_factory.mktemp("hf")
    table = datasets.Dataset.from_dict(content, features=datasets.Features(types))
    table = table.cast_column("audio", datasets.Audio())  # to make it from sounds needs torch
    datasets.DatasetDict({"train": table}).save_to_disk(str(folder / "both"))
    return str(folder / "both")


@pytest.fixture(params=["tfds", "hf"])
def spec(request):
    return f"{request.param}:{request.getfixturevalue(f'{request.param}_folder')}"


def everything(spec, kind, columns=None):
    found = pickle.loads(pickle.dumps(readers.find_prepared(spec, kind, columns)))
    records = [record for piece in readers.pieces(found) for record in readers.read(found, piece)]
    good = [record for record in records if not isinstance(record, BadRecord)]
    return good, [record for record in records if isinstance(record, BadRecord)]


def number(record):
    return int(record["text"].split()[1])


def test_texts_and_labels_are_there_by_name_and_a_broken_text_is_named(spec, monkeypatch):
    good, bad = everything(spec, "labels")
    assert {number(record): record["label"] for record in good} == {n: NAMES[n % 2] for n in range(COUNT) if n != 7}
    assert all(record["text"].endswith(" 字") for record in good)
    assert [one.reason for one in bad] == ["invalid UTF-8" if spec.startswith("tfds") else "missing value"]
    monkeypatch.setattr(prepared, "SIZE", 3000)
    assert len(readers.pieces(readers.find_prepared(spec, "labels", None))) > 1
    assert everything(spec, "labels") == (good, bad)


def test_images_are_their_files_and_sounds_keep_their_samples(spec):
    good, _ = everything(spec, "images", ["image", "text"])
    assert all(record["image"] == picture(int(record["caption"].split()[1])) for record in good)
    good, _ = everything(spec, "speech")
    assert {record["rate"] for record in good} == {8000} and len(good) == COUNT - 1
    for record in good:
        np.testing.assert_allclose(record["audio"], tone(number(record)) / 32768, atol=1e-6)
        assert record["audio"].dtype == np.float32


def test_a_split_can_be_a_part_of_one(tfds_folder):
    good, bad = everything(f"tfds:{tfds_folder}:test[:25%]", "labels")
    assert len(good) + len(bad) == COUNT // 4


def test_the_split_and_the_columns_are_in_the_fingerprint(tfds_folder):
    spec = f"tfds:{tfds_folder}"
    marks = [
        sources.open_source(spec).fingerprint,
        sources.open_source(f"{spec}:test").fingerprint,
        sources.open_source(spec, "labels").fingerprint,
    ]
    assert len(set(marks)) == 3 and sources.open_source(f"{spec}:train").fingerprint == marks[0]


def test_what_is_not_there_is_named(spec, tmp_path):
    library = spec.partition(":")[0]
    with pytest.raises(UserError, match="unknown feature of .* 'txt'; did you mean 'text'"):
        readers.find_prepared(spec, "text", ["txt"])
    with pytest.raises(UserError, match="unknown split of .* 'trian'; did you mean 'train'"):
        readers.find_prepared(f"{spec}:trian", "text", None)
    with pytest.raises(UserError, match=r"finds no such dataset|is no folder that save_to_disk"):
        sources.open_source(f"{library}:no_such_dataset_at_all")


def test_a_dataset_that_is_not_prepared_says_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"not prepared in .*builder\('mnist', file_format='array_record'\)"):
        sources.open_source("tfds:mnist", "image_labels")


def test_a_truncated_dataset_is_refused(tfds_folder, tmp_path):
    folder = tmp_path / "1.0.0"
    shutil.copytree(tfds_folder, folder)
    with open(next(folder.glob("*train*")), "r+b") as file:
        file.truncate(900)
    with pytest.raises(UserError, match=r"1\.0\.0 is damaged \(ArrayRecord.*prepare it again"):
        everything(f"tfds:{folder}", "text")


def test_reading_loads_no_tensorflow(spec):
    code = (
        "import sys; from lmjax.data import sources; s = sources.open_source(sys.argv[1]);"
        "print(sum(len([*s.read(p)]) for p in s.pieces()), {'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True)
    assert done.stdout == f"{COUNT} set()\n", done.stderr
