import math

import jax
import numpy as np
import pytest
from optim_cases import section

from lmjax import optim
from lmjax.errors import UserError

PEAK, STEPS, WARMUP, END = 0.5, 100, 20, 0.1


def rates(name, steps=range(STEPS), **values):
    schedule = {"name": name, "warmup": WARMUP, "end": END, **values}
    chosen = section({"learning_rate": PEAK, **{f"schedule.{leaf}": value for leaf, value in schedule.items()}})
    rate = optim.build(chosen, STEPS, {"w": np.zeros((2, 2))}, {"w": "df"}).schedule
    return np.array(jax.vmap(rate)(np.asarray(steps)))


def after_warmup(step):
    return (step - WARMUP) / (STEPS - WARMUP)


FORMULAS = {
    "constant": lambda step: 1,
    "linear": lambda step: 1 + (END - 1) * after_warmup(step),
    "exponential": lambda step: END ** after_warmup(step),
    "cosine": lambda step: END + (1 - END) * 0.5 * (1 + math.cos(math.pi * after_warmup(step))),
    "wsd": lambda step: 1 if step <= 80 else 1 - (1 - END) * (step - 80) / 20,
    "inverse_sqrt": lambda step: math.sqrt(WARMUP / (step + 1)),
    "plateau": lambda step: 1,
}


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_schedule_is_its_formula_after_a_linear_warm_up_that_never_stands_still(name):
    found = rates(name)
    np.testing.assert_allclose(found[:WARMUP], PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)
    expected = [PEAK * FORMULAS[name](step) for step in range(WARMUP, STEPS)]
    np.testing.assert_allclose(found[WARMUP:], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "exponential", "cosine", "wsd"])
def test_a_decaying_schedule_reaches_end_at_the_last_step_and_stays_there(name):
    np.testing.assert_allclose(rates(name, [STEPS, 10 * STEPS]), PEAK * END, rtol=1e-6)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_run_shorter_than_its_warm_up_still_moves(name):
    found = rates(name, range(STEPS), warmup=10 * STEPS)
    assert np.isfinite(found).all() and (found > 0).all()


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak(name):
    np.testing.assert_allclose(rates(name, [0], warmup=0), PEAK, rtol=1e-6)


def test_the_share_of_steps_that_decays_can_be_set():
    np.testing.assert_allclose(rates("wsd", [50, 75, 100], decay=0.5) / PEAK, [1, 0.55, 0.1], rtol=1e-6)


def test_a_loss_that_stands_still_lowers_the_rate_by_factor_after_patience_windows_and_not_below_end():
    values = {"name": "plateau", "factor": 0.5, "patience": 2, "window": 3, "end": 0.3}
    chosen = section({"name": "sgd", "learning_rate": 1.0, **{f"schedule.{k}": v for k, v in values.items()}})
    params = {"w": np.ones((2, 2), np.float32)}
    optimizer = optim.build(chosen, STEPS, params, {"w": "df"})
    update = jax.jit(lambda state, loss: optimizer.update(params, state, params, step=0, loss=loss, norm=1.0))
    state, moves, scales = optimizer.init(params), [], []
    for loss in [4.0, 3.0, 2.0] + [3.0] * 21:
        new, state = update(state, loss)
        moves.append(float(params["w"][0, 0] - new["w"][0, 0]))
        scales.append(float(optimizer.learning_rate(0, state)))
    # windows of 3 steps; the first average is the best one, the third and fifth are the second ones without a better
    np.testing.assert_allclose(scales[2::3], [1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(moves, scales, rtol=1e-6)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"name": "cosin"}, "'cosin'.*did you mean 'cosine'"),
        ({"name": "cosine", "decay": 0.2}, "schedule.decay.*'cosine' does not take it; it takes warmup, end"),
        ({"name": "wsd", "patience": 3}, "schedule.patience.*'wsd' does not take it; it takes warmup, end, decay"),
        ({"name": "wsd", "decay": 1.5}, "schedule.decay=1.5"),
        ({"name": "plateau", "factor": 1.0}, "schedule.factor=1.0"),
        ({"name": "exponential", "end": 0.0}, "schedule.end=0"),
        ({"name": "linear", "end": 1.5}, "schedule.end=1.5"),
        ({"name": "linear", "warmup": -1}, "schedule.warmup=-1"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(values, says):
    with pytest.raises(UserError, match=says):
        rates(**values)
