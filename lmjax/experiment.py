"""Experiments: registered studies with a question, a base config, variants and seeds; and how names find them.

A study is a file `experiments/NAME.py`, a config a function in `configs/`. Nothing in here imports JAX.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ml_collections import ConfigDict

from lmjax.config import config_hash, flatten, loads, update
from lmjax.discover import files, load, open_rooms, shipped, shown, what_broke
from lmjax.errors import UserError, unknown

BASE = "base"  # the name of a study's base among its variants
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_STUDIES: dict[str, Experiment] = {}  # by name: what the files read so far have registered


@dataclass(frozen=True)
class Experiment:
    """A study. variants: name -> overrides by path; the variant "rope/scaled" starts from the overrides of "rope".

    metrics: those of its table, none: the base's eval.metric; baseline: the variant that others are compared with;
    factors: the leaves or sections that a variant may change, by variant, none: those that it overrides.
    """

    name: str
    question: str
    base: Callable[[], ConfigDict]
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[str, ...] = ()
    baseline: str = BASE
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """The base and every variant, as tables name them."""
        return (BASE, *self.variants)

    def measured(self) -> tuple[str, ...]:
        """The metrics of the study's table."""
        return tuple(self.metrics) or (self.config().eval.metric,)

    def factor(self, variant: str) -> tuple[str, ...]:
        """The leaves and sections that a variant declares to change; of the base, none."""
        if variant == BASE:
            return ()
        return tuple(self.factors.get(variant, ())) or tuple(sorted(self.overrides(variant)))

    def overrides(self, variant: str) -> dict[str, object]:
        """Everything that the variant sets, its ancestors' overrides first."""
        parts, merged = variant.split("/"), {}
        for name in ("/".join(parts[: n + 1]) for n in range(len(parts))):
            if name not in self.variants:
                raise unknown(f"variant of {self.name}", name, self.variants)
            merged |= self.variants[name]
        return merged

    def config(self, variant: str | None = None) -> ConfigDict:
        """The locked config of a variant, or of the base: None or "base"."""
        base = resolve(self.base, f"the base of {self.name}")
        return base if variant in (None, BASE) else update(base, self.overrides(variant))


class Selected(NamedTuple):
    """What a name on the command line stands for."""

    name: str
    question: str
    config: ConfigDict
    source_file: Path


class Listing(NamedTuple):
    """All there is to run: studies by name, config functions with a line on each, broken files with what is wrong."""

    experiments: dict[str, Experiment]
    configs: dict[str, str]
    broken: dict[str, str]


def register(experiment: Experiment) -> Experiment:
    """Make a study known, from the file experiments/NAME.py; everything wrong with it is a UserError now.

    That is: another name than the file's, an override of a leaf that is not there or of another type, no seeds or
    the same twice, and a variant whose config is that of the base or of another variant.
    """
    room, _, stem = sys._getframe(1).f_globals.get("__name__", "").rpartition(".")
    if room == "experiments" and stem != experiment.name:
        raise UserError(f"experiment {experiment.name!r} is in {stem}.py; a study has the name of its file")
    if experiment.name in _STUDIES:
        raise UserError(f"experiment {experiment.name!r} is registered twice")
    _check(experiment)
    _STUDIES[experiment.name] = experiment
    return experiment


def find(text: str) -> Selected:
    """The study "positions", its variant "positions/rope", the config function "configs/lm.py:tiny", or a run's folder."""
    studies = files(open_rooms()["experiments"])
    if ":" in text:
        return _find_function(text)
    if text.endswith(".py"):
        raise UserError(f"{text!r} is a file: name a study ({Path(text).stem}) or a config function ({text}:FUNCTION)")
    name, slash, variant = text.partition("/")
    if name not in studies and (record := Path(text) / "config.json").is_file():
        return Selected(Path(text).name, "", loads(record.read_text()), record)
    if text and name not in studies and (not name or Path(text).is_dir()):
        raise UserError(f"{text} is no run directory: it has no config.json")
    if name not in studies:
        raise unknown("experiment", name, studies, _elsewhere(text))
    study = _load_study(name, studies[name])
    return Selected(text, study.question, study.config(variant if slash else None), studies[name])


def study(name: str) -> Experiment:
    """The registered study of that name, whose file alone is read."""
    studies = files(open_rooms()["experiments"])
    if name not in studies:
        raise unknown("study", name, studies)
    return _load_study(name, studies[name])


def experiments() -> dict[str, Experiment]:
    """Every study that loads, by name; `listing` also says which do not."""
    return listing().experiments


def listing() -> Listing:
    """Every study and config function within reach; a file that does not load is listed as broken, with its error."""
    rooms = open_rooms()
    studies, configs, broken = {}, {}, {}
    for name, file in files(rooms["experiments"]).items():
        try:
            studies[name] = _load_study(name, file)
        except UserError as error:
            broken[f"experiments/{file.name}"] = str(error)
    for name, file in files(rooms["configs"]).items():
        try:
            functions = config_functions(load(f"configs.{name}", file))
        except UserError as error:
            broken[f"configs/{file.name}"] = str(error)
        else:
            configs |= {f"configs/{file.name}:{key}": _first_line(function) for key, function in functions.items()}
    return Listing(studies, configs, broken)


def config_functions(module: ModuleType) -> dict[str, Callable[[], ConfigDict]]:
    """The public functions of a module that need no argument and are not annotated to return something else."""
    functions = {}
    for name, function in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        signature = inspect.signature(function)
        optional = all(p.default is not p.empty or p.kind in VARIADIC for p in signature.parameters.values())
        if optional and signature.return_annotation in (signature.empty, ConfigDict, "ConfigDict"):
            functions[name] = function
    return functions


def resolve(function: Callable[[], ConfigDict], what: str) -> ConfigDict:
    """The config that a function returns: checked, locked and its own copy."""
    result = function()
    if not isinstance(result, ConfigDict):
        raise UserError(f"{what} returned {type(result).__name__}, not a config: build it with lmjax.config.config")
    if not result.is_locked:
        raise UserError(f"{what} is unlocked, so misspelt names go unseen: build it with lmjax.config.config or update")
    return update(result, {})


def _check(study: Experiment) -> None:
    """Raise UserError for anything wrong with a study."""
    if not isinstance(study.name, str) or not re.fullmatch(r"\w[\w-]*", study.name):
        raise UserError(f"experiment name {study.name!r}: use letters, digits, - and _")
    what = f"experiment {study.name!r}"
    if not isinstance(study.question, str) or not study.question.strip():
        raise UserError(f"{what} asks no question")
    if not callable(study.base):
        raise UserError(f"{what}: base is the config function itself, base=lm.tiny, not {type(study.base).__name__}")
    base, seeds = resolve(study.base, f"{what}: its base"), study.seeds
    if not isinstance(seeds, (tuple, list)) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"{what} has seeds={seeds!r}: give at least one integer from 0, for example seeds=(0, 1, 2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{what} has seeds={seeds!r}: a seed that is there twice is no second measurement")
    update(base, {"seed": seeds[0]})
    if not isinstance(study.variants, Mapping):
        raise UserError(f"{what}: variants is a dict, name -> overrides, not {type(study.variants).__name__}")
    _check_table(study, what)
    seen = {config_hash(base): "the base"}
    for variant in study.variants:
        where = f"{what}, variant {variant!r}"
        key = _check_variant(study, variant, base, where)
        if key in seen:
            raise UserError(f"{where} has the same config as {seen[key]}: it would measure nothing")
        seen[key] = f"variant {variant!r}"


def _check_table(study: Experiment, what: str) -> None:
    """Raise UserError for anything wrong with what a study says of its table."""
    if not isinstance(study.metrics, (tuple, list)) or not all(isinstance(name, str) for name in study.metrics):
        raise UserError(f'{what} has metrics={study.metrics!r}: name them in a tuple, metrics=("valid/nll",)')
    if study.baseline not in study.names():
        raise unknown(f"baseline of {study.name}", study.baseline, study.names())
    for variant, paths in study.factors.items():
        if variant not in study.variants:
            raise unknown(f"variant in the factors of {study.name}", variant, study.variants)
        if not isinstance(paths, (tuple, list)):
            raise UserError(f"{what}: the factors of {variant!r} are a tuple of leaves and sections, not {paths!r}")
        leaves = flatten(study.config(variant))
        for path in paths:
            if not any(leaf == path or leaf.startswith(f"{path}.") for leaf in leaves):
                raise unknown(f"leaf or section in the factors of {study.name}, variant {variant!r}:", path, leaves)


def _check_variant(study: Experiment, variant: str, base: ConfigDict, where: str) -> str:
    """Raise UserError for anything wrong with one variant; the hash of its config."""
    if not isinstance(variant, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", variant):
        raise UserError(f"{where}: use letters, digits, - . and _; a / extends another variant")
    if variant.partition("/")[0] == BASE:
        raise UserError(f"{where}: {BASE} is the name of what the study's base gives")
    if not isinstance(study.variants[variant], Mapping):
        raise UserError(f"{where} is {study.variants[variant]!r}, not a dict of overrides")
    if "seed" in study.variants[variant]:
        raise UserError(f"{where} sets seed, which every variant takes from the seeds of its study")
    for path in study.overrides(variant):
        if not any(path == part or path.startswith(f"{part}.") for part in study.factor(variant)):
            raise UserError(f"{where} changes {path} besides its factors {', '.join(study.factor(variant))}")
    try:
        return config_hash(update(base, study.overrides(variant)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _find_function(text: str) -> Selected:
    """The config function "path/file.py:name"; configs/ may also be the folder that comes with lmjax."""
    path, _, name = text.rpartition(":")
    known = files(sys.modules["configs"].__path__)
    file = Path(path).absolute()
    if not file.is_file() and Path(path).parent == Path("configs"):
        file = shipped() / path
    if not file.is_file() or file.suffix != ".py":
        raise unknown("config file", path, [f"configs/{file.name}" for file in known.values()])
    in_room = file.stem in known and file.samefile(known[file.stem])
    file = known[file.stem] if in_room else file
    functions = config_functions(load(f"configs.{file.stem}" if in_room else f"lmjax_config_{file.stem}", file))
    if name not in functions:
        raise unknown(f"config function in {path}", name, functions)
    try:
        config = resolve(functions[name], text)
    except Exception as error:
        raise UserError(what_broke(error, file)) from error
    return Selected(text, _first_line(functions[name]), config, file)


def _load_study(name: str, file: Path) -> Experiment:
    """The study in a file; UserError if the file fails or registers no study."""
    module = f"experiments.{name}"
    if module not in sys.modules:
        _STUDIES.pop(name, None)  # of a file that failed, or of another folder
    load(module, file)
    if name not in _STUDIES:
        raise UserError(f"{shown(file)} registers no experiment: end it with register(Experiment(name={name!r}, ...))")
    return _STUDIES[name]


def _first_line(function: Callable) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _elsewhere(text: str) -> str:
    """Where a name that is no study may be found: as a variant, or as a config function."""
    known = listing()
    variants = [f"{name}/{variant}" for name, study in known.experiments.items() for variant in study.variants]
    homes = [path for path in (*variants, *known.configs) if path.endswith((f"/{text}", f":{text}"))]
    if homes:
        return f"There is {' and '.join(homes)}."
    return "A config function is written configs/FILE.py:FUNCTION."
