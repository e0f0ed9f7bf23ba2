"""Experiments: registered studies with a question, a base config, variants and seeds; and how names find them.

Studies live in `experiments/NAME.py`, configs in `configs/NAME.py`: in the current folder first, then those that come
with lmjax. Both are importable (`from configs import lm`) from the files in them. Nothing in here imports JAX.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ml_collections import ConfigDict

from lmjax.config import config_hash, update
from lmjax.errors import UserError, unknown

ROOMS = ("configs", "experiments")
_STUDIES: dict[str, Experiment] = {}  # by name: what the files read so far have registered


@dataclass(frozen=True)
class Experiment:
    """A study. variants: name -> overrides by path; the variant "rope/scaled" starts from the overrides of "rope"."""

    name: str
    question: str
    base: Callable[[], ConfigDict]
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def overrides(self, variant: str) -> dict[str, object]:
        """Everything that the variant sets, its ancestors' overrides first."""
        parts, merged = variant.split("/"), {}
        for name in ("/".join(parts[: n + 1]) for n in range(len(parts))):
            if name not in self.variants:
                raise unknown(f"variant of {self.name}", name, self.variants)
            merged |= self.variants[name]
        return merged

    def config(self, variant: str | None = None) -> ConfigDict:
        """The locked config of a variant, or of the base."""
        base = resolve(self.base, f"the base of {self.name}")
        return base if variant is None else update(base, self.overrides(variant))


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
    caller = sys._getframe(1).f_globals.get("__name__", "")
    room, _, stem = caller.rpartition(".")
    if room == "experiments" and stem != experiment.name:
        raise UserError(f"experiment {experiment.name!r} is in {stem}.py: the name of the file is the name of the study")
    if experiment.name in _STUDIES:
        raise UserError(f"experiment {experiment.name!r} is registered twice")
    _check(experiment)
    _STUDIES[experiment.name] = experiment
    return experiment


def find(text: str) -> Selected:
    """The study "positions", its variant "positions/rope", or the config function "configs/lm.py:tiny"."""
    paths = _open_rooms()
    if ":" in text:
        return _find_function(text)
    if text.endswith(".py"):
        raise UserError(f"{text!r} is a file: name a study ({Path(text).stem}) or a config function ({text}:FUNCTION)")
    name, _, variant = text.partition("/")
    files = _files(paths["experiments"])
    if name not in files:
        raise unknown("experiment", name, files, "A config function is written configs/FILE.py:FUNCTION.")
    study = _load_study(name, files[name])
    return Selected(text, study.question, study.config(variant if "/" in text else None), files[name])


def experiments() -> dict[str, Experiment]:
    """Every study that loads, by name."""
    return listing().experiments


def listing() -> Listing:
    """Every study and config function within reach; a file that does not load is listed as broken, with its error."""
    paths = _open_rooms()
    studies, configs, broken = {}, {}, {}
    for name, file in _files(paths["experiments"]).items():
        try:
            studies[name] = _load_study(name, file)
        except UserError as error:
            broken[f"experiments/{file.name}"] = str(error)
    for name, file in _files(paths["configs"]).items():
        try:
            functions = config_functions(_load(f"configs.{name}", file))
        except UserError as error:
            broken[f"configs/{file.name}"] = str(error)
        else:
            for function in functions.values():
                configs[f"configs/{file.name}:{function.__name__}"] = (inspect.getdoc(function) or "").partition("\n")[0]
    return Listing(studies, configs, broken)


def config_functions(module: ModuleType) -> dict[str, Callable[[], ConfigDict]]:
    """The public functions of a module that need no argument and are not annotated to return something else."""
    functions = {}
    for name, function in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        signature = inspect.signature(function)
        needs = any(p.default is p.empty and p.kind not in (2, 4) for p in signature.parameters.values())
        if not needs and signature.return_annotation in (signature.empty, ConfigDict, "ConfigDict"):
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
    base = resolve(study.base, f"{what}: its base")
    seeds = study.seeds
    if not isinstance(seeds, (tuple, list)) or not seeds or any(type(s) is not int or s < 0 for s in seeds):
        raise UserError(f"{what} has seeds={seeds!r}: give at least one integer from 0, for example seeds=(0, 1, 2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{what} has seeds={seeds!r}: a seed that is there twice is no second measurement")
    seen = {config_hash(base): "the base"}
    for variant in study.variants:
        where = f"{what}, variant {variant!r}"
        if not isinstance(variant, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", variant):
            raise UserError(f"{where}: use letters, digits, - . and _; a / extends another variant")
        if not isinstance(study.variants[variant], Mapping):
            raise UserError(f"{where} is {study.variants[variant]!r}, not a dict of overrides")
        try:
            key = config_hash(update(base, study.overrides(variant)))
            update(base, {"seed": seeds[0]})
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if "seed" in study.overrides(variant):
            raise UserError(f"{where} sets seed: the seeds of a study are its `seeds`")
        if key in seen:
            raise UserError(f"{where} has the same config as {seen[key]}: it would measure nothing")
        seen[key] = f"variant {variant!r}"


def _find_function(text: str) -> Selected:
    """The config function "path/file.py:name"; a path that is not below the current folder may be a shipped one."""
    path, _, name = text.rpartition(":")
    file = next((f for f in (Path(path), _shipped() / path) if f.suffix == ".py" and f.is_file()), None)
    if file is None:
        raise unknown("config file", path, [f"configs/{f.name}" for f in _files(sys.modules["configs"].__path__).values()])
    file = file.resolve()
    in_room = file == _files(sys.modules["configs"].__path__).get(file.stem)
    module = _load(f"configs.{file.stem}" if in_room else f"lmjax_config_{file.stem}", file)
    functions = config_functions(module)
    if name not in functions:
        raise unknown(f"config function in {path}", name, functions)
    try:
        config = resolve(functions[name], text)
    except Exception as error:
        raise UserError(_what_broke(error, file)) from error
    return Selected(text, (inspect.getdoc(functions[name]) or "").partition("\n")[0], config, file)


def _load_study(name: str, file: Path) -> Experiment:
    """The study in a file; UserError if the file fails or registers no study of its name."""
    module = f"experiments.{name}"
    if module not in sys.modules:
        _STUDIES.pop(name, None)
    _load(module, file)
    if name not in _STUDIES:
        raise UserError(f"{_shown(file)} registers no experiment: end it with register(Experiment(name={name!r}, ...))")
    return _STUDIES[name]


def _load(module: str, file: Path) -> ModuleType:
    """Import a file, once, under that name; whatever goes wrong is a UserError that names the line."""
    try:
        if module.partition(".")[0] in ROOMS:
            return importlib.import_module(module)
        spec = importlib.util.spec_from_file_location(module, file)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    except (Exception, SystemExit) as error:
        _STUDIES.pop(module.rpartition(".")[2], None)
        raise UserError(_what_broke(error, file)) from error


def _what_broke(error: BaseException, file: Path) -> str:
    """file, line and error in one sentence."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{_shown(file)}{f', line {line}' if line else ''}: {kind}{message}"


def _shown(file: Path) -> str:
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _shipped() -> Path:
    """The folder with the configs and experiments that come with lmjax: in the wheel, else the clone."""
    inside = Path(__file__).parent / "shipped"
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent


def _files(folders) -> dict[str, Path]:
    """The Python files of a room by stem, sorted; the first folder that has a stem wins."""
    found = {}
    for folder in reversed(list(folders)):
        found |= {file.stem: file for file in Path(folder).glob("*.py") if not file.name.startswith("_")}
    return dict(sorted(found.items()))


def _open_rooms() -> dict[str, list[str]]:
    """Make `configs` and `experiments` importable from the current folder, then from the shipped one.

    They are namespace modules without an __init__.py; when their folders change, what they imported is forgotten.
    """
    folders = [Path.cwd().resolve(), _shipped()]
    paths = {room: list(dict.fromkeys(str(f / room) for f in folders if (f / room).is_dir())) for room in ROOMS}
    importlib.invalidate_caches()  # files may have been written since
    if any(room not in sys.modules or list(sys.modules[room].__path__) != paths[room] for room in ROOMS):
        _STUDIES.clear()
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
            del sys.modules[name]
        for room in ROOMS:
            spec = ModuleSpec(room, None, is_package=True)
            spec.submodule_search_locations = paths[room]
            sys.modules[room] = importlib.util.module_from_spec(spec)
    return paths
