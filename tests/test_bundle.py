"""Bundles of real runs: the same bytes every time, whole without a network, and every way to spoil one is named."""

import json
import re
import shutil
import subprocess

import pytest

from lmjax import config, seal
from lmjax.__main__ import main
from lmjax.atomic import dumps, loads
from lmjax.config import config_hash
from lmjax.errors import UserError
from lmjax.study import archive, rebuilt, varied
from lmjax.study.bundle import LIST, bundle, listing
from lmjax.study.verify import files_of, verify
from tests import runs, sweeps

HEAD = subprocess.run(["git", "rev-parse", "HEAD"], cwd=runs.ROOT, capture_output=True, text=True).stdout.strip()
SOURCE = runs.ROOT / "experiments" / "positions.py"


def edit(path, change):
    """Change a JSON file as somebody would who also gives it the hash that it then has."""
    facts = loads(path.read_text())
    change(facts)
    path.write_text(dumps(seal.stamped(facts) if "sha256" in facts else facts, indent=1))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return sweeps.orders(runs.write_text(tmp_path_factory.mktemp("text") / "text"))


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    return sweeps.carried_out(study, tmp_path_factory.mktemp("workspace"), SOURCE, HEAD)


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of the workspace, to spoil."""
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture(scope="module")
def small(study, finished, tmp_path_factory):
    """A bundle of the study, without the code."""
    out = tmp_path_factory.mktemp("small") / "orders"
    bundle(study, SOURCE, finished, out, code=False)
    return out


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the bundle, to spoil."""
    return shutil.copytree(small, tmp_path / "orders")


def listed_again(folder):
    """The bundle with a list of files that agrees with what is there: a forger's."""
    files = {name: data for name, data in files_of(folder)[0].items() if name != LIST}
    (folder / LIST).write_bytes(listing("orders", files))


def told(path, **kwargs):
    return "\n".join(verify(path, **kwargs).faults)


def test_the_same_study_gives_the_same_bytes_as_a_folder_and_as_a_file(study, finished, small, tmp_path):
    moved = shutil.copytree(finished, tmp_path / "elsewhere")
    bundle(study, SOURCE, moved, tmp_path / "one.zip", code=False)
    bundle(study, SOURCE, finished, tmp_path / "two.zip", code=False)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert files_of(tmp_path / "one.zip") == files_of(small)
    assert verify(tmp_path / "one.zip").faults == () == verify(small).faults


def test_a_bundle_holds_and_has_all_that_it_promises(study, finished, tmp_path):
    name = bundle(study, SOURCE, finished, tmp_path / "out")
    found = verify(tmp_path / "out", finished)
    assert found == ("orders", name, len(files_of(tmp_path / "out")[0]), 4, (), True)
    files, _ = files_of(tmp_path / "out")
    assert {f"code/{HEAD}.tar", f"code/{HEAD}.commit", "versions.txt", "data.json", "table.json"} <= files.keys()
    assert b"jax==" in files["versions.txt"] and "ask the authors" in files["data.json"].decode()
    slots = json.loads(files["checkpoints.json"])["base/seed0"]
    assert len(slots) == 1 and "seal.json" in next(iter(slots.values()))
    with pytest.raises(UserError, match="there already"):
        bundle(study, SOURCE, finished, tmp_path / "out")
    other = files[f"code/{HEAD}.tar"].replace(b"def verify", b"def notify", 1)
    fault = archive.code_fault(HEAD, archive.Code(files[f"code/{HEAD}.commit"], other))
    assert fault.startswith("its files are not those of commit")


def test_a_changed_byte_of_any_file_is_found_and_named(copy):
    for name, data in files_of(copy)[0].items():
        if name.startswith("short"):
            continue  # nothing but more of the same
        (copy / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        assert name in told(copy), name
        (copy / name).write_bytes(data)
    assert told(copy) == ""


def test_a_changed_byte_anywhere_in_an_archive_is_found(small, tmp_path):
    packed = archive.pack({name: data[:40] for name, data in files_of(small)[0].items()})
    assert archive.unpack(packed, "x.zip")[1] == []
    for at in range(0, len(packed), 7):
        try:
            faults = archive.unpack(packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :], "x.zip")[1]
        except UserError as error:
            faults = [str(error)]
        assert faults and "x.zip" in faults[0]


def test_every_damaged_file_of_an_archive_is_named(small, tmp_path, capsys):
    packed, files = archive.pack(files_of(small)[0]), files_of(small)[0]
    for name in ("short/seed1/manifest.json", "table.txt"):
        at = packed.index(name.encode() + files[name]) + len(name) + 9
        packed = packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :]
    (tmp_path / "x.zip").write_bytes(packed)
    assert main(["verify", str(tmp_path / "x.zip")]) == 1
    said = capsys.readouterr().out
    assert "FAULT  short/seed1/manifest.json was changed" in said and "FAULT  table.txt was changed" in said


def test_files_that_are_missing_or_added_are_named(copy):
    (copy / "short/seed1/metrics.jsonl").unlink()
    (copy / "more.txt").write_text("more")
    found = told(copy)
    assert "short/seed1/metrics.jsonl is missing" in found and "more.txt was added" in found


def test_a_forged_list_does_not_hide_metrics_edited_by_hand(copy):
    path = copy / "short/seed1/metrics.jsonl"
    path.write_text(path.read_text().replace('"valid/nll": ', '"valid/nll": 1'))
    listed_again(copy)
    found = told(copy)
    assert "short/seed1 was altered by hand: valid/" in found and LIST not in found


def test_a_forged_list_does_not_hide_an_edited_table(copy):
    edit(copy / "table.json", lambda facts: facts["rows"][1]["cells"][0]["mean"].update(value=0.5))
    listed_again(copy)
    found = told(copy)
    assert "table.json is not what the raw metrics give: rows[1].cells[0].mean.value is 0.5, and the runs give" in found
    assert "versions" not in found and "data.json" not in found


def test_a_bundle_of_an_lmjax_that_words_its_pages_otherwise_holds_and_a_forged_number_in_it_does_not(
    copy, capsys, monkeypatch
):
    assert main(["verify", str(copy)]) == 0 and "another lmjax" not in capsys.readouterr().out
    words = varied.seeds
    monkeypatch.setattr(varied, "seeds", lambda records: "Other words.")
    assert "report.md is not what the raw metrics give" in told(copy)  # the same files can write nothing else
    monkeypatch.setattr(rebuilt, "writers", lambda: b"{}")
    assert main(["verify", str(copy)]) == 0
    assert "report.html, .md and .tex and table.txt are by another lmjax" in capsys.readouterr().out
    monkeypatch.setattr(varied, "seeds", words)
    assert verify(copy).pages  # other files, and the same pages
    path, lines = copy / "report.csv", (copy / "report.csv").read_text().splitlines()
    cells = lines[2].split(",")
    path.write_text("\n".join([*lines[:2], ",".join([*cells[:6], "0.5", *cells[7:]])]) + "\n")
    listed_again(copy)
    assert "report.csv is not what the raw metrics give: [1].mean[0] is 0.5, and the runs give" in told(copy)


def test_every_module_that_a_report_is_made_by_counts_as_a_writer_of_its_pages():
    home, reached, left = runs.ROOT / "lmjax" / "study", set(), {"report"}
    while left:
        name = left.pop()
        reached.add(f"{name}.py")
        imports = re.findall(r"from lmjax\.study(?:\.(\w+))? import (.*)", (home / f"{name}.py").read_text())
        names = {word for module, what in imports for word in ([module] if module else re.split(r"[, ]+", what))}
        left |= {word for word in names if (home / f"{word}.py").is_file() and f"{word}.py" not in reached}
    assert {*reached, "report.css"} == set(rebuilt.WRITERS)


def test_a_swapped_checkpoint_is_named_by_bundle_and_by_verify(study, workspace, small, tmp_path):
    one, other = (workspace / variant / "seed0" / "checkpoints" for variant in ("base", "short"))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    assert "base/seed0/checkpoints" in told(small, runs=workspace) and "swapped" in told(small, runs=workspace)
    with pytest.raises(UserError, match="base/seed0/checkpoints.* is of another run"):
        bundle(study, SOURCE, workspace, tmp_path / "out", code=False)
    shutil.rmtree(next(one.glob("[0-9]*/")))
    next(other.glob("[0-9]*/*.npy")).write_bytes(b"")
    assert f"{seal.NAME} is missing" in told(small, runs=workspace)


def reconfigure(folder, section, **changes):
    """A run whose config says otherwise, and whose manifest agrees with it."""
    edit(folder / "config.json", lambda values: values[section].update(changes))
    sha256 = config_hash(config.loads((folder / "config.json").read_text()))
    edit(folder / "manifest.json", lambda facts: facts.update(config_hash=sha256))


def test_a_hidden_second_change_a_duplicated_seed_and_another_commit_are_named(study, workspace, copy, tmp_path):
    for place in (workspace, copy):
        reconfigure(place / "short/seed0", "eval", batch=3)
        code = {"lmjax": {"commit": "b" * 40, "dirty": False}}
        edit(place / "short/seed1/manifest.json", lambda facts, code=code: facts.update(code=code))
    listed_again(copy)
    with pytest.raises(UserError) as refused:
        bundle(study, SOURCE, workspace, tmp_path / "out", code=False)
    for found in (str(refused.value), told(copy)):
        assert "short/seed0 has a hidden second change: eval.batch from 4 to 3" in found
        assert "short/seed1 ran at bbbbbbbbbbbb" in found
    for place in (workspace, copy):
        for name in ("config.json", "metrics.jsonl", "manifest.json", "chain.jsonl"):
            shutil.copy(place / "base/seed0" / name, place / "base/seed1" / name)
    listed_again(copy)
    assert "base/seed1 is a run with seed=0, not 1" in told(copy)


def test_the_command_line_says_what_it_found(study, copy, capsys):
    assert main(["verify", str(copy)]) == 0
    assert "holds: orders" in capsys.readouterr().out
    assert main(["verify", str(copy), "--runs=nowhere"]) == 2
    assert "--runs=nowhere is no folder" in capsys.readouterr().err
    assert main(["verify", str(copy), "--sha256=00"]) == 1
    assert "is another bundle" in capsys.readouterr().out
    (copy / "study.json").write_text("{}")
    assert main(["verify", str(copy)]) == 1
    assert "FAULT  study.json was changed" in capsys.readouterr().out
    assert main(["verify", str(copy.parent)]) == 2
    assert "no bundle" in capsys.readouterr().err
