import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim_cases import section

from lmjax import optim
from lmjax.errors import UserError
from lmjax.metrics import Sum, means
from lmjax.step import SPIKE_AFTER, TrainState, init_state, make_eval_step, make_gradients, make_train_step

DIMS = {"weight": "df", "bias": "f", "frozen": "d"}
RULES = {"frozen": {"match": "frozen", "freeze": True}, "rest": {"match": "rest"}}
ROWS = 12


def params():
    rng = np.random.default_rng(0)
    return {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=3), "frozen": rng.normal(size=4)}


def batch(seed=1):
    """Twelve rows of five positions with very unequal weights, some rows without any."""
    rng = np.random.default_rng(seed)
    counted = np.arange(5) < np.array([5, 0, 3, 1, 5, 2, 4, 0, 1, 5, 2, 1])[:, None]
    x, y = rng.normal(size=(ROWS, 5, 4)), rng.normal(size=(ROWS, 5, 3))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "weights": counted.astype(np.float32)}


def apply(variables, batch):
    p = variables["params"]
    return jnp.tanh(batch["x"] * p["frozen"]) @ p["weight"] + p["bias"]


def squares(apply, params, batch, rng, *, train):
    error = apply({"params": params}, batch) - batch["y"]
    loss = Sum.of(jnp.sum(error**2, -1), batch["weights"])
    return {"loss": loss, "drawn": Sum.of(jax.random.uniform(rng)), "train": Sum.of(jnp.float32(train))}


def start(values=None, rules=RULES):
    chosen = section({"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1, **(values or {})}, rules)
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params())
    optimizer = optim.build(chosen, 50, weights, DIMS)
    state = init_state(weights, optimizer, chosen)
    step = make_train_step(
        apply, squares, optimizer, microbatches=chosen.microbatches, seed=3, ema=chosen.ema, skip=chosen.skip
    )
    return state, jax.jit(step, donate_argnums=0), optimizer


def gradients_of(microbatches, rules=RULES):
    _, _, optimizer = start(rules=rules)
    run = jax.jit(make_gradients(apply, squares, optimizer, microbatches=microbatches, seed=3))
    return jax.device_get(run(params(), batch(), 7))


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("microbatches", [2, 3, 12])
def test_microbatches_with_unequal_token_counts_give_the_gradient_and_loss_of_one_batch(microbatches):
    whole, metrics = gradients_of(1)
    parts, summed = gradients_of(microbatches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)
    assert summed["loss"].mean() == pytest.approx(metrics["loss"].mean(), rel=1e-6)
    counts = batch()["weights"].reshape(-1, microbatches, 5).sum((0, 2))
    assert len(set(counts)) > 1  # else a mean of means would pass


def test_the_gradient_is_that_of_the_mean_loss_over_what_counts():
    def mean_loss(part):
        data = batch()
        error = apply({"params": part}, data) - data["y"]
        return (jnp.sum(error**2, -1) * data["weights"]).sum() / data["weights"].sum()

    expected = jax.grad(mean_loss)(params())
    found, _ = gradients_of(3, rules=None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_frozen_parameter_gets_no_gradient_and_keeps_its_bits():
    grads, _ = gradients_of(2)
    assert grads["frozen"] is None and grads["weight"] is not None
    state, step, _ = start({"ema": 0.9})
    for seed in range(3):
        state, _ = step(state, batch(seed))
    assert_same_bits(state.params["frozen"], params()["frozen"].astype(np.float32))
    assert_same_bits(state.ema["frozen"], state.params["frozen"])
    assert np.abs(state.params["weight"] - params()["weight"]).max() > 1e-3


def test_two_runs_are_the_same_bits_and_randomness_follows_seed_step_and_microbatch():
    def run(count):
        state, step, _ = start({"microbatches": 3, "ema": 0.9})
        drawn = []
        for seed in range(count):
            state, metrics = step(state, batch(seed))
            drawn.append(float(metrics["drawn"].total))
        return state, drawn

    (first, drawn), (second, _) = run(4), run(4)
    assert_same_bits(first, second)
    key = jax.random.key(3)
    for step, total in enumerate(drawn):
        of_step = jax.random.fold_in(key, step)
        expected = sum(jax.random.uniform(jax.random.fold_in(of_step, i)) for i in range(3))
        assert total == pytest.approx(float(expected), rel=1e-6)


def poisoned(seed=9):
    data = batch(seed)
    data["y"][0, 0] = np.nan
    data["weights"][0, 0] = 1.0
    return data


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing_but_is_counted(name):
    state, step, _ = start({"name": name, "skip.nonfinite": True, "ema": 0.9, "schedule.name": "plateau"})
    state, _ = step(state, batch(1))
    before = jax.device_get(state)
    for times in (1, 2):
        state, metrics = step(state, poisoned())
        assert_same_bits((state.params, state.opt_state, state.ema), (before.params, before.opt_state, before.ema))
        assert (int(state.step), int(state.guard["skipped"]), int(state.guard["skipped_in_row"])) == (
            1 + times,
            times,
            times,
        )
        found = means(metrics)
        assert found["skipped"] == 1 and found["train"] == 1 and found["learning_rate"] == pytest.approx(0.02)
        assert metrics["loss"].weight == metrics["loss"].total == metrics["grad_norm"].weight == 0
    state, metrics = step(state, batch(2))
    assert (int(state.guard["skipped"]), int(state.guard["skipped_in_row"]), means(metrics)["skipped"]) == (2, 0, 0)
    assert np.abs(state.params["weight"] - before.params["weight"]).max() > 1e-4


def test_without_the_guard_a_step_that_is_not_finite_is_taken_and_seen():
    state, step, _ = start()
    state, metrics = step(state, poisoned())
    assert np.isnan(means(metrics)["loss"]) and np.isnan(state.params["bias"]).any()


def test_a_gradient_far_above_the_running_mean_is_skipped_once_there_is_a_mean():
    spike = {**batch(5), "y": batch(5)["y"] * 100}
    state, step, _ = start({"skip.spike": 4.0})
    state, metrics = step(state, spike)
    assert means(metrics)["skipped"] == 0  # too early to judge

    state, step, _ = start({"skip.spike": 4.0})
    norms = []
    for seed in range(SPIKE_AFTER):
        state, metrics = step(state, batch(seed))
        norms.append(means(metrics)["grad_norm"])
    assert float(state.guard["norm_mean"]) == pytest.approx(np.mean(norms), rel=1e-5)
    before = jax.device_get(state)
    state, metrics = step(state, spike)
    assert_same_bits((state.params, state.opt_state), (before.params, before.opt_state))
    found = means(metrics)
    assert found["skipped"] == 1 and found["grad_norm"] > 4 * np.mean(norms) and found["loss"] > 0
    assert float(state.guard["norm_mean"]) == before.guard["norm_mean"]
    state, metrics = step(state, batch(6))
    assert means(metrics)["skipped"] == 0


def test_the_average_of_parameters_starts_as_a_copy_and_follows_its_formula():
    state, step, _ = start({"ema": 0.5})
    average = jax.device_get(state.ema)
    assert_same_bits(average, state.params)
    for n in range(12):
        state, _ = step(state, batch(n))
        d = min(0.5, (1 + n) / (10 + n))
        average = jax.tree.map(lambda e, p, d=d: e + (1 - d) * (np.asarray(p) - e), average, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), jax.device_get(state.ema), average)
    assert d == 0.5 and np.abs(average["weight"] - state.params["weight"]).max() > 1e-3


def test_the_step_reports_the_norm_before_clipping_and_the_rate_it_used():
    state, step, optimizer = start({"clip.by": "global_norm", "clip.at": 0.01, "schedule.name": "linear"})
    grads, _ = jax.jit(make_gradients(apply, squares, optimizer, seed=3))(state.params, batch(), 0)
    expected = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    for done in range(3):
        state, metrics = step(state, batch())
        if done == 0:
            assert means(metrics)["grad_norm"] == pytest.approx(expected, rel=1e-5)
        assert means(metrics)["learning_rate"] == pytest.approx(float(optimizer.schedule(done)), rel=1e-6)
        assert metrics["learning_rate"].weight == metrics["skipped"].weight == metrics["grad_norm"].weight == 1


def test_a_batch_in_which_nothing_counts_is_no_error_and_gives_no_gradient():
    state, step, _ = start({"name": "sgd", "weight_decay": 0.0, "skip.nonfinite": True})
    state, metrics = step(state, {**batch(), "weights": np.zeros((ROWS, 5), np.float32)})
    assert means(metrics)["skipped"] == 0 and means(metrics)["grad_norm"] == 0
    assert_same_bits(state.params["weight"], params()["weight"].astype(np.float32))


def test_the_step_neither_transfers_nor_copies_a_donated_state_nor_compiles_twice():
    state, step, _ = start({"microbatches": 2, "ema": 0.9, "skip.nonfinite": True, "skip.spike": 5.0})
    state = jax.jit(lambda: jax.tree.map(jnp.copy, state))()
    data = jax.device_put(batch())
    assert isinstance(state, TrainState)
    for _ in range(3):
        old = state
        with jax.transfer_guard("disallow"):
            state, _ = step(state, data)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt_state, old.ema)))
    assert step._cache_size() == 1


def test_on_the_cpu_the_guard_is_one_conditional_and_nothing_else():
    state, step, _ = start({"skip.nonfinite": True})
    assert step.lower(state, batch()).compile().as_text().count(" conditional(") == 1


def test_rows_that_microbatches_do_not_divide_are_refused():
    state, step, _ = start({"microbatches": 5})
    with pytest.raises(UserError, match="microbatches=5 does not divide the batch of 12 rows"):
        step(state, batch())


def test_evaluation_sums_without_training_and_does_not_depend_on_its_batch():
    step = jax.jit(make_eval_step(apply, squares))
    data = batch()
    whole = step(params(), data)
    halves = [step(params(), {name: x[rows] for name, x in data.items()}) for rows in (slice(0, 3), slice(3, None))]
    assert means(whole)["train"] == 0
    assert (halves[0]["loss"] + halves[1]["loss"]).mean() == pytest.approx(whole["loss"].mean(), rel=1e-6)
