"""Every registered experiment and variant resolves, and every study trains two steps in --smoke."""

import contextlib
from pathlib import Path

import pytest
import runs

from lmjax.__main__ import main
from lmjax.data import corpora
from lmjax.environment import cache_root
from lmjax.experiment import find, listing

LISTING = listing()
STUDIES = LISTING.experiments
CHOICES = [f"{name}/{variant}".rstrip("/") for name, study in STUDIES.items() for variant in ("", *study.variants)]


# Each value of these has tests of its own: test_optim, test_invariants, test_multi_task.
APART = {"optim.name", "model.position", "objective.weighting"}


def different(name):
    """What a variant sets that makes another program; equal ones need no smoke run of their own, nor do numbers."""
    study, _, variant = name.partition("/")
    chosen = STUDIES[study].overrides(variant) if variant else {}
    words = {path: value for path, value in chosen.items() if isinstance(value, str) and path not in APART}
    return study, tuple(sorted(words.items()))


def test_every_file_loads():
    assert not LISTING.broken


@pytest.mark.parametrize("name", CHOICES)
def test_every_variant_resolves(name):
    assert find(name).config.steps > 0


@pytest.fixture
def smoke_cache(monkeypatch, tmp_path_factory):
    """One cache for all workers of pytest-xdist, with the corpora that `lmjax data fetch` has brought here."""
    base, fetched = tmp_path_factory.getbasetemp(), cache_root()
    cache = (base.parent if base.name.startswith("popen-") else base) / "smoke-cache"
    cache.mkdir(exist_ok=True)
    for name in ("packages", "debian"):
        with contextlib.suppress(FileExistsError):
            (cache / name).symlink_to(fetched / name)
    monkeypatch.setenv("LMJAX_CACHE", str(cache))


SMOKES = {different(name): name for name in reversed(CHOICES)}.values()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "/" in name else ()) for name in SMOKES])
def test_every_experiment_trains_two_steps(name, tmp_path, smoke_cache):
    data = find(name).config.data
    if data.tokenizer.endswith(".json") and not Path(data.tokenizer).exists():
        pytest.skip(f"{name} begins with a tokenizer that an import makes: {data.tokenizer}")
    source = data.source
    if {row["name"]: row["state"] for row in corpora.listing()}.get(source) == "missing":
        pytest.skip(f"lmjax data fetch {source}")
    assert main(["train", name, "--smoke", f"--workdir={tmp_path / 'run'}"]) == 0
    assert len(runs.losses(tmp_path / "run")) == 2
