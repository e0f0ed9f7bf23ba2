"""Search: which trials are tried and promoted, and a real one whose trials stop at rungs and go on."""

import math

import pytest
import runs

from lmjax.study import halving, samplers, spaces

RATE = {"optim.learning_rate": spaces.log_uniform(1e-4, 1.0)}


def play(course, value):
    """A search whose trial t has value(t, step) at a step; its jobs in order, and the results."""
    jobs = []
    known = halving.run(
        course, lambda job, known, running: jobs.append(job), lambda job: value(job.trial, course.rungs[job.rung])
    )
    return jobs, known


def test_rungs_are_steps_at_which_there_is_an_evaluation():
    assert halving.rungs(400, 3, 20) == (40, 140, 400)
    assert halving.rungs(100, 3, 100) == (100,)
    assert halving.rungs(96, 2, 12) == (12, 24, 48, 96)


def test_halving_gives_long_runs_to_the_best_few_alone():
    course = halving.Course(trials=27, rungs=(10, 30, 90), factor=3, jobs=2)
    jobs, known = play(course, lambda trial, step: (trial * 7) % 27 + 100 / step)
    assert [len(results) for results in known] == [27, 9, 3]
    assert halving.ranked(known[-1])[0] == 0  # the best of all, whatever its number
    steps = sum(course.rungs[job.rung] - (course.rungs[job.rung - 1] if job.rung else 0) for job in jobs)
    assert steps == 27 * 10 + 9 * 20 + 3 * 60 < 27 * 90 / 3
    assert len(set(jobs)) == len(jobs)


def test_without_rungs_every_trial_is_trained_to_its_end():
    jobs, known = play(halving.Course(5, (90,), 3, 2), lambda trial, step: -trial)
    assert [job.trial for job in jobs] == [0, 1, 2, 3, 4] and halving.ranked(known[0]) == [4, 3, 2, 1, 0]


def test_one_trial_gets_to_the_end_however_few_there_are_and_failed_ones_never_do():
    values = {0: math.nan, 1: 3.0, 2: 2.0, 3: math.inf}
    _, known = play(halving.Course(4, (1, 10, 100), 3, 2), lambda trial, step: values[trial])
    assert known[-1] == {2: 2.0}
    _, known = play(halving.Course(3, (1, 10), 3, 2), lambda trial, step: math.nan)
    assert known == [{0: math.inf, 1: math.inf, 2: math.inf}, {}]


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_sampler_is_a_function_of_what_is_known(sampler):
    seen = [samplers.Seen(samplers.at_random(RATE, 0, n, []), 100, 1.0 + n, True) for n in range(9)]
    running = samplers.Seen({"optim.learning_rate": 0.5}, 0, None)
    ask = samplers.SAMPLERS[sampler]
    assert ask(RATE, 0, 9, [*seen, running]) == ask(RATE, 0, 9, [*seen, running])
    assert ask(RATE, 0, 9, [*seen, running]) != ask(RATE, 0, 10, [*seen, running])


def test_tpe_comes_closer_to_the_best_than_random_draws():
    pytest.importorskip("optuna")
    space = {**RATE, "model.depth": spaces.integers(1, 9), "optim.name": spaces.choice("adamw", "lion", "muon")}

    def loss(point):
        off = math.log10(point["optim.learning_rate"]) + 2.5
        return off**2 + 0.3 * abs(point["model.depth"] - 4) + 0.5 * (point["optim.name"] != "muon")

    def mean_of_last(sampler, seed):
        seen = []
        for number in range(30):
            point = sampler(space, seed, number, seen)
            seen.append(samplers.Seen(point, 100, loss(point), True))
        return sum(one.value for one in seen[-10:]) / 10

    better = [mean_of_last(samplers.tpe, seed) < mean_of_last(samplers.at_random, seed) for seed in range(3)]
    assert all(better)


def test_trials_that_failed_or_stopped_early_still_tell_tpe_where_not_to_look():
    pytest.importorskip("optuna")
    points = [{"optim.learning_rate": 10 ** (-4 + n / 4)} for n in range(16)]
    seen = [
        samplers.Seen(point, 100 if n == 6 else 10, math.inf if n > 8 else abs(n - 6) + 1.0, n == 6)
        for n, point in enumerate(points)
    ]
    near = [samplers.tpe(RATE, seed, 16, seen)["optim.learning_rate"] for seed in range(20)]
    assert sum(rate < 0.03 for rate in near) > 15


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("text"))


def test_a_run_stopped_at_steps_and_gone_on_with_is_the_run_that_never_stopped(text, tmp_path, quick_runs):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"every.save": 100}
    assert runs.train(text, whole, changes) == 0
    assert runs.train(text, parts, changes, "--until=4") == 75  # a step with an evaluation
    assert runs.manifest(parts)["saved"] == 4 and runs.history(parts)[-1]["valid/loss"]
    assert runs.manifest(parts)["cause"] == "--until=4"
    assert runs.train(text, parts, changes, "--until=12") == 0
    assert runs.history(parts) == runs.history(whole) and runs.parameters(parts) == runs.parameters(whole)
