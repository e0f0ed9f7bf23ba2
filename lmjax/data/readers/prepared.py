"""Datasets that another library has prepared on this machine: TFDS (as ArrayRecord), and Hugging Face `datasets`.

    tfds:NAME[/CONFIG][:SPLIT] or tfds:FOLDER[:SPLIT]       hf:FOLDER[:SPLIT], as save_to_disk left it

Neither is downloaded here, and neither needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmjax.data import shapes, text
from lmjax.data.readers import files, media
from lmjax.data.readers.files import Found
from lmjax.data.readers.lines import SIZE
from lmjax.data.records import BadRecord, Piece, Record, fields
from lmjax.errors import UserError, unknown

RATES = ("rate", "sample_rate", "sampling_rate")


class Opened(NamedTuple):
    """A split: its examples by number, and the library's description of each feature."""

    examples: Sequence[dict]
    features: Any  # a mapping


def find(spec: str, kind: str, columns: Sequence[str] | None) -> Found:
    """The prepared dataset that "tfds:..." or "hf:..." names. UserError when it is not here or lacks a feature."""
    library, _, name = spec.partition(":")
    name, _, split = name.partition(":")
    root, names = LOCATE[library](spec, name), fields(kind, columns)
    opened = _opened(library, root, split or "train")
    for wanted in names.values():
        if wanted not in opened.features:
            raise unknown(f"feature of {spec}", wanted, opened.features, "data.columns says which to read.")
    bare = kind == "speech" and not hasattr(opened.features[names["audio"]], "sampling_rate")
    if bare and not any(rate in opened.features for rate in RATES):
        raise UserError(f"{spec} has sounds and no feature that says their rate in Hz: {', '.join(RATES)}")
    here, links = files.walk(root)
    return files.found(root, kind, names, library, here, links, (split or "train",))


def pieces(found: Found) -> list[Piece]:
    """Consecutive examples; start and stop are their numbers."""
    opened = _opened(found.arrangement, found.root, *found.chosen)
    with _whole(found):
        count = len(opened.examples)
    total = sum(size for size, _ in found.stamps.values())
    step = max(1, SIZE * count // max(1, total))
    return [Piece(found.chosen[0], start, min(count, start + step)) for start in range(0, count, step)]


def read(found: Found, piece: Piece) -> Iterator[Record | BadRecord]:
    """The records of a piece."""
    for name in found.files:
        found.unchanged(name)
    examples, features = _opened(found.arrangement, found.root, *found.chosen)
    for number in range(piece.start, piece.stop):
        with _whole(found):
            example = examples[number]
        yield _record(found, f"{piece.file} example {number}", example, features)


@contextlib.contextmanager
def _whole(found: Found) -> Iterator[None]:
    """UserError where the libraries find that their files are damaged."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{found.root} is damaged ({error}): prepare it again") from None


def _record(found: Found, where: str, example: dict, features: Any) -> Record | BadRecord:
    made = {}
    for field, name in found.fields.items():
        value = _value(field, example[name], features[name], where)
        if isinstance(value, BadRecord):
            return value
        if field == "audio":
            sounds, rate = value
            made |= {"audio": sounds, "rate": rate or int(next(example[one] for one in RATES if one in example))}
            continue
        value = shapes.kept(field, value)
        if wrong := None if field == "image" else shapes.wrong(field, value, repr(name), "text"):
            return BadRecord(where, *wrong)
        if not value and found.kind != "text" and field != "answer":
            return BadRecord(where, "empty field", f"{name!r} is empty here")
        made[field] = value
    wrong = shapes.misfit(found.kind, made)
    return BadRecord(where, *wrong) if wrong else made


def _value(field: str, value: Any, feature: Any, where: str) -> Any:
    """What a feature holds, as a record has it; audio as (samples, rate or 0)."""
    if field == "image":
        raw = value["bytes"] if isinstance(value, dict) else value
        return media.image(raw, where) if isinstance(raw, bytes) else BadRecord(where, "broken image", "no bytes here")
    if field == "audio" and isinstance(value, dict):
        return media.sound(value["bytes"] or Path(value["path"]).read_bytes(), where)
    if field == "audio":
        samples = np.asarray(value)
        scale = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max) + 1
        return (samples / scale).astype(np.float32), 0
    if hasattr(feature, "int2str") and isinstance(value, (int, np.integer)):
        return feature.int2str(int(value)) if value >= 0 else None  # -1: no label
    if field in shapes.LISTS:
        return _items(value, getattr(feature, "feature", feature))
    if isinstance(value, bytes):
        return text.decoded(value, where, None)
    return str(value) if field == "label" and isinstance(value, (int, np.integer)) else value


def _items(values: Any, feature: Any) -> Any:
    """A list of strings: names of classes, where the library has their numbers."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        return values
    numbered = hasattr(feature, "int2str")
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    plain = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in plain]
    return [feature.int2str(value) if numbered and isinstance(value, int) else value for value in plain]


@functools.lru_cache(maxsize=4)
def _opened(library: str, root: Path, split: str) -> Opened:
    return OPEN[library](root, split)


def _locate_tfds(spec: str, name: str) -> Path:
    import tensorflow_datasets as tfds

    import lmjax.data.builders  # noqa: F401  (its corpora are builders from here on)

    folder = Path(name).expanduser()
    if (folder / "dataset_info.json").is_file():
        return folder
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(f"data.source={spec}: TFDS finds no such dataset ({str(error).splitlines()[0]})") from None
    folder = Path(str(builder.data_path))
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f'data.source={spec}: it is not prepared in {folder}. Once, as ArrayRecord: python -c "import '
            f"lmjax.data.builders, tensorflow_datasets as t; t.builder('{name}', file_format='array_record')"
            '.download_and_prepare()"'
        )
    return folder


def _open_tfds(root: Path, split: str) -> Opened:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(root))
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{root} is prepared as {builder.info.file_format.value}, which needs TensorFlow to be read: prepare it again "
            "with file_format='array_record'"
        )
    features = builder.info.features
    raw = {name: tfds.decode.SkipDecoding() for name, one in features.items() if isinstance(one, tfds.features.Image)}
    if split.partition("[")[0] not in builder.info.splits:
        raise unknown(f"split of {root}", split, builder.info.splits)
    return Opened(builder.as_data_source(split, decoders=raw or None), features)


def _locate_hf(spec: str, name: str) -> Path:
    folder = Path(name).expanduser()
    if not any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        raise UserError(
            f"data.source={spec}: {folder.absolute()} is no folder that save_to_disk of Hugging Face datasets wrote (no "
            "dataset_dict.json or state.json there). Folders of .parquet, .csv or .jsonl are read as they are, without hf:"
        )
    return folder


def _open_hf(root: Path, split: str) -> Opened:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"{root}: reading it needs Hugging Face datasets: pip install 'lmjax[hf]'") from None
    loaded = datasets.load_from_disk(str(root))
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise unknown(f"split of {root}", split, loaded)
        loaded = loaded[split]
    for name, feature in loaded.features.items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            loaded = loaded.cast_column(name, type(feature)(decode=False))
    return Opened(loaded, loaded.features)


LOCATE = {"tfds": _locate_tfds, "hf": _locate_hf}
OPEN = {"tfds": _open_tfds, "hf": _open_hf}
