"""Experiments: variants, what is refused at registration, and how files are found here, elsewhere and in a wheel."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from configs import lm
from lmjax import experiment as study
from lmjax.config import diff, update
from lmjax.discover import open_rooms
from lmjax.errors import UserError
from lmjax.experiment import Experiment, find, listing, register

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = {path.stem for path in (REPOSITORY / "experiments").glob("*.py")}
GOOD = """
    from configs import lm
    from lmjax.experiment import Experiment, register
    register(Experiment(name={name!r}, question="Is it so?", base=lm.tiny, variants={{"deep": {{"model.depth": 9}}}}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's own, the current one during the test."""
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        yield tmp_path
    open_rooms()


def write(folder, path, text):
    file = folder / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def make(**changes):
    return Experiment(**{"name": "mine", "question": "Why?", "base": lm.tiny, **changes})


@pytest.fixture(autouse=True)
def forget_what_a_test_registers():
    yield
    study._STUDIES.pop("mine", None)


def test_a_variant_of_a_variant_starts_from_its_ancestors_overrides():
    rope = {"model.rope_base": 500.0, "model.depth": 3}
    made = register(
        make(variants={"rope/deep/dry": {"model.dropout": 0.1}, "rope/deep": {"model.depth": 9}, "rope": rope})
    )
    assert diff(lm.tiny(), made.config("rope/deep/dry")) == [
        ("model.depth", 2, 9),
        ("model.dropout", 0.0, 0.1),
        ("model.rope_base", 10000.0, 500.0),
    ]
    assert diff(lm.tiny(), made.config("rope")) == [("model.depth", 2, 3), ("model.rope_base", 10000.0, 500.0)]
    assert diff(lm.tiny(), made.config()) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variants": {"a": {"model.dpeth": 3}}}, r"'mine', variant 'a': .*did you mean model.depth\?"),
        ({"variants": {"a": {"dropout": 0.1}}}, "dropout lives at model.dropout"),
        ({"variants": {"a": {"model.depth": "four"}}}, "variant 'a': model.depth takes an integer, not 'four'"),
        ({"variants": {"a": {"model": {"depth": 4}}}}, "model is a section"),
        ({"variants": {"a": {"model.depth": 2}}}, "variant 'a' has the same config as the base"),
        ({"variants": {"a": {}}}, "variant 'a' has the same config as the base"),
        ({"variants": {"a": {"model.depth": 3}, "b": {"model.depth": 3}}}, "'b' has the same config as variant 'a'"),
        ({"variants": {"a": {"model.depth": 3}, "a/b": {}}}, "'a/b' has the same config as variant 'a'"),
        ({"variants": {"rope/x": {"model.depth": 3}, "ropes": {"model.depth": 4}}}, "'rope'; did you mean 'ropes'"),
        ({"variants": {"a": {"seed": 3}}}, "variant 'a' sets seed"),
        ({"variants": {"a": 3}}, "not a dict of overrides"),
        ({"variants": {"a b": {"model.depth": 3}}}, "variant 'a b': use letters"),
        ({"variants": {"../a": {"model.depth": 3}}}, "use letters"),
        ({"variants": ["a"]}, "variants is a dict"),
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (0, 1, 0)}, "a seed that is there twice"),
        ({"seeds": (0, -1)}, "integer from 0"),
        ({"seeds": (0, 1.0)}, "integer from 0"),
        ({"seeds": (True,)}, "integer from 0"),
        ({"seeds": 3}, "for example seeds="),
        ({"question": " "}, "asks no question"),
        ({"name": "my study"}, "use letters"),
        ({"name": "a/b"}, "use letters"),
        ({"base": lm.tiny()}, "base is the config function itself"),
        ({"base": dict}, "its base returned dict, not a config"),
        ({"base": lambda: lm.tiny().unlock()}, "unlocked"),
        ({"base": lambda: _with_none()}, "model.depth is None"),
    ],
)
def test_a_broken_study_is_refused_when_it_is_registered(changes, says):
    with pytest.raises(UserError, match=says):
        register(make(**changes))
    assert "mine" not in study._STUDIES


def _with_none():
    config = lm.tiny()
    config.model.depth = None  # ml_collections lets any leaf be None
    return config


def test_a_study_is_registered_once():
    register(make())
    with pytest.raises(UserError, match="registered twice"):
        register(make())


def test_a_study_has_the_name_of_its_file(folder):
    write(folder, "experiments/mine.py", GOOD.format(name="yours"))
    with pytest.raises(UserError, match=r"experiments/mine.py, line 4: experiment 'yours' is in mine.py"):
        find("mine")


def test_a_study_its_variant_and_a_config_function_are_found_by_name(folder):
    file = write(folder, "experiments/mine.py", GOOD.format(name="mine"))
    found = find("mine/deep")
    assert (found.name, found.question, found.source_file) == ("mine/deep", "Is it so?", file)
    assert found.config.model.depth == 9 and found.config.is_locked
    assert diff(find("mine").config, lm.tiny()) == []
    tiny = find("configs/lm.py:tiny")
    assert diff(tiny.config, lm.tiny()) == [] and tiny.question.startswith("Two layers")
    assert tiny.source_file == REPOSITORY / "configs" / "lm.py"


def test_a_folder_of_ones_own_stands_before_the_shipped_one(folder):
    write(folder, "experiments/mine.py", GOOD.format(name="mine"))
    write(folder, "experiments/quickstart.py", GOOD.format(name="quickstart"))
    write(folder, "configs/mine.py", "from configs.base import language_model\ndef small(): return language_model()\n")
    known = listing()
    assert set(known.experiments) == SHIPPED | {"mine"} and not known.broken
    assert {"configs/mine.py:small", "configs/lm.py:tiny"} <= set(known.configs)
    assert "configs/mine.py:language_model" not in known.configs  # imported there, not made there
    assert known.experiments["quickstart"].question == "Is it so?"
    assert find("quickstart/deep").source_file == folder / "experiments" / "quickstart.py"


def test_another_folder_has_other_studies(folder, monkeypatch):
    write(folder, "experiments/mine.py", GOOD.format(name="mine"))
    assert "mine" in study.experiments()
    monkeypatch.chdir(REPOSITORY)
    assert set(study.experiments()) == SHIPPED
    with pytest.raises(UserError, match="unknown experiment 'mine'"):
        find("mine")


def test_a_file_written_or_mended_since_is_seen(folder):
    write(folder, "experiments/mine.py", "import no_such_module")
    assert "experiments/mine.py" in listing().broken
    write(folder, "experiments/mine.py", GOOD.format(name="mine"))
    write(folder, "experiments/other.py", GOOD.format(name="other"))
    assert {"mine", "other"} <= set(study.experiments()) and not listing().broken


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("register(", "experiments/bad.py, line 1: SyntaxError: '\\(' was never closed"),
        (
            "\nimport no_such_module",
            "bad.py, line 2: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("from configs import broken", "bad.py, line 1: SyntaxError: .*broken.py"),
        ("from configs.lm import nothing", "bad.py, line 1: ImportError"),
        ("x = 1\ny = x / 0", "bad.py, line 2: ZeroDivisionError"),
        ("raise SystemExit(3)", "bad.py, line 1: SystemExit: 3"),
        ("x = 1", "bad.py registers no experiment: .*name='bad'"),
        (GOOD.format(name="bad") + "    raise KeyError('late')", "bad.py, line 5: KeyError: 'late'"),
        (GOOD.format(name="bad").replace("deep", "too deep"), "bad.py, line 4: experiment 'bad', variant 'too deep'"),
    ],
)
def test_a_broken_file_is_listed_as_broken_and_the_others_work(folder, text, says):
    write(folder, "experiments/bad.py", text)
    write(folder, "experiments/mine.py", GOOD.format(name="mine"))
    write(folder, "configs/broken.py", "def x(:")
    for _ in range(2):  # the second time too
        known = listing()
        assert set(known.experiments) == SHIPPED | {"mine"}
        assert set(known.broken) == {"experiments/bad.py", "configs/broken.py"}
        assert known.broken["configs/broken.py"] == "configs/broken.py, line 1: SyntaxError: invalid syntax"
        assert find("mine/deep").config.model.depth == 9
        with pytest.raises(UserError, match=says) as error:
            find("bad")
        assert str(error.value) == known.broken["experiments/bad.py"]


def test_a_config_of_ones_own_that_hides_a_shipped_one_is_named_where_it_hurts(folder):
    write(folder, "configs/lm.py", "def mine(): pass")
    with pytest.raises(UserError, match="no attribute 'quickstart'.*configs/lm.py is not the one of lmjax"):
        find("quickstart")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("quickstrat", "unknown experiment 'quickstrat'; did you mean 'quickstart'.*Legal: bpe_lm, .*quickstart"),
        ("positions/rpoe", "unknown variant of positions 'rpoe'; did you mean 'rope'.*Legal: learned"),
        ("positions/", "unknown variant of positions ''"),
        ("rope", "There is positions/rope"),
        ("tiny", "There is configs/lm.py:tiny"),
        ("", "unknown experiment ''"),
        ("experiments/positions.py", r"name a study \(positions\)"),
        ("configs/lm.py", r"configs/lm.py:FUNCTION"),
        ("configs/lm.py:tinny", "unknown config function in configs/lm.py 'tinny'; did you mean 'tiny'"),
        ("configs/base.py:optim", "Legal: language_model"),
        ("configs/ml.py:tiny", "unknown config file 'configs/ml.py'; did you mean 'configs/lm.py'"),
        ("lmjax/config.py:config", "unknown config file"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_and_what_is_legal(folder, text, says):
    with pytest.raises(UserError, match=says):
        find(text)


def test_a_config_function_may_live_in_any_file(folder):
    text = """
        from dataclasses import dataclass
        from configs import lm
        from lmjax.config import extend, update
        @dataclass
        class Size:
            depth: "int"
        def wide():
            "A wider one, {name}."
            return extend(update(lm.tiny(), {"model.width": 128}), {"model.experts": 2})
        def broken():
            return lm.tiny().model.dpeth
    """
    places = {name: write(folder, f"{name}/mine.py", text.replace("{name}", name)) for name in ("elsewhere", "configs")}
    for name, file in places.items():
        for path in (f"{name}/mine.py", str(file)):
            found = find(f"{path}:wide")
            assert (found.config.model.width, found.config.model.experts) == (128, 2)
            assert (found.question, found.source_file) == (f"A wider one, {name}.", file)
        with pytest.raises(UserError, match=rf"{name}/mine.py, line 12: AttributeError"):
            find(f"{name}/mine.py:broken")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_study_resolves_with_all_its_variants(name):
    made = study.experiments()[name]
    for variant in made.variants:
        assert find(f"{name}/{variant}").config == made.config(variant)
        update(made.config(variant), {"seed": made.seeds[-1]})


def test_every_shipped_config_resolves_and_says_what_it_is():
    known = listing().configs
    assert {"configs/lm.py:tiny", "configs/lm.py:gpt2_124m", "configs/lm.py:llama_7b"} <= set(known)
    for path, line in known.items():
        assert find(path).config.is_locked and line.endswith(".") and len(line) <= 120, path


def run_python(code, cwd, **env):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listing_every_study_and_config_imports_no_jax(tmp_path):
    code = """
import sys
from lmjax.experiment import find, listing
assert len(listing().experiments) >= 4
find('optimizers/lion')
print(sorted(m for m in ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow') if m in sys.modules))
"""
    assert run_python(code, tmp_path, PYTHONPATH=str(REPOSITORY)) == "[]\n"


def test_a_wheel_carries_configs_and_experiments(tmp_path):
    wheel = next(WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"]))
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lmjax"}
    write(tmp_path, "elsewhere/unrelated.txt", "")
    code = """
from lmjax.experiment import find, listing
known = listing()
print(sorted(known.experiments), known.broken, find('configs/lm.py:tiny').source_file, find('quickstart').source_file)
"""
    printed = run_python(code, elsewhere, PYTHONPATH=str(installed))
    shipped = installed / "lmjax" / "shipped"
    assert printed == f"{sorted(SHIPPED)} {{}} {shipped / 'configs/lm.py'} {shipped / 'experiments/quickstart.py'}\n"
