"""Configs: typed overrides, what is said of a mistake, hash, diff, and the traps of ml_collections kept shut."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, FrozenConfigDict

from configs import base
from lmjax.config import (
    ABSENT,
    config,
    config_hash,
    diff,
    dumps,
    extend,
    flatten,
    loads,
    optional,
    override,
    update,
)
from lmjax.errors import UserError, unknown

REPOSITORY = Path(__file__).resolve().parent.parent


def sample():
    return config(
        steps=100,
        model=dict(depth=4, rate=0.5, tied=True, position="rope", window=optional(int), name=optional(str)),
        layout=dict(batch=("data", "fsdp"), heads=(), shape=(2, 4)),
        rules=dict(rest=dict(match="rest", decay=1.0), vectors=dict(match=".*scale", decay=0.0)),
    )


def only_change(*texts):
    rows = diff(sample(), override(sample(), texts))
    assert len(rows) == 1
    return rows[0][2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=7", 7),
        ("steps=-7", -7),
        ("steps=1_000", 1000),
        ("steps=1e3", 1000),
        ("steps=1e23", 10**23),
        ("model.rate=2", 2.0),
        ("model.rate=3e-4", 3e-4),
        ("model.tied=false", False),
        ("model.tied=0", False),
        ("model.position=none", "none"),
        ("model.position=a=b,c", "a=b,c"),
        ("model.position=", ""),
        ("model.window=64", 64),
        ("model.name=x", "x"),
        ("layout.batch=data", ("data",)),
        ("layout.batch=data, tensor", ("data", "tensor")),
        ("layout.batch=('data','tensor')", ("data", "tensor")),
        ("layout.batch=['data']", ("data",)),
        ("layout.batch=(data,tensor)", ("data", "tensor")),
        ("layout.batch='data','tensor'", ("data", "tensor")),
        ("layout.batch=()", ()),
        ("layout.batch=", ()),
        ("layout.batch=7", ("7",)),
        ("layout.heads=tensor", ("tensor",)),
        ("layout.heads=8,x", (8, "x")),
        ("layout.shape=8,1", (8, 1)),
        ("layout.shape=(8, 1)", (8, 1)),
        ("--config.steps=7", 7),
    ],
)
def test_an_override_is_read_by_the_type_of_its_leaf(text, value):
    changed = only_change(text)
    assert changed == value and type(changed) is type(value)


@pytest.mark.parametrize("text", ["True", "TRUE", "1", "true"])
def test_true_has_these_spellings(text):
    assert override(override(sample(), ["model.tied=0"]), [f"model.tied={text}"]).model.tied is True


def test_none_unsets_an_optional_leaf_and_only_an_optional_leaf():
    there = override(sample(), ["model.window=8", "model.name=x"])
    back = override(there, ["model.window=none", "model.name=None"])
    assert back.model.window is None and back.model.name is None
    with pytest.raises(UserError, match="steps takes an integer"):
        override(sample(), ["steps=none"])
    with pytest.raises(UserError, match="steps takes an integer"):
        update(sample(), {"steps": None})


@pytest.mark.parametrize(
    "text",
    [
        "steps=4.5", "steps=four", "steps=", "steps=true", "steps=1e999999999", "steps=nan", "model.rate=high",
        "model.rate=inf", "model.rate=nan", "model.tied=yes", "model.tied=2", "model.window=4.5", "layout.shape=2,x",
        "layout.shape=(2.5,)", "layout.batch=('data', 1)",
    ],
)  # fmt: skip
def test_a_text_of_the_wrong_type_is_refused(text):
    path, _, value = text.partition("=")
    with pytest.raises(UserError, match=re.escape(f"not {value!r}")) as error:
        override(sample(), [text])
    example = re.search(r"for example --config\.(\S+)$", str(error.value))
    override(sample(), [example[1]])  # and the example in the message is one that works


def test_a_refusal_says_the_leaf_the_type_and_the_value():
    with pytest.raises(UserError, match=r"model.window takes an integer or none, not 'wide'; for example --config.mod"):
        override(sample(), ["model.window=wide"])
    with pytest.raises(UserError, match="layout.shape takes a tuple of int, not '2,x'"):
        override(sample(), ["layout.shape=2,x"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", True), ("steps", "4"), ("steps", 4.5), ("model.tied", 1), ("model.tied", "true"), ("model.rate", "1"),
        ("model.rate", True), ("model.rate", float("inf")), ("model.position", 3), ("layout.shape", ("a",)),
        ("layout.shape", 3), ("model.window", 2.5), ("steps", [1]), ("steps", float("nan")), ("steps", 1e400),
    ],
)  # fmt: skip
def test_a_python_value_of_the_wrong_type_is_refused(path, value):
    with pytest.raises(UserError, match=rf"^{path} takes .*; for example"):
        update(sample(), {path: value})


def test_update_turns_values_into_the_type_of_the_leaf():
    new = update(sample(), {"model.rate": 1, "steps": 1e3, "layout.shape": [8, 1], "layout.heads": "tensor"})
    assert (new.model.rate, new.steps, new.layout.shape, new.layout.heads) == (1.0, 1000, (8, 1), ("tensor",))
    assert type(new.model.rate) is float and type(new.steps) is int


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("model.dpeth", "did you mean model.depth?"),
        ("dropout", "dropout lives at model.dropout"),
        ("optim.dropout", "dropout lives at model.dropout"),
        ("mesh.fsdp", "fsdp lives at layout.mesh.fsdp"),
        ("mesh.data", "'mesh.data': data lives at layout.mesh.data."),
        ("mesh", "mesh lives at layout.mesh."),
        ("warmpu", "did you mean optim.schedule.warmup?"),
        ("modl", "did you mean model?"),
        ("lerning_rate", "did you mean optim.learning_rate?"),
        ("optim.scedule.warmup", "warmup lives at optim.schedule.warmup"),
        ("model.depth.x", "model.depth is a leaf itself"),
        ("model.lantern", "model has attention, attention_softcap,"),
        ("qqq", "The config has batch, data, eval,"),
        ("", "The config has batch, data, eval,"),
        ("optim.clip", "optim.clip is a section, not a leaf; its leaves are optim.clip.at, optim.clip.by"),
    ],
)
@pytest.mark.parametrize("change", [lambda c, p: override(c, [f"{p}=1"]), lambda c, p: update(c, {p: 1})])
def test_a_wrong_path_is_told_where_to_look(path, says, change):
    with pytest.raises(UserError, match=re.escape(says)):
        change(base.language_model(), path)


def test_an_override_without_a_value_says_so_and_a_misspelt_one_says_that():
    with pytest.raises(UserError, match=r"has no value: write --config.model.tied=VALUE"):
        override(sample(), ["model.tied"])
    with pytest.raises(UserError, match=r"did you mean model.tied\?"):
        override(sample(), ["model.teid"])


def test_changing_a_config_leaves_the_old_one_as_it_was():
    old, before = sample(), dumps(sample())
    override(old, ["steps=7", "model.window=3"])
    update(old, {"rules.rest.decay": 0.5})
    extend(old, {"model.experts": 8})
    assert dumps(old) == before


# ml_collections 1.1: what each of these does by itself is shown first, then that lmjax does not.


def test_trap_a_typo_on_an_unlocked_config_is_silently_accepted():
    bare = ConfigDict({"model": {"depth": 4}})
    bare.model.dpeth = 8
    assert bare.model.depth == 4
    for made in (sample(), update(sample(), {}), override(sample(), []), extend(sample(), {}), loads(dumps(sample()))):
        with pytest.raises(AttributeError, match="depth"):
            made.model.dpeth = 8
        with pytest.raises(AttributeError, match="depth"):
            _ = made.model.dpeth


def test_trap_get_hides_a_typo_so_no_code_here_reads_a_config_with_get():
    assert sample().model.get("dpeth") is None
    reads = re.compile(r"\b(config|section)(\.\w+)*\.get\([\"']")
    assert reads.search("config.model.get('x')")
    for room in ("lmjax", "configs", "experiments"):
        for file in (REPOSITORY / room).rglob("*.py"):
            assert not reads.search(file.read_text()), file


def test_trap_a_leaf_that_is_none_has_no_type():
    bare = ConfigDict({"window": None})
    bare.window = "wide"  # whatever it was meant to be
    with pytest.raises(UserError, match="model.window is None.*optional"):
        config(model=dict(window=None))
    with pytest.raises(UserError, match="model.window takes an integer"):
        update(sample(), {"model.window": "wide"})


def test_trap_a_tuple_of_dicts_cannot_be_frozen():
    with pytest.raises(ValueError):
        FrozenConfigDict({"rules": ({"match": "rest"},)})
    for items in (({"match": "rest"},), [ConfigDict({"match": "rest"})]):
        with pytest.raises(UserError, match="rules is a tuple of dicts.*section of named dicts"):
            config(rules=items)


def test_trap_a_dict_used_twice_is_one_section():
    shared, ref = {"a": 1}, optional(int)
    bare = ConfigDict({"x": shared, "y": shared, "r": ref, "s": ref})
    bare.x.a, bare.r = 2, 3
    assert bare.y.a == 2 and bare.s == 3
    ref = optional(int)
    ours = update(config(x=shared, y=shared, r=ref, s=ref), {"x.a": 2, "r": 3})
    assert (ours.y.a, ours.s) == (1, None)


@pytest.mark.parametrize("name", ["items", "keys", "update", "lock", "two-words", "2nd", "lambda", "a.b"])
def test_trap_a_leaf_named_like_a_method_cannot_be_read(name):
    with pytest.raises(UserError, match=re.escape(f"model.{name}")):
        config(model={name: 1})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, float("nan"), (1, float("inf")), int])
def test_a_leaf_that_is_not_json_is_refused(value):
    with pytest.raises(UserError, match="model.bad"):
        config(model=dict(bad=value))


def test_a_table_takes_other_records_and_its_records_are_checked():
    record = dict(match="head", decay=0.5)
    assert sorted(update(sample(), {"rules.head": record}).rules) == ["head", "rest", "vectors"]
    new = update(sample(), {"rules": {"head": record, "rest": dict(match="rest", decay=1)}})
    assert sorted(new.rules) == ["head", "rest"] and type(new.rules.rest.decay) is float
    with pytest.raises(UserError, match="rules.head needs the leaves decay, match"):
        update(sample(), {"rules.head": dict(match="head")})
    with pytest.raises(UserError, match="rules.head needs the leaves decay, match"):
        update(sample(), {"rules": {"head": 3}})
    with pytest.raises(UserError, match="rules.head.decay takes a number, not 'big'"):
        update(sample(), {"rules.head": dict(match="head", decay="big")})
    with pytest.raises(UserError, match="model is a section, not a leaf; its leaves are model.depth"):
        update(sample(), {"model": {"depth": 8}})
    with pytest.raises(UserError, match="steps takes an integer"):
        update(sample(), {"steps": {"a": 1}})
    with pytest.raises(UserError, match="did you mean rules"):
        update(sample(), {"ruels": {"head": record}})


def test_extend_adds_what_is_not_there_and_nothing_else():
    new = extend(sample(), {"model.experts": 8, "reward": {"scale": optional(float)}})
    assert override(new, ["model.experts=4", "reward.scale=1"]).reward.scale == 1.0
    with pytest.raises(UserError, match="model.depth is already"):
        extend(sample(), {"model.depth": 8})
    with pytest.raises(UserError, match="'modle' is not a section"):
        extend(sample(), {"modle.experts": 8})


leaves = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.lists(st.integers() | st.text(), max_size=3).map(tuple),
)
names = st.sampled_from("abcdefgh")
sections = st.dictionaries(names, leaves, max_size=3)
trees = st.dictionaries(names, leaves | sections, max_size=4)
ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@ANY_SPEED
@given(trees)
def test_json_gives_the_config_back_and_its_leaves_keep_their_types(tree):
    made = config(**tree)
    back = loads(dumps(made))
    assert diff(made, back) == [] and config_hash(made) == config_hash(back) and back.is_locked
    assert [type(leaf) for leaf in flatten(made).values()] == [type(leaf) for leaf in flatten(back).values()]


@ANY_SPEED
@given(st.dictionaries(names, leaves, max_size=3), st.data())
def test_two_configs_have_one_hash_exactly_when_their_diff_is_empty(tree, data):
    other = {name: data.draw(st.just(value) | leaves) for name, value in reversed(tree.items())}
    a, b = config(section=tree), config(section=other)
    assert (config_hash(a) == config_hash(b)) == (diff(a, b) == [])


def test_optional_leaves_keep_their_types_through_json():
    back = loads(dumps(override(sample(), ["model.window=8"])))
    assert override(back, ["model.window=none"]).model.window is None
    assert override(back, ["model.name=3"]).model.name == "3"
    with pytest.raises(UserError, match="model.window takes an integer or none"):
        override(back, ["model.window=wide"])


def test_json_without_types_can_still_be_overridden():
    made = loads('{"a": null, "b": [1, 2]}')
    texts = {"a=4": 4, "a=0.5": 0.5, "a=true": True, "a=x": "x", "a=none": None}
    for text, value in texts.items():
        read = override(made, [text]).a
        assert read == value and type(read) is type(value)
    assert made.b == (1, 2)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": NaN}', '{"$optional": {"a": "dict"}}',
                                  '{"a": "x", "$optional": {"a": "int"}}', '{"a": [{"b": 1}]}'])  # fmt: skip
def test_what_is_not_the_json_of_a_config_is_refused(text):
    with pytest.raises(UserError):
        loads(text)


def test_the_hash_depends_on_every_value_and_on_no_order():
    one = config(a=1, b=dict(c=2.0, d=("x",)))
    assert config_hash(one) == config_hash(config(b=dict(d=["x"], c=2.0), a=1))
    others = [config(a=2, b=one.b), config(a=1, b=dict(c=2.0, d=())), config(a=1, b=dict(c=2, d=("x",))), config(a=1)]
    assert len({config_hash(other) for other in [one, *others]}) == 5
    # the hash is written into run directories, so another one for the same config would be a break
    assert config_hash(config(a=1)) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_an_optional_leaf_that_is_set_hashes_like_a_plain_one():
    assert config_hash(update(config(a=optional(int)), {"a": 3})) == config_hash(config(a=3))


def test_a_diff_has_what_changed_and_what_only_one_side_has():
    a, b = config(x=1, s=dict(y=2, z=3)), config(x=1, s=dict(y=4), t=5)
    assert diff(a, b) == [("s.y", 2, 4), ("s.z", 3, ABSENT), ("t", ABSENT, 5)]
    assert diff(config(a=1, b=True), config(a=1.0, b=1)) == [("a", 1, 1.0), ("b", True, 1)]


def test_unknown_names_come_with_the_nearest_and_all_legal_ones():
    assert str(unknown("optimizer", "Adamm", ["sgd", "adam"])) == (
        "unknown optimizer 'Adamm'; did you mean 'adam'? Legal: sgd, adam."
    )
    assert "did you mean" not in str(unknown("optimizer", "zzz", ["sgd", "adam"], "See optim."))
    assert "There are none" in str(unknown("variant", "x", []))


def test_every_leaf_of_a_language_model_can_be_overridden_with_its_own_text():
    model = base.language_model()
    for path, value in flatten(model).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert diff(model, override(model, [f"{path}={text}"])) == [], path
