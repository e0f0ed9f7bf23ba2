"""A family of models of another library: which leaves of a config its config.json says, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmjax.errors import UserError
from lmjax.interop.pairs import Pair

NEEDED = object()  # the default of a setting that config.json must have
# Leaves that change how a model is trained or computed, and not what it computes from its parameters.
TENSORS, PREPROCESSOR = "(tensors)", "(preprocessor_config.json)"  # keys that stand beside those of config.json
NEUTRAL = ("dropout", "layers", "remat", "attention", "init_scale", "vocab_multiple", "pool")
OFF = (None, False, 0, "none", ())


class Setting(NamedTuple):
    """A leaf here and a key of config.json; `default` is what its absence means, `words` their value -> ours."""

    ours: str
    theirs: str
    default: Any = NEEDED
    words: Mapping[Any, Any] | None = None


def nothing(values: Mapping[str, Any]) -> dict[str, Any]:
    """No more settings than the family's table has."""
    return {}


class Family(NamedTuple):
    """`ours`: leaves that every model of it has; `theirs`: keys that must have this value where they are there.

    `read(config.json) -> leaves` and `write(leaves) -> keys` are for what a table cannot say, and `reads` the leaves
    they are about. `pairs(leaves)` are the parameters. `prefix` begins the names of all but the heads, and is missing in
    checkpoints of the bare model. `copies`: tensors that repeat another, where they are there at all. `buffers`: a
    regular expression for tensors that are no parameters. `kinds`: its values of model.kind; `unread`: beginnings of
    leaves that such a model does not read.
    """

    model_type: str
    architecture: str
    kinds: Sequence[str]
    recipe: str  # the config function whose leaves it has
    settings: Sequence[Setting]
    pairs: Callable[[Mapping[str, Any]], list[Pair]]
    ours: Mapping[str, Any] = {}
    theirs: Mapping[str, Any] = {}
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = nothing
    write: Callable[[Mapping[str, Any]], dict[str, Any]] = nothing
    reads: Sequence[str] = ()
    prefix: str = ""
    copies: Callable[[Mapping[str, Any]], dict[str, str]] = nothing
    buffers: str = r"(?!)"
    unread: Sequence[str] = ()


def leaves_of(family: Family, settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The leaves, by path, that a config.json means; UserError names the key that this family cannot have here."""
    for key, value in family.theirs.items():
        if key in settings and settings[key] != value:
            raise UserError(
                f"{file}: {key}={settings[key]!r} is not supported; of {family.model_type} models only {value!r}"
            )
    leaves = dict(family.ours)
    for setting in family.settings:
        value = settings.get(setting.theirs, setting.default)
        if value is NEEDED:
            raise UserError(f"{file}: it has no {setting.theirs}, which a {family.model_type} config.json says")
        if setting.words is not None:
            if value not in setting.words:
                legal = ", ".join(map(repr, setting.words))
                raise UserError(f"{file}: {setting.theirs}={value!r} is not supported; there are {legal}")
            value = setting.words[value]
        leaves[setting.ours] = value
    try:
        return leaves | family.read(settings)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def refusals(family: Family, leaves: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Why a model with these leaves is none of this family; nothing if it is.

    A leaf that the family says nothing of must be off: as it is in the defaults of the family's recipe, or in OFF.
    """
    if leaves["model.kind"] not in family.kinds:
        return [f"model.kind={leaves['model.kind']!r} is not {' or '.join(family.kinds)}"]
    wrong = [f"{path}={leaves[path]!r} is not {value!r}" for path, value in family.ours.items()
             if path in leaves and leaves[path] != value]  # fmt: skip
    for setting in family.settings:
        if setting.words is not None and leaves[setting.ours] not in setting.words.values():
            legal = " or ".join(map(repr, setting.words.values()))
            wrong.append(f"{setting.ours}={leaves[setting.ours]!r} is not {legal}")
    said = {*family.ours, *family.reads, *(setting.ours for setting in family.settings)}
    wrong += [f"{path}={value!r} has no place in its config.json" for path, value in leaves.items()
              if path.startswith("model.") and path not in said and value not in OFF and value != defaults.get(path, OFF)
              and path.rpartition(".")[2] not in NEUTRAL and not path.startswith(tuple(family.unread))]  # fmt: skip
    return wrong


def settings_of(family: Family, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json for a model with these leaves, which `refusals` has nothing against."""
    made = {"model_type": family.model_type, "architectures": [family.architecture], **family.theirs}
    for setting in family.settings:
        value = leaves[setting.ours]
        if setting.words is not None:
            value = next(theirs for theirs, ours in setting.words.items() if ours == value)
        made[setting.theirs] = value
    return made | family.write(leaves) | {"torch_dtype": "float32"}
