"""Search: which trials are tried and promoted, and real ones: stopped, killed, gone on with, and reported."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import runs

from lmjax import atomic
from lmjax.__main__ import main
from lmjax.errors import UserError
from lmjax.experiment import find
from lmjax.study import halving, samplers, search, spaces, trials
from lmjax.verbs.searching import find_space

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


@pytest.mark.slow
def test_a_run_stopped_at_steps_and_gone_on_with_is_the_run_that_never_stopped(text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"every.save": 100}
    assert runs.train(text, whole, changes) == 0
    assert runs.train(text, parts, changes, "--until=4") == 75  # a step with an evaluation
    assert runs.manifest(parts)["saved"] == 4 and runs.history(parts)[-1]["valid/loss"]
    assert runs.manifest(parts)["cause"] == "--until=4"
    assert runs.train(text, parts, changes, "--until=12") == 0
    assert runs.history(parts) == runs.history(whole) and runs.parameters(parts) == runs.parameters(whole)


@pytest.mark.parametrize("until", [None, 4])
def test_a_metric_that_no_run_measures_ends_a_search_with_the_names_of_those_there_are(until, tmp_path):
    lines = [{"step": 4, "valid/nll": 2.0, "valid/loss": math.nan}]
    facts = {"status": "completed", "saved": 4, "result": {"metrics": {"valid/nll": 2.0, "valid/loss": math.nan}}}
    (tmp_path / "manifest.json").write_text(atomic.dumps(facts))
    (tmp_path / "metrics.jsonl").write_text("".join(atomic.dumps(line) + "\n" for line in lines))
    assert trials.measured(tmp_path, until, "valid/nll").value == 2.0
    assert math.isnan(trials.measured(tmp_path, until, "valid/loss").value)
    with pytest.raises(UserError, match="unknown metric 'valid/nlll'; did you mean 'valid/nll'"):
        trials.measured(tmp_path, until, "valid/nlll")


class InThisProcess:
    """An executor that runs a command at once, in this process; it can be told to stop the search after some."""

    def __init__(self, stop_after=None):
        self.commands, self.stop_after = [], stop_after

    def submit(self, command, environment):
        self.commands.append(command[3:])
        self.code = main(command[3:])
        if len(self.commands) == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return Ended(self.code)


class Ended:
    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def output(self):
        return "lmjax: it was refused"

    def cancel(self):
        pass


def counted(text, workspace, executor, **changes):
    """A search over n-grams of the small text; the exit code."""
    space = spaces.distributions({"model.order": [1, 2, 3], "batch": [2, 4]})
    overrides = [f"data.source={text}", "data.valid_fraction=0.2", "data.length=32", "model.order=2", "batch=4"]
    settings = search.Settings(**{"trials": 3, "sampler": "random", "jobs": 2, "fresh": 2, **changes})
    return search.search(find("configs/ngram.py:of_bytes")._replace(name="configs/ngram.py:of_bytes"), space, settings,
                         workspace, executor, overrides)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(text, tmp_path_factory):
    """Of a search that nothing disturbed."""
    made, executor = tmp_path_factory.mktemp("whole") / "search", InThisProcess()
    assert counted(text, made, executor) == 0
    assert len(executor.commands) == 3 + 2 * 2
    return made


def test_a_search_that_was_stopped_goes_on_and_runs_nothing_twice(text, workspace, tmp_path, capsys):
    before, rest, again = InThisProcess(stop_after=2), InThisProcess(), InThisProcess()
    assert counted(text, tmp_path / "parts", before) == 75
    assert counted(text, tmp_path / "parts", rest) == 0
    folders = [word for words in [*before.commands, *rest.commands] for word in words if "--workdir" in word]
    assert len(folders) == len(set(folders)) == 3 + 2 * 2
    assert counted(text, tmp_path / "parts", again) == 0 and not again.commands
    for name in ("search.md", "trials.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (workspace / name).read_bytes()


def test_the_winner_is_the_best_trial_and_is_reported_with_seeds_it_has_not_seen(text, workspace):
    rows = [line.split(",") for line in (workspace / "trials.csv").read_text().splitlines()[1:]]
    number, order, batch, value, _ = min(rows, key=lambda row: float(row[3]))
    said = (workspace / "search.md").read_text()
    assert f"Winner: trial {number}, valid/nll {float(value):.5g} with the search's own seed" in said
    assert f"--config.model.order={order} --config.batch={batch}" in said
    assert "With fresh seeds (1, 2)" in said and "Winner minus base, paired by seed" in said
    for seed in (1, 2):
        assert runs.manifest(workspace / "winner" / f"seed{seed}")["seed"] == seed
    with pytest.raises(UserError, match="is a search with trials=3, now it is 5: choose another --workdir"):
        counted(text, workspace, InThisProcess(), trials=5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampler": "tbe"}, "unknown sampler 'tbe'; did you mean 'tpe'"),
        ({"trials": 0}, "--trials=0: at least 1"),
        ({"trials": 7}, "the space has 6 points, fewer than --trials=7"),
        ({"factor": 1}, "--halving=1"),
        ({"factor": 3}, "no evaluation by step 0 of 1"),
        ({"mode": "least"}, "unknown mode 'least'"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused_before_it_begins(changes, says, tmp_path):
    with pytest.raises(UserError, match=says):
        counted("nowhere", tmp_path / "search", InThisProcess(), **changes)
    assert not (tmp_path / "search" / "search.json").exists()


def test_a_space_is_found_by_its_name_in_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("rates = {'optim.learning_rate': [0.1, 0.2]}\n")
    assert find_space(f"{tmp_path}/mine.py:rates", tmp_path) == {"optim.learning_rate": [0.1, 0.2]}
    assert find_space("rates", tmp_path / "mine.py") == {"optim.learning_rate": [0.1, 0.2]}
    with pytest.raises(UserError, match="unknown space in .*mine.py 'rate'; did you mean 'rates'"):
        find_space(f"{tmp_path}/mine.py:rate", tmp_path)


@pytest.mark.slow
def test_a_search_with_halving_that_is_killed_gives_the_report_of_one_that_is_not(text, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lmjax.study import spaces\n"
        "space = {'optim.learning_rate': spaces.log_uniform(1e-4, 1.0), 'model.mlp': ['gelu', 'swiglu']}\n"
    )
    changes = {**runs.SMALL, "data.source": text, "every.eval": 3, "every.save": 100}
    flags = [f"--config.{path}={value}" for path, value in changes.items()]

    def begin(workspace):
        words = ["search", "configs/lm.py:tiny", f"--space={tmp_path}/mine.py:space", "--trials=6", "--halving=2"]
        env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        command = [sys.executable, "-m", "lmjax", *words, "--seeds=0", "--jobs=2", f"--workdir={workspace}", *flags]
        return subprocess.Popen(command, cwd=runs.ROOT, env=env)

    assert begin(tmp_path / "whole").wait() == 0
    for trial in (1, 3):
        process = begin(tmp_path / "killed")
        while process.poll() is None and not (tmp_path / f"killed/trials/trial{trial}/metrics.jsonl").exists():
            time.sleep(0.05)  # between looks at files that other processes write
        process.kill()
        process.wait()
    assert begin(tmp_path / "killed").wait() == 0
    for name in ("search.md", "trials.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    sessions = [
        [session["from_step"] for session in atomic.loads(path.read_text())["sessions"]]
        for path in (tmp_path / "whole" / "trials").glob("*/manifest.json")
    ]
    assert [0, 3, 6] in sessions and [0] in sessions  # the winner went on from its rungs, others were stopped
