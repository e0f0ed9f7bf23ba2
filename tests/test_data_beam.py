"""A build by Apache Beam is the ordinary build, byte for byte; and a part that is made twice at once is made once."""

import functools
import importlib.util
import json
import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from lmjax.__main__ import main
from lmjax.data import beam, build, open_dataset, plan, sources, store, text, tokenizers, worker
from lmjax.data.readers import folders
from lmjax.errors import UserError

LEAVES = {
    "tokenizer": "bpe", "vocab": 300, "special": (), "columns": None, "length": 16, "valid_fraction": 0.3, "limit": None,
    "clean": {"exact_duplicates": True, "contamination": 13, "contamination_limit": 1.0},
}  # fmt: skip
LABELS = ("even", "odd")
BYTES = {"tokenizer": "bytes", "vocab": None}
PROCESSES = ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def apache_beam():
    pytest.importorskip("apache_beam", reason="needs the extra beam")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """41 files of 300 to 800 bytes in two folders, two of them copies; parts of about five files."""
    monkeypatch.setattr(plan, "PART", 3000)
    monkeypatch.setattr(folders, "SIZE", 3000)
    rng = random.Random(7)
    for label in LABELS:
        (tmp_path / "text" / label).mkdir(parents=True)
    words = "sheep hill rain over under went came down wet home again slowly".split()
    for n in range(40):
        text = " ".join(rng.choice(words) for _ in range(60 + n % 90))
        (tmp_path / "text" / LABELS[n % 2] / f"{n:02d}.txt").write_text(f"{n} {text}")
    (tmp_path / "text" / "odd" / "copy.txt").write_text((tmp_path / "text" / "odd" / "03.txt").read_text())
    return tmp_path / "text"


def prepare(folder, cache, monkeypatch, workers, **leaves):
    """The name and the bytes of every file of the folder that a build leaves in that cache."""
    monkeypatch.setenv("LMJAX_CACHE", str(cache))
    data = SimpleNamespace(**{**LEAVES, "source": str(folder), **leaves})
    open_dataset(data, 0, lambda line: None, workers=workers)
    (found,) = [path for path in (cache / "data").iterdir() if path.is_dir()]  # and no .building
    contents = {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}
    return found.name, contents


@pytest.mark.parametrize(
    "options, leaves",
    [
        (("--runner=DirectRunner",), {}),
        (("--runner=DirectRunner",), {**BYTES, "kind": "labels", "packing": "none"}),
        (PROCESSES, {**BYTES, "clean": {}}),
    ],
    ids=["text", "labels", "processes"],
)
def test_beam_gives_the_ordinary_folder_byte_for_byte(apache_beam, folder, tmp_path, monkeypatch, options, leaves):
    ordinary = prepare(folder, tmp_path / "ordinary", monkeypatch, 1, **leaves)
    assert prepare(folder, tmp_path / "beam", monkeypatch, beam.Beam(options), **leaves) == ordinary
    manifest = json.loads(ordinary[1][store.MANIFEST])
    if "clean" not in leaves:
        assert manifest["cleaning"]["removed"] == {"exact_duplicates": 1} and "contamination" in manifest
    assert len(manifest["train"]["files"]) > 5


@pytest.mark.parametrize("first, then", [("beam", 1), (1, "beam")])
def test_what_one_way_began_the_other_goes_on_with(apache_beam, folder, tmp_path, monkeypatch, first, then):
    ways = {"beam": beam.Beam(("--runner=DirectRunner",)), 1: 1}
    whole = prepare(folder, tmp_path / "whole", monkeypatch, 1, **BYTES)
    real = worker.each

    def each(job, numbers, workers):
        some = numbers if not isinstance(job, build.Make) else [number for number in numbers if number < 3]
        yield from real(job, some, workers)
        if isinstance(job, build.Make):
            raise store.Unfinished("the machine went away")

    monkeypatch.setattr(worker, "each", each)
    with pytest.raises(store.Unfinished):
        prepare(folder, tmp_path / "cache", monkeypatch, ways[first], **BYTES)
    monkeypatch.setattr(worker, "each", real)
    (beside,) = (tmp_path / "cache" / "data").glob("*.building")
    assert sorted(path.name for path in beside.glob("notes/0*.json")) == ["00000.json", "00001.json", "00002.json"]
    assert prepare(folder, tmp_path / "cache", monkeypatch, ways[then], **BYTES) == whole


def test_the_first_part_that_cannot_be_read_is_named(apache_beam, folder, tmp_path, monkeypatch):
    for name in ("15.txt", "35.txt"):
        (folder / "odd" / name).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"15\.txt.*invalid UTF-8"):
        prepare(folder, tmp_path / "cache", monkeypatch, beam.Beam(PROCESSES), clean={}, **BYTES)
    assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]


class Job(SimpleNamespace):
    """Fails in part 2 in a way that is not the user's mistake."""

    def __call__(self, number):
        if number == 2:
            raise RuntimeError("no such luck")
        return 10 * number


def test_answers_come_in_order_and_a_failed_pipeline_keeps_what_is_done(apache_beam, tmp_path):
    job = Job(plan=SimpleNamespace(notes=tmp_path))
    run = beam.Beam(("--runner=DirectRunner",))
    assert list(run(job, [5, 1, 9])) == [50, 10, 90] and list(run(job, [])) == []
    with pytest.raises(store.Unfinished, match="no such luck"):
        list(run(job, [1, 2, 3]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option, message", [("--runner=Nope", "Nope.*DirectRunner"), ("--direct_num_workers=x", "'x'")]
)
def test_an_option_that_has_no_meaning_is_refused_before_any_work(apache_beam, folder, capsys, option, message):
    assert main(["data", "build", str(folder), "--beam", "--", option]) == 2
    said = capsys.readouterr()
    assert not said.out and re.search(message, said.err.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is here")
def test_without_apache_beam_one_is_told_how_to_get_it(folder, capsys):
    assert main(["data", "build", str(folder), "--beam"]) == 2
    assert "lmjax[beam]" in capsys.readouterr().err


def test_only_beam_takes_words_behind_two_dashes(folder, capsys):
    assert main(["data", "build", str(folder), "--", "--runner=DirectRunner"]) == 2
    assert "--beam" in capsys.readouterr().err
    assert main(["data", "build", str(folder), "--workers=2", "--beam"]) == 2
    assert "--direct_num_workers=2" in capsys.readouterr().err


def test_a_machine_that_does_not_see_the_notes_says_so(tmp_path):
    answer = beam.Answer(len, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="LMJAX_CACHE"):
        pickle.loads(pickle.dumps(answer))(1)


def test_a_part_made_by_several_at_once_is_whole_whenever_one_looks(folder, tmp_path):
    data = SimpleNamespace(**{**LEAVES, "source": str(folder), **BYTES, "clean": {}})
    todo = plan.make(tmp_path / "content", tmp_path / "notes", sources.open_source(str(folder)), data)
    for place in (todo.folder, todo.notes):
        place.mkdir()
    tokenizers.make(data, []).save(todo.folder / "tokenizer")
    build.make_part(todo, 1)
    shard = todo.folder / "train-00001.arrayrecord"
    whole, note = text.sha256(shard), (todo.notes / "00001.json").read_text()
    with ThreadPoolExecutor(3) as pool:
        again = [pool.submit(functools.partial(build.make_part, todo, 1)) for _ in range(60)]
        seen = [text.sha256(shard)]
        while not all(one.done() for one in again):
            seen.append(text.sha256(shard))
        for one in again:
            one.result()
    assert set(seen) == {whole} and (todo.notes / "00001.json").read_text() == note
    assert not [path for path in todo.notes.iterdir() if path.is_dir()]
