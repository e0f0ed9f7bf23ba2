"""A build in parts: the same bytes for any number of workers and kills, and nothing made twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmjax.data import build, cleaning, open_dataset, plan, shards, sources, store, tokenizers, worker
from lmjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PREPARE = """
import json, os, sys
from types import SimpleNamespace
from lmjax.data import open_dataset, plan, worker
plan.PART, real, last = 3000, worker.each, int(sys.argv[3])
def each(job, numbers, workers):
    numbers = [number for number in numbers if last < 0 or number <= last + 2]  # the last two may be under way
    for number, answer in zip(numbers, real(job, numbers, workers)):
        if number == last:
            os.kill(os.getpid(), 9)
        yield answer
worker.each = each
data = SimpleNamespace(**json.loads(sys.argv[1]))
open_dataset(data, 0, lambda line: print(line, flush=True), workers=int(sys.argv[2]))
"""
LEAVES = {
    "tokenizer": "bpe", "vocab": 300, "special": (), "columns": None, "length": 16, "valid_fraction": 0.3, "limit": None,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """60 files of 300 to 900 bytes, and one of no text."""
    rng = random.Random(7)
    (tmp_path / "text").mkdir()
    words = "sheep hill rain over under went came down wet home again slowly".split()
    for n in range(60):
        text = " ".join(rng.choice(words) for _ in range(60 + n % 90))
        (tmp_path / "text" / f"{n:02d}.txt").write_text(f"{n} {text}")
    (tmp_path / "text" / "empty.txt").write_text("")
    return tmp_path / "text"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(plan, "PART", 3000)


def config(folder, **leaves):
    return SimpleNamespace(**{**LEAVES, "source": str(folder), **leaves})


def prepare(folder, cache, monkeypatch, workers=1, **leaves):
    """The folder that a build leaves in that cache, and what it said."""
    monkeypatch.setenv("LMJAX_CACHE", str(cache))
    said = []
    open_dataset(config(folder, **leaves), 0, said.append, workers=workers)
    (found,) = [path for path in (cache / "data").iterdir() if path.is_dir()]
    return found, said


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers(folder):
    """The parts whose shards are there."""
    return {name.split("-")[1].split(".")[0] for name in contents(folder) if name.startswith("train-")}


def child(folder, cache, workers, killed_after, **leaves):
    """A build in another process, which kills itself when it has that part; what it said."""
    data = json.dumps({**LEAVES, "source": str(folder), **leaves})
    words = [sys.executable, "-c", PREPARE, data, str(workers), str(killed_after)]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "LMJAX_CACHE": str(cache)}, capture_output=True, text=True
    )
    assert done.returncode == (-signal.SIGKILL if killed_after >= 0 else 0), done.stderr
    return done.stdout


def test_workers_do_not_change_a_byte(folder, tmp_path, monkeypatch):
    alone, _ = prepare(folder, tmp_path / "one", monkeypatch, workers=1)
    several, _ = prepare(folder, tmp_path / "three", monkeypatch, workers=3)
    assert alone.name == several.name and contents(alone) == contents(several)
    assert len(numbers(alone)) > 8


@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_a_tokenizer_is_trained_on_a_sample_of_all_parts_of_much_text(kind, folder, tmp_path, monkeypatch):
    read, real = [], tokenizers.make
    monkeypatch.setattr(
        tokenizers, "make", lambda data, texts: real(data, (read.append(text) or text for text in texts))
    )
    whole, _ = prepare(folder, tmp_path / "whole", monkeypatch, tokenizer=kind)
    everything, read[:] = list(read), []
    monkeypatch.setattr(tokenizers, "SAMPLE", size := sum(path.stat().st_size for path in folder.iterdir()) // 4)
    monkeypatch.setattr(tokenizers, "EACH", 1)
    some, _ = prepare(folder, tmp_path / "some", monkeypatch, tokenizer=kind, workers=1)
    assert size <= sum(map(len, read)) < 2 * size and set(read) < set(everything)
    firsts = {text.split()[0] for text in read}  # each text begins with its number
    assert max(map(int, firsts)) > 50 and len(firsts) > 8
    assert some.name != whole.name  # another tokenizer, another key
    several, _ = prepare(folder, tmp_path / "several", monkeypatch, tokenizer=kind, workers=3)
    assert contents(several) == contents(some)


def test_text_that_a_tokenizer_can_be_trained_on_whole_keeps_its_key(folder, monkeypatch):
    source, key = sources.open_source(str(folder)), shards.parts
    before = key(source, config(folder))
    for most in (source.size, source.size - 1):
        monkeypatch.setattr(tokenizers, "SAMPLE", most)
        monkeypatch.setattr(tokenizers, "EACH", 1)
        assert (key(source, config(folder)) == before) == (most == source.size)
        assert key(source, config(folder, limit=most))["tokenizer"] == before["tokenizer"]
        assert key(source, config(folder, tokenizer="chars", vocab=None))["tokenizer"] == {
            "kind": "chars",
            "vocab": None,
        }
    assert sources.open_source("bible").size is None  # what is packaged is trained on whole


def test_parts_hold_the_documents_of_one_part_in_their_order(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "many"))
    many = open_dataset(config(folder), 0, workers=1)
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "one"))
    monkeypatch.setattr(plan, "PART", 1 << 30)
    one = open_dataset(config(folder), 0, workers=1)
    assert len(one.stats["train"]["files"]) == 1 < len(many.stats["train"]["files"])
    assert many.fingerprint == one.fingerprint and many.stats["read"] == one.stats["read"]
    for name in ("train", "valid"):
        np.testing.assert_array_equal(getattr(many, name).documents.lengths, getattr(one, name).documents.lengths)
    for i in range(20):
        np.testing.assert_array_equal(many.train_batch(i, 4)["tokens"], one.train_batch(i, 4)["tokens"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_is_gone_on_with_and_ends_the_same(folder, tmp_path, monkeypatch, workers):
    whole, _ = prepare(folder, tmp_path / "whole", monkeypatch)
    cache, made = tmp_path / "killed" / "data", set()
    for part in (1, 5):
        child(folder, tmp_path / "killed", workers, part)
        noted = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.building/notes/*.json")}
        assert f"{part:05d}.json" in noted and made <= set(noted.items())  # what was there was not made again
        made = set(noted.items())
    assert "parts were prepared before" in child(folder, tmp_path / "killed", workers, -1)
    (left,) = [path for path in cache.iterdir() if path.is_dir()]  # and no .building
    assert contents(left) == contents(whole)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "note", "tokenizer"])
def test_a_part_that_is_not_as_noted_is_made_again(folder, tmp_path, monkeypatch, damage):
    leaves = {"tokenizer": "bytes", "vocab": None}
    whole, _ = prepare(folder, tmp_path / "whole", monkeypatch, **leaves)
    child(folder, tmp_path / "cache", 1, 3, **leaves)
    (beside,) = (tmp_path / "cache" / "data").glob("*.building")
    file = beside / "content" / "train-00002.arrayrecord"
    file = {"note": beside / "notes" / "00002.json", "tokenizer": beside / "notes" / "tokenizer.json"}.get(damage, file)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.unlink() if damage == "remove" else file.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    found, said = prepare(folder, tmp_path / "cache", monkeypatch, **leaves)
    assert contents(found) == contents(whole)
    assert any(line.startswith("3 of") for line in said) == (damage != "tokenizer")


def test_what_was_done_is_kept_when_a_worker_dies_and_when_the_user_stops(folder, tmp_path, monkeypatch):
    real, whole = worker.each, prepare(folder, tmp_path / "whole", monkeypatch)[0]
    for error, part in ((store.Unfinished("it died"), 2), (KeyboardInterrupt(), 4)):

        def each(job, numbers, workers, error=error, part=part):
            yield from real(job, [number for number in numbers if number < part], workers)
            raise error

        monkeypatch.setattr(worker, "each", each)
        with pytest.raises(type(error)):
            prepare(folder, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(worker, "each", real)
    found, said = prepare(folder, tmp_path / "cache", monkeypatch)
    assert contents(found) == contents(whole) and any(line.startswith("4 of") for line in said)


def test_what_a_build_killed_at_its_very_end_left_beside_goes(folder, tmp_path, monkeypatch):
    found, _ = prepare(folder, tmp_path / "cache", monkeypatch)
    (found.parent / f"{found.name}.building" / "notes").mkdir(parents=True)
    assert prepare(folder, tmp_path / "cache", monkeypatch)[0] == found


def test_the_first_bad_part_is_what_is_named_and_nothing_stays(folder, tmp_path, monkeypatch):
    for name in ("20.txt", "50.txt"):
        (folder / name).write_bytes(b"\xff")
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    for workers in (1, 3):
        with pytest.raises(UserError, match=r"20\.txt"):
            open_dataset(config(folder, tokenizer="bytes", vocab=None), 0, workers=workers)
        assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]


def test_bad_records_are_dropped_and_counted_when_asked(folder, tmp_path, monkeypatch):
    (folder / "20.txt").write_bytes(b"a \xff")
    leaves = {"tokenizer": "bytes", "vocab": None, "clean": {"bad": "drop"}}
    found, said = prepare(folder, tmp_path / "cache", monkeypatch, workers=2, **leaves)
    manifest = json.loads((found / store.MANIFEST).read_text())
    assert manifest["read"]["documents"] == 59 and sum(manifest["cleaning"]["bad"].values()) == 1
    assert "invalid UTF-8" in said[-1]
    assert "20.txt" in (found / "cleaning.json").read_text()


def test_copies_are_removed_across_parts_by_any_number_of_workers(folder, tmp_path, monkeypatch):
    for n in (3, 30, 59):
        (folder / f"zz{n}.txt").write_text((folder / f"{n:02d}.txt").read_text())
    clean = {"tokenizer": "bytes", "vocab": None, "clean": {"exact_duplicates": True}}
    alone, _ = prepare(folder, tmp_path / "one", monkeypatch, workers=1, **clean)
    several, _ = prepare(folder, tmp_path / "two", monkeypatch, workers=2, **clean)
    assert contents(alone) == contents(several)
    manifest = json.loads((alone / store.MANIFEST).read_text())
    assert manifest["cleaning"]["removed"] == {"exact_duplicates": 3, "missing": 1}
    assert manifest["read"]["documents"] == 60


def test_a_build_with_too_much_contamination_fails_before_it_is_sealed(folder, tmp_path, monkeypatch):
    split = build.Split(0.3)
    valid = [file.read_text() for file in sorted(folder.iterdir()) if split.of(file.read_text()) == "valid"]
    (folder / "zz.txt").write_text(" ".join(["so", *valid]))
    leaves = {"tokenizer": "bytes", "vocab": None}
    if split.of((folder / "zz.txt").read_text()) == "valid":
        (folder / "zz.txt").write_text((folder / "zz.txt").read_text() + " indeed")
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"validation documents .* are in the training text"):
        open_dataset(config(folder, **leaves, clean={"contamination": 13}), 0, workers=2)
    found, _ = prepare(folder, tmp_path / "c2", monkeypatch, **leaves,
                       clean={"contamination": 13, "contamination_limit": 1.0})  # fmt: skip
    manifest = json.loads((found / store.MANIFEST).read_text())
    assert manifest["contamination"]["contaminated"] == len(valid) - (valid.count("") > 0)


def test_what_is_not_asked_for_is_not_in_the_key(folder):
    source = sources.open_source(str(folder))
    plain = shards.parts(source, config(folder))
    assert set(plain) == {"format", "source", "tokenizer", "valid_fraction", "limit"}
    assert shards.parts(source, config(folder, clean=cleaning.defaults())) == plain
    assert shards.parts(source, config(folder, clean={"html": True})) != plain


def test_a_limit_takes_the_same_documents_as_reading_in_order(folder, tmp_path, monkeypatch):
    found, _ = prepare(folder, tmp_path / "cache", monkeypatch, workers=2, limit=9000, tokenizer="bytes", vocab=None)
    manifest = json.loads((found / store.MANIFEST).read_text())
    tally = {}
    kept = list(sources.documents(sources.open_source(str(folder)), limit=9000, tally=tally))
    assert manifest["read"] == tally and manifest["read"]["limited"]
    assert manifest["train"]["documents"] + manifest["valid"]["documents"] == len(kept)


def double(number):
    if number == 13:
        raise UserError("thirteen")
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def loaded(number):
    return sorted(name for name in ("jax", "tensorflow", "torch") if name in sys.modules)


def test_workers_answer_in_order_raise_what_the_job_raises_and_say_when_one_dies():
    assert list(worker.each(double, [5, 1, 9], 2)) == [10, 2, 18]
    with pytest.raises(UserError, match="thirteen"):
        list(worker.each(double, [1, 13, 2], 2))
    with pytest.raises(store.Unfinished, match="part 17 .* killed"):
        list(worker.each(double, [1, 17, 2], 2))


def test_workers_have_no_jax():
    assert list(worker.each(loaded, [0, 1], 2)) == [[], []]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_a_worker_ends_with_its_parent(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', '.']\n"
        "from lmjax.data import worker; import test_data_build as t\n"
        "next(iter(worker.each(t.wait_forever, [0, 1], 2)))"
    )
    env = {**os.environ, "PIDS": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env)
    while parent.poll() is None and len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)  # between looks at files that other processes write
    parent.kill()
    parent.wait()
    for path in tmp_path.iterdir():
        while Path(f"/proc/{path.name}").exists() and " Z " not in Path(f"/proc/{path.name}/stat").read_text():
            time.sleep(0.01)  # it hangs here when one lives on


def wait_forever(number):
    Path(os.environ["PIDS"], str(os.getpid())).touch()
    signal.pause()
