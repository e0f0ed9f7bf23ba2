"""What is published under experiments/results/ still proves itself."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from lmjax.__main__ import main

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
BUNDLES = sorted(folder.parent.name for folder in RESULTS.glob("*/study.json"))


def test_studies_are_published():
    assert {"positions", "optimizers", "language_ladder"} <= set(BUNDLES)


@pytest.mark.parametrize("study", BUNDLES)
def test_a_published_study_is_verified(study, capsys):
    """Every hash, every run's chain, the numbers from the raw metrics, and the pages where what wrote them is here."""
    assert main(["verify", str(RESULTS / study)]) == 0
    assert f"holds: {study}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def record():
    """benchmarks/record.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("record", RESULTS.parents[1] / "benchmarks" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_one_table_is_what_the_published_runs_make(record):
    assert (RESULTS / "README.md").read_text() == record.table(), "python benchmarks/record.py writes it"


@pytest.mark.parametrize("study", BUNDLES)
def test_the_base_of_a_published_study_is_better_than_a_guess(study):
    guesses = json.loads((RESULTS / "trivial.json").read_text())[study]
    base = json.loads((RESULTS / study / "table.json").read_text())["rows"][0]
    assert base["variant"] == "base"
    for cell in base["cells"]:
        sign = -1 if any(part in cell["metric"] for part in ("error", "bits_per")) else 1  # less of them is better
        guessed = min(sign * value for value in guesses[cell["metric"].partition("/")[2]].values())
        assert sign * cell["mean"]["value"] > guessed, cell["metric"]


def test_a_changed_digit_in_a_published_run_is_named(tmp_path, capsys):
    folder = tmp_path / "positions"
    for file in (file for file in (RESULTS / "positions").rglob("*") if file.is_file()):
        copy = folder / file.relative_to(RESULTS / "positions")
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, copy)
    edited = folder / "rope" / "seed0" / "metrics.jsonl"
    content = edited.read_text().replace("2.6", "2.5", 1)
    edited.unlink()
    edited.write_text(content)
    assert main(["verify", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "rope/seed0/metrics.jsonl" in captured.out + captured.err
