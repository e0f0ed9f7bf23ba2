"""What the tables say of models and objectives is true of all that there are."""

import pytest

from lmjax import models, objectives
from lmjax.config import update
from lmjax.counted import KINDS as COUNTED
from lmjax.evaluation.judge import GIVES
from lmjax.experiment import find, listing
from lmjax.models import fit
from lmjax.program import check
from lmjax.sharding import AXES


def test_every_model_and_objective_says_what_it_reads():
    assert set(fit.MODELS) == set(models.MODELS)
    assert set(fit.OBJECTIVES) == set(objectives.OBJECTIVES)


def test_every_objective_has_a_model_and_every_model_an_objective_and_an_evaluation():
    assert {one.gives for one in fit.MODELS.values()} == {one.of for one in fit.OBJECTIVES.values()} == set(GIVES)


@pytest.mark.parametrize("name", listing().configs)
def test_every_recipe_fits_its_data(name):
    config = find(name).config
    if config.model.kind not in COUNTED:
        check(update(config, {f"layout.mesh.{axis}": -1 if axis == "data" else 1 for axis in AXES}))
