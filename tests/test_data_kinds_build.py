"""Builds of pairs, labels and images: the same bytes for any number of workers and stops; splits, keys and refusals."""

import json
from types import SimpleNamespace

import pytest
from kind_folders import KINDS, data, folder_of, table

from lmjax.data import build, open_dataset, plan, shards, sources, worker
from lmjax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(plan, "PART", 500)
    for reader, size in (("lines", 500), ("folders", 5000), ("tables", 500)):
        monkeypatch.setattr(f"lmjax.data.readers.{reader}.SIZE", size)


def contents(cache):
    """Of the one folder that was prepared there."""
    (made,) = [path for path in (cache / "data").iterdir() if path.is_dir()]
    return {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_workers_do_not_change_a_byte(tmp_path, kind, monkeypatch, small_parts):
    folder = folder_of(kind, tmp_path / kind)
    found = {}
    for workers in (1, 3):
        monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / f"cache{workers}"))
        dataset = open_dataset(data(folder, kind), 0, workers=workers)
        found[workers] = contents(tmp_path / f"cache{workers}")
    assert found[1] == found[3]
    assert len(dataset.stats["train"]["files"]) > 1


@pytest.mark.parametrize("kind", ["labels", "image_labels"])
def test_a_build_that_was_stopped_is_gone_on_with_and_ends_the_same(tmp_path, cache, kind, monkeypatch, small_parts):
    config, real = data(folder_of(kind, tmp_path / kind), kind), worker.each
    open_dataset(config, 0, workers=1)
    whole = contents(cache)
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "stopped"))
    for stopped, last in ((plan.CountLabels, 1), (build.Make, 0), (build.Make, 2)):

        def each(job, numbers, workers, stopped=stopped, last=last):
            for number, answer in zip(numbers, real(job, numbers, workers), strict=True):
                yield answer
                if isinstance(job, stopped) and number >= last:
                    raise KeyboardInterrupt

        monkeypatch.setattr(worker, "each", each)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(config, 0, workers=1)
    monkeypatch.setattr(worker, "each", real)
    said = []
    open_dataset(config, 0, said.append, workers=1)
    assert contents(tmp_path / "stopped") == whole and any(line.startswith("3 of") for line in said)


def test_an_input_is_never_on_both_sides(tmp_path):
    """Whatever it is paired with: the split goes by what the model is given."""
    folder = table(tmp_path / "pairs", ("source", "target"), [(f"word {n % 25}", f"Wort {n}") for n in range(100)])
    dataset = open_dataset(data(folder, "pairs"), 1, workers=1)
    sides = []
    for documents in (dataset.train.documents, dataset.valid.documents):
        ids = [documents.read(i, 0, int(n)).tolist() for i, n in enumerate(documents.lengths)]
        sides.append({tuple(one[: one.index(dataset.tokenizer.special("sep"))]) for one in ids})
    assert len(sides[0]) + len(sides[1]) == 25 and not sides[0] & sides[1] and all(sides)


def test_the_key_of_text_says_nothing_of_kinds_and_that_of_others_does(tmp_path):
    folder = folder_of("labels", tmp_path / "labels")
    source = sources.open_source(str(folder), "text")
    plain = shards.parts(source, SimpleNamespace(**{k: v for k, v in vars(data(folder, "")).items() if k != "kind"}))
    assert plain == shards.parts(source, data(folder, "text", image_size=99)) and not {"kind", "image_size"} & set(
        plain
    )
    keys = [shards.parts(source, data(folder, kind, image_size=size)) for kind in KINDS for size in (8, 9)]
    assert len({json.dumps(key) for key in [plain, *keys]}) == 1 + 2 + 4  # pairs and labels have no image


@pytest.mark.parametrize(
    "kind, leaves, said",
    [
        (
            "pairs",
            {"packing": "concat"},
            "data.packing=concat: of data.kind=pairs it would cut them; say --config.data.packing=none or best_fit",
        ),
        ("labels", {"packing": "best_fit"}, "would put several into a row; say --config.data.packing=none"),
        ("image_labels", {"image_size": 0}, "data.image_size=0"),
        ("image_labels", {"clean": {"contamination": 13}}, "data.kind=image_labels has no text"),
        ("speech", {}, "data.kind=speech can be read and listed, not trained on yet"),
        ("pictures", {}, "unknown value of data.kind 'pictures'"),
        ("labels", {"mixture": SimpleNamespace(sources=("bible",))}, "data.kind=labels cannot"),
    ],
)
def test_what_does_not_fit_a_kind_says_so(tmp_path, kind, leaves, said):
    folder = folder_of(kind if kind in KINDS else "labels", tmp_path / "source")
    with pytest.raises(UserError, match=said):
        open_dataset(data(folder, kind, **leaves), 1, workers=1)


def test_a_tokenizer_with_one_mark_for_both_ends_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[SEP]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["[SEP]"])
    words.save(str(tmp_path / "words.json"))
    folder = folder_of("pairs", tmp_path / "pairs")
    with pytest.raises(UserError, match="one mark .* take a tokenizer with an end of text"):
        open_dataset(data(folder, "pairs", tokenizer=str(tmp_path / "words.json")), 1, workers=1)
