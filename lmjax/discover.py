"""Where the files of `configs/` and `experiments/` are, and how they are imported.

The current folder comes first, then the folder that comes with lmjax; files are importable by name from both
(`from configs import lm`). Only this module reaches them: nothing else in lmjax imports `configs` or `experiments`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from lmjax.errors import UserError

ROOMS = ("configs", "experiments")


def load(module: str, file: Path) -> ModuleType:
    """Import a file, once, under that name; whatever goes wrong is a UserError that names the line."""
    try:
        if module.partition(".")[0] in ROOMS:
            return importlib.import_module(module)
        spec = importlib.util.spec_from_file_location(module, file)
        sys.modules[module] = importlib.util.module_from_spec(spec)  # dataclasses in the file look there
        spec.loader.exec_module(sys.modules[module])
        return sys.modules[module]
    except (Exception, SystemExit) as error:
        sys.modules.pop(module, None)
        raise UserError(what_broke(error, file)) from error


def what_broke(error: BaseException, file: Path) -> str:
    """file, line and error in one sentence."""
    own_syntax = isinstance(error, SyntaxError) and error.filename == str(file)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if own_syntax else lines[-1] if lines else None
    message = error.msg if own_syntax else str(error)
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{shown(file)}{f', line {line}' if line else ''}: {kind}{message}{_hidden(file)}"


def _hidden(file: Path) -> str:
    """A note for a file of lmjax that fails, when a config file here stands in front of the one it was written for."""
    here, there = Path.cwd() / "configs", shipped() / "configs"
    if here == there or not file.is_relative_to(shipped()):
        return ""
    both = sorted(files([here]).keys() & files([there]).keys())
    return f" (here configs/{both[0]}.py is not the one of lmjax: give yours another name)" if both else ""


def shown(file: Path) -> str:
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def shipped() -> Path:
    """The folder with the configs and experiments that come with lmjax: in the wheel, else the clone."""
    inside = Path(__file__).parent / "shipped"
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent


def files(folders) -> dict[str, Path]:
    """The Python files of a room by stem, sorted; the first folder that has a stem wins."""
    found = {}
    for folder in reversed(list(folders)):
        found |= {file.stem: file for file in Path(folder).glob("*.py") if not file.name.startswith("_")}
    return dict(sorted(found.items()))


def open_rooms() -> dict[str, list[str]]:
    """Make `configs` and `experiments` importable from the current folder, then from the shipped one.

    They are namespace modules without an __init__.py; when their folders change, what they imported is forgotten.
    """
    folders = [Path.cwd().resolve(), shipped()]
    paths = {room: list(dict.fromkeys(str(f / room) for f in folders if (f / room).is_dir())) for room in ROOMS}
    importlib.invalidate_caches()  # files may have been written since
    known = {room: list(getattr(sys.modules.get(room), "__path__", ())) for room in ROOMS}
    if known != paths:
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
            del sys.modules[name]
        for room in ROOMS:
            spec = ModuleSpec(room, None, is_package=True)
            spec.submodule_search_locations = paths[room]
            sys.modules[room] = importlib.util.module_from_spec(spec)
    return paths
