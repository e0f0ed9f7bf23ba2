"""What is published under experiments/results/ still proves itself."""

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
