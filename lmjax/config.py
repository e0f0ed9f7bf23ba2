"""Configs: locked ml_collections ConfigDicts with typed overrides, a canonical hash and a diff. No JAX in here.

A config is a tree of sections whose leaves are JSON: a bool, int, float, str, a tuple of these, or `optional(type)`,
which is None until it is set. A section that holds only sections (`optim.rules`) is a table: its records can be
replaced and added by `update`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import keyword
from collections.abc import Callable, Iterable, Mapping
from decimal import InvalidOperation

from ml_collections import ConfigDict, FieldReference

from lmjax.errors import UserError
from lmjax.leaves import ANY, KINDS, MEANING, cast, checked, read

ABSENT = "(absent)"  # stands in a diff for a leaf that only the other config has


def config(**sections) -> ConfigDict:
    """A locked ConfigDict from leaves and nested dicts; lists become tuples, nothing is shared with the arguments.

    Raises UserError for a leaf that is not JSON, a bare None (write `optional(type)`) and a name that is no attribute.
    """
    return _section(sections, "").lock()


def optional(kind: type) -> FieldReference:
    """A leaf of that type (bool, int, float, str or tuple) that is None until an override sets it."""
    if kind not in MEANING:
        raise UserError(f"optional({kind!r}): the type of a leaf is one of {', '.join(KINDS)}")
    return FieldReference(None, field_type=kind)


def update(config: ConfigDict, values: Mapping[str, object]) -> ConfigDict:
    """A new locked config with leaves set by path, {"model.depth": 4}, each checked against the leaf it replaces.

    A dict replaces a whole table, {"optim.rules": {name: record, ...}}, or adds or replaces one record of it,
    {"optim.rules.head": record}; a record has the same leaves as the records that are there.
    """
    new = _section(config, "")
    for path, value in values.items():
        if isinstance(value, (dict, ConfigDict)):
            _set_records(new, path, value)
        else:
            _set_leaf(new, path, value, cast)
    return new.lock()


def override(config: ConfigDict, texts: Iterable[str]) -> ConfigDict:
    """A new locked config with command-line overrides, "model.depth=4", each read by the type of the leaf it sets."""
    new = _section(config, "")
    for text in texts:
        path, equals, value = text.removeprefix("--").removeprefix("config.").partition("=")
        if not equals:
            _leaf_section(new, path)  # a misspelt path is the better thing to say
            raise UserError(f"override {text!r} has no value: write --config.{path}=VALUE")
        _set_leaf(new, path, value, read)
    return new.lock()


def extend(config: ConfigDict, values: Mapping[str, object]) -> ConfigDict:
    """A new locked config with new leaves or sections, {"model.experts": 8}, for a recipe whose parts read more."""
    new = _section(config, "")
    for path, value in values.items():
        parent, _, key = path.rpartition(".")
        section = _find_section(new, parent)
        if section is None:
            raise UserError(f"{parent!r} is not a section of this config, so {path!r} cannot be added")
        if key in section:
            raise UserError(f"{path} is already in this config: `update` changes it")
        section.update(_section({key: value}, parent))
    return new.lock()


def flatten(config: ConfigDict) -> dict[str, object]:
    """Every leaf by its path, {"model.depth": 4}, sorted by section and name."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            leaves |= {f"{key}.{path}": leaf for path, leaf in flatten(value).items()}
        else:
            leaves[key] = value
    return leaves


def dumps(config: ConfigDict) -> str:
    """Indented JSON; `$optional` beside the sections keeps the types of optional leaves for `loads`."""
    kinds = {path: kind.__name__ for path, kind in _optional_kinds(config).items() if isinstance(kind, type)}
    return json.dumps(_plain(config) | {"$optional": kinds}, indent=2, sort_keys=True, allow_nan=False) + "\n"


def loads(text: str) -> ConfigDict:
    """The locked config that `dumps` wrote: equal values and types, JSON lists as tuples."""
    try:
        tree = json.loads(text)
        kinds = {path: KINDS[kind] for path, kind in tree.pop("$optional", {}).items()}
        return _section(tree, "", kinds).lock()
    except (json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"not the JSON of a config: {type(error).__name__}: {error}") from error


def config_hash(config: ConfigDict) -> str:
    """SHA-256, in hex, of the canonical JSON of the values: sorted keys, no spaces."""
    text = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def diff(a: ConfigDict, b: ConfigDict) -> list[tuple[str, object, object]]:
    """(path, value in a, value in b) of every leaf that differs, ABSENT where there is none; 1 and 1.0 differ."""
    in_a, in_b = flatten(a), flatten(b)
    rows = [(path, in_a.get(path, ABSENT), in_b.get(path, ABSENT)) for path in sorted(in_a | in_b)]
    return [row for row in rows if json.dumps(row[1]) != json.dumps(row[2])]


def _section(section, path: str, kinds: Mapping[str, type | tuple] | None = None) -> ConfigDict:
    """An unlocked deep copy of a dict or ConfigDict, checked; kinds gives the types of optional leaves by path."""
    out = ConfigDict()
    config_dict = isinstance(section, ConfigDict)
    for key, value in section.items(preserve_field_references=True) if config_dict else section.items():
        where = f"{path}.{key}" if path else f"{key}"
        if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
            raise UserError(f"{where!r}: the name {key!r} is no Python identifier, so no attribute can have it")
        if hasattr(ConfigDict, key):
            raise UserError(f"{where!r}: the name {key!r} is a method of every ConfigDict; choose another")
        if isinstance(value, (dict, ConfigDict)):
            out[key] = _section(value, where, kinds)
        elif isinstance(value, FieldReference):
            if value.get_type() not in (*MEANING, ANY):
                raise UserError(f"{where} has the type {value.get_type()}; a leaf is one of {', '.join(KINDS)}")
            out[key] = FieldReference(checked(value.get(), where, none=True), field_type=value.get_type())
        elif kinds is not None and (where in kinds or value is None):
            out[key] = FieldReference(checked(value, where, none=True), field_type=kinds.get(where, ANY))
        else:
            out[key] = checked(value, where)
    return out


def _plain(config: ConfigDict) -> dict[str, object]:
    return {key: _plain(value) if isinstance(value, ConfigDict) else value for key, value in config.items()}


def _optional_kinds(config: ConfigDict, path: str = "") -> dict[str, type | tuple]:
    kinds = {}
    for key, value in config.items(preserve_field_references=True):
        if isinstance(value, ConfigDict):
            kinds |= _optional_kinds(value, f"{path}{key}.")
        elif isinstance(value, FieldReference):
            kinds[f"{path}{key}"] = value.get_type()
    return kinds


def _find_section(config: ConfigDict, path: str) -> ConfigDict | None:
    """The section at a dotted path ('' is the whole config), or None."""
    for name in path.split(".") if path else ():
        config = config[name] if isinstance(config, ConfigDict) and name in config else None
    return config if isinstance(config, ConfigDict) else None


def _leaf_section(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section and the key of the leaf at path; UserError that says where to look if there is no such leaf."""
    parent, _, key = path.rpartition(".")
    section = _find_section(config, parent)
    if section is None or key not in section:
        raise _no_leaf(config, path)
    if isinstance(section[key], ConfigDict):
        leaves = ", ".join(f"{path}.{leaf}" for leaf in flatten(section[key]))
        raise UserError(f"{path} is a section, not a leaf; its leaves are {leaves}")
    return section, key


def _no_leaf(config: ConfigDict, path: str) -> UserError:
    """What to say of a path that is not there: where its key lives, else the nearest paths, and what is beside it."""
    leaves, key = list(flatten(config)), path.rpartition(".")[2]
    owner = next((leaf for leaf in leaves if path.startswith(leaf + ".")), None)
    if owner:
        return UserError(f"no config leaf {path!r}: {owner} is a leaf itself; write --config.{owner}=VALUE")
    sections = {leaf[:end] for leaf in leaves for end in range(len(leaf)) if leaf[end] == "."}
    places = [*leaves, *sorted(sections)]
    homes = [place for place in places if place.endswith("." + path)] or [
        place for place in places if place.rpartition(".")[2] == key
    ]
    if homes:
        return UserError(f"no config leaf {path!r}: {key} lives at {' and '.join(homes)}.")

    def likeness(place):
        whole = difflib.SequenceMatcher(None, path, place).ratio()
        return max(whole, difflib.SequenceMatcher(None, key, place.rpartition(".")[2]).ratio() - 0.05)

    score, close = max(((likeness(place), place) for place in places), default=(0.0, ""))
    guess = f"; did you mean {close}?" if score > 0.6 else "."
    parent = path.rpartition(".")[0]
    section = _find_section(config, parent) if parent else None
    beside = f"{parent} has {', '.join(section)}" if section else f"The config has {', '.join(config)}"
    return UserError(f"no config leaf {path!r}{guess} {beside}.")


def _set_leaf(config: ConfigDict, path: str, value, convert: Callable) -> None:
    """Set one leaf in place to what convert(kind, value, present) makes of value."""
    section, key = _leaf_section(config, path)
    present = dict(section.items(preserve_field_references=True))[key]
    is_optional = isinstance(present, FieldReference)
    kind = present.get_type() if is_optional else type(present)
    if is_optional and (value is None or (convert is read and value.strip().lower() == "none")):
        section[key] = None
        return
    try:
        section[key] = convert(kind, value, section[key])
    except (ValueError, InvalidOperation, OverflowError):
        meaning, example = MEANING.get(kind, ("a value", "4"))
        if kind is tuple and present:
            meaning = f"a tuple of {type(present[0]).__name__}"
            example = ",".join(str(item) for item in present)
        meaning += " or none" if is_optional else ""
        raise UserError(f"{path} takes {meaning}, not {value!r}; for example --config.{path}={example}") from None


def _set_records(config: ConfigDict, path: str, value: dict | ConfigDict) -> None:
    """Replace a table, or add or replace one of its records, in place; a dict elsewhere is a UserError."""
    parent, _, name = path.rpartition(".")
    whole = _is_table(_find_section(config, path))
    if not whole and not (parent and _is_table(_find_section(config, parent))):
        return _set_leaf(config, path, value, cast)
    table_path, records = (path, value) if whole else (parent, {name: value})
    table = _find_section(config, table_path)
    model = next(iter(table.values()))
    for old in list(table) if whole else ():
        del table[old]
    for name, record in records.items():
        new = _section(record, f"{table_path}.{name}") if isinstance(record, (dict, ConfigDict)) else ConfigDict()
        if flatten(new).keys() != flatten(model).keys():
            raise UserError(f"{table_path}.{name} needs the leaves {', '.join(flatten(model))}, not {record!r}")
        table[name] = _section(model, "")
        for key, leaf in flatten(new).items():
            _set_leaf(config, f"{table_path}.{name}.{key}", leaf, cast)


def _is_table(section: ConfigDict | None) -> bool:
    return bool(section) and all(isinstance(value, ConfigDict) for value in section.values())
