"""Every registered experiment and variant resolves, and every study trains two steps in --smoke."""

import pytest
import runs

from lmjax.__main__ import main
from lmjax.experiment import find, listing

LISTING = listing()
STUDIES = LISTING.experiments
CHOICES = [f"{name}/{variant}".rstrip("/") for name, study in STUDIES.items() for variant in ("", *study.variants)]


def different(name):
    """What a variant sets other than numbers and so compiles anew; equal ones need no smoke run of their own."""
    study, _, variant = name.partition("/")
    chosen = STUDIES[study].overrides(variant) if variant else {}
    return study, tuple(sorted((path, value) for path, value in chosen.items() if isinstance(value, str)))


def test_every_file_loads():
    assert not LISTING.broken


@pytest.mark.parametrize("name", CHOICES)
def test_every_variant_resolves(name):
    assert find(name).config.steps > 0


@pytest.mark.parametrize("name", {different(name): name for name in reversed(CHOICES)}.values())
def test_every_experiment_trains_two_steps(name, tmp_path, monkeypatch, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # one cache for all workers of pytest-xdist
    monkeypatch.setenv("LMJAX_CACHE", str(shared / "smoke-cache"))
    assert main(["train", name, "--smoke", f"--workdir={tmp_path / 'run'}"]) == 0
    assert len(runs.losses(tmp_path / "run")) == 2
