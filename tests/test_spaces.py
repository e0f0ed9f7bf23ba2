"""Spaces over config paths: what points they have, what they are called, and what is refused."""

import pytest

from configs import lm
from lmjax import experiment as study
from lmjax.config import diff
from lmjax.errors import UserError
from lmjax.experiment import Experiment, register
from lmjax.study import spaces

LEARNING_RATE, DEPTH = "optim.learning_rate", "model.depth"


@pytest.fixture
def registered():
    """A function that registers a study of the variants, and forgets it after the test."""
    yield lambda variants: register(Experiment(name="spaced", question="Why?", base=lm.tiny, variants=variants))
    study._STUDIES.pop("spaced", None)


def test_a_grid_has_every_combination_and_names_that_say_what_is_set():
    assert spaces.grid({LEARNING_RATE: (1e-4, 0.01), DEPTH: [3, 4]}) == {
        "learning_rate-0.0001__depth-3": {LEARNING_RATE: 1e-4, DEPTH: 3},
        "learning_rate-0.0001__depth-4": {LEARNING_RATE: 1e-4, DEPTH: 4},
        "learning_rate-0.01__depth-3": {LEARNING_RATE: 0.01, DEPTH: 3},
        "learning_rate-0.01__depth-4": {LEARNING_RATE: 0.01, DEPTH: 4},
    }


def test_zipped_and_listed_points_go_together_as_given():
    pairs = spaces.zipped({DEPTH: (3, 4), "model.width": (96, 64)})
    assert list(pairs.values()) == [{DEPTH: 3, "model.width": 96}, {DEPTH: 4, "model.width": 64}]
    assert spaces.listed([{DEPTH: 3}, {"optim.name": "muon"}]) == {
        "depth-3": {DEPTH: 3},
        "name-muon": {"optim.name": "muon"},
    }


def test_every_kind_of_space_registers_as_the_variants_of_a_study(registered):
    drawn = spaces.random(3, 0, {LEARNING_RATE: spaces.log_uniform(1e-4, 1e-2), "optim.name": ["adamw", "lion"]})
    tables = spaces.grid({"model.rope_base": {"short": 500.0}})
    crossed = spaces.crossed(spaces.grid({DEPTH: (3, 4)}), spaces.zipped({"batch": (2, 3), "steps": (9, 6)}))
    made = registered(drawn | tables | crossed)
    assert made.config("depth-4__batch-2__steps-9").steps == 9
    assert {path for path, *_ in diff(lm.tiny(), made.config("rope_base-short"))} == {"model.rope_base"}
    assert len(made.variants) == 3 + 1 + 4


def test_paths_with_the_same_end_keep_what_tells_them_apart():
    names = spaces.grid({"model.name": ["a"], "optim.name": ["b"], "optim.schedule.name": ["c/d"], "seeds": [1]})
    assert list(names) == ["model.name-a__optim.name-b__schedule.name-c-d__seeds-1"]


def test_draws_depend_on_seed_number_and_path_alone():
    axes = {LEARNING_RATE: spaces.log_uniform(1e-4, 1e-2), "model.width": spaces.log_integers(16, 512)}
    five, more = spaces.random(5, 7, axes), spaces.random(9, 7, axes | {"model.dropout": spaces.uniform(0.0, 0.5)})
    for name, point in five.items():
        assert {path: more[name][path] for path in axes} == point
    assert spaces.random(5, 8, axes) != five
    assert five["draw0"] == {LEARNING_RATE: 0.00880329, "model.width": 260}  # the same on every machine


def test_draws_stay_within_their_limits_and_reach_all_of_them():
    axes = {"a": spaces.log_uniform(1e-4, 1e-2), "b": spaces.integers(1, 4), "c": spaces.log_integers(1, 8)}
    points = list(spaces.random(400, 0, axes | {"d": spaces.uniform(-1, 1), "e": spaces.choice("x", "y")}).values())
    column = {path: [point[path] for point in points] for path in points[0]}
    assert 1e-4 <= min(column["a"]) < 1.2e-4 and 0.9e-2 < max(column["a"]) <= 1e-2
    assert 0.4 < sum(value < 1e-3 for value in column["a"]) / 400 < 0.6  # log-uniform: half below the geometric mean
    assert set(column["b"]) == {1, 2, 3, 4} and set(column["c"]) == set(range(1, 9))
    assert column["c"].count(1) > 3 * column["c"].count(8)
    assert -1 <= min(column["d"]) < -0.97 and 0.97 < max(column["d"]) <= 1 and set(column["e"]) == {"x", "y"}


def test_the_same_point_is_never_drawn_twice_and_too_many_are_refused():
    axes = {DEPTH: [1, 2, 3], "optim.name": spaces.choice("adamw", "lion")}
    points = [tuple(point.values()) for point in spaces.random(6, 0, axes).values()]
    assert len(set(points)) == 6
    with pytest.raises(UserError, match="about 6 different points, not n=7"):
        spaces.random(7, 0, axes)


def test_beyond_leaves_out_the_point_that_is_the_base(registered):
    everything = spaces.grid({DEPTH: (2, 3), "model.heads": (lm.tiny().model.heads, 1)})
    made = spaces.beyond(lm.tiny, everything)
    assert len(everything) == 4 and len(made) == 3 and made.items() <= everything.items()
    assert registered(made)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: spaces.grid({}), "grid: a space is a dict, config path -> values, not {}"),
        (lambda: spaces.grid({DEPTH: 3}), r"model.depth takes several values, such as \[3\], not 3"),
        (lambda: spaces.grid({"optim.name": "muon"}), "takes several values"),
        (lambda: spaces.grid({DEPTH: []}), "model.depth has no values"),
        (lambda: spaces.grid({DEPTH: [2, 2]}), "two points are called 'depth-2'"),
        (lambda: spaces.grid({DEPTH: spaces.integers(1, 4)}), "only random and search draw from one"),
        (lambda: spaces.grid({"optim.rules": [{"head": 1}]}), "has no short name: give the values as a dict"),
        (lambda: spaces.zipped({DEPTH: [2, 3], "batch": [4]}), "model.depth has 2, batch has 1"),
        (lambda: spaces.listed([{}]), "at least one point"),
        (lambda: spaces.random(0, 0, {DEPTH: [2]}), "n=0; draw at least one point"),
        (lambda: spaces.random(2, 0, {}), "a space is a dict, config path -> values or distribution"),
        (lambda: spaces.log_uniform(0, 1), r"log_uniform\(0, 1\): the lower limit is above 0"),
        (lambda: spaces.uniform(2, 1), "the lower limit comes first"),
        (lambda: spaces.integers(1, 2.5), "the limits are whole numbers"),
        (lambda: spaces.choice(), "no values to choose from"),
        (lambda: spaces.crossed(spaces.grid({DEPTH: [3]}), spaces.grid({DEPTH: [4]})), "model.depth is set by"),
    ],
)
def test_a_space_that_cannot_be_meant_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
