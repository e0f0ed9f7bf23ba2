"""What must not change a model's numbers does not: layers, remat, packing, batching, the future, other documents."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from apart import apart

from lmjax import program
from lmjax.evaluate.language import evaluate
from lmjax.layers import blocked
from lmjax.layers.positions import POSITIONS
from lmjax.layers.stack import REMATS
from lmjax.objectives.next_token import next_token

OPTIONS = {
    "rope": {"model.kv_heads": 2, "model.qk_norm": True},
    "sinusoidal": {"model.norm_place": "post", "model.mlp": "relu"},
    "learned": {"model.norm": "layernorm", "model.bias": True, "model.mlp": "gelu"},
    "alibi": {"model.kv_heads": 1, "model.attention_softcap": 3.0},
    "t5": {"model.mlp": "reglu", "model.logit_softcap": 4.0},
    "none": {"model.window": 7},
}
assert set(OPTIONS) == set(POSITIONS)


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(blocked, "QUERY_BLOCK", 9)  # of the 24 positions: blocked attention has three blocks


def make(position, **changes):
    return tiny.model({"model.position": position, **OPTIONS[position]} | changes)


@cache
def in_training(layers, remat, attend="blocked"):
    """The loss with its gradients, dropout included, and how many products and sigmoids they take."""
    model = tiny.model({"model.dropout": 0.2, "model.layers": layers, "model.remat": remat, "model.attention": attend})
    params, batch = tiny.parameters(model), tiny.packed([[24], [10, 9]])

    def loss(params):
        return next_token(model.apply, params, batch, jax.random.key(7), train=True)["loss"].total

    traced = jax.jit(jax.value_and_grad(loss)).trace(params)
    text = str(traced.jaxpr)
    return traced.lower().compile()(params), (text.count("dot_general"), text.count("logistic")), "scan[" in text


def assert_close(ours, expected):
    jax.tree.map(lambda o, e: np.testing.assert_allclose(o, e, rtol=2e-4, atol=2e-5), ours, expected)


def test_scanned_and_unrolled_layers_have_the_same_loss_and_gradients():
    (scanned, _, is_scan), (unrolled, _, is_not) = in_training("scan", "none"), in_training("unroll", "none")
    assert is_scan and not is_not
    assert_close(scanned, unrolled)


RECOMPUTED = [*(("scan", remat) for remat in REMATS if remat != "none"), ("unroll", "full")]


@pytest.mark.parametrize("layers, remat", apart(RECOMPUTED, ("scan", "minimal"), ("unroll", "full")))
def test_rematerialised_layers_have_the_same_loss_and_gradients(layers, remat):
    assert_close(in_training(layers, remat)[0], in_training(layers, "none")[0])


@pytest.mark.slow
def test_every_remat_policy_computes_something_else_again():
    policies = ("none", "dots", "minimal", "full")
    products, sigmoids = zip(*(in_training("scan", remat, "dense")[1] for remat in policies), strict=True)
    assert products[0] == products[1] < products[2] < products[3]
    assert sigmoids[0] < sigmoids[1] <= sigmoids[2] <= sigmoids[3]
    none, minimal, full, offload = (in_training("scan", r)[1][0] for r in ("none", "minimal", "full", "offload"))
    assert none == minimal == offload < full  # what blocked attention needs again is saved by name


@pytest.mark.parametrize("position", apart(POSITIONS, "rope", "learned", "t5"))
def test_a_document_has_the_same_logits_alone_and_in_a_packed_row(position):
    model = make(position)
    params, sizes = tiny.parameters(model), (5, 1, 12)
    together, alone = tiny.packed([sizes]), tiny.packed([[size] for size in sizes])
    for row, stop in enumerate(np.cumsum(sizes)):
        document = together["tokens"][0, stop - sizes[row] : stop]
        alone["tokens"] = alone["tokens"].at[row, : sizes[row]].set(document)
    ours, expected = tiny.logits(model, params, together)[0], tiny.logits(model, params, alone)
    for row, stop in enumerate(np.cumsum(sizes)):
        document = slice(stop - sizes[row], stop)
        np.testing.assert_allclose(ours[document], expected[row, : sizes[row]], rtol=1e-4, atol=1e-4)


def assert_no_leak(model, params):
    """Change a token of document B: nothing before it moves, nothing of document A, and all that may see it does."""
    length = model.max_length
    sizes = [length // 3, length - length // 3]
    batch, at = tiny.packed([sizes, sizes], length=length), sizes[0] + 4
    far = length if model.window is None else at + model.window
    run = jax.jit(lambda tokens: model.apply({"params": params}, batch | {"tokens": tokens}, train=False))
    before = run(batch["tokens"])[..., : model.vocab]
    after = run(batch["tokens"].at[:, at].add(1))[..., : model.vocab]
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    assert (jnp.abs(before - after).max(-1) > 1e-5)[:, at:far].all()
    first = run(batch["tokens"].at[:, 2].add(1))[..., : model.vocab]  # of document A
    np.testing.assert_array_equal(before[:, sizes[0] :], first[:, sizes[0] :])
    assert jnp.abs(before - first)[:, 2 : sizes[0]].max() > 1e-3


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("position", POSITIONS)
def test_nothing_sees_the_future_or_another_document(position, backend):
    """At once: every encoding with each attention, full and windowed."""
    window = {} if position != "rope" else {"model.window": 8}
    model = make(position, **{"model.attention": backend, "model.depth": 1} | window)
    assert_no_leak(model, tiny.parameters(model))


@pytest.mark.parametrize("position", ["rope", "none"])
def test_nothing_sees_the_future_or_another_document_by_splash_attention(position):
    changes = {"model.attention": "splash", "data.length": 128, "model.depth": 1, "model.width": 64, "model.heads": 2}
    model = make(position, **changes)
    assert_no_leak(model, tiny.parameters(model))


def test_a_window_hides_what_is_further_back():
    model = tiny.model({"model.window": 5, "model.depth": 1})
    params, batch = tiny.parameters(model), tiny.packed([[24]])
    changed = batch | {"tokens": batch["tokens"].at[:, 3].add(1)}
    difference = jnp.abs(tiny.logits(model, params, batch) - tiny.logits(model, params, changed)).max(-1)[0]
    np.testing.assert_array_equal(np.flatnonzero(difference > 1e-6), np.arange(3, 3 + 5))


@pytest.mark.parametrize("position, pads", [*((position, (0, 3)) for position in POSITIONS), ("rope", (2,))])
def test_cached_decoding_gives_the_logits_of_the_full_forward_pass(position, pads):
    """Ragged prompts, padded on the left, then one token after the other; a single row has a cache of its own shape."""
    rows, length, prompt = len(pads), 12, 7
    model = make(position, **{"model.depth": 2 if position == "rope" else 1})
    params, whole = tiny.parameters(model), tiny.packed([[length - left] for left in pads], length=length)
    expected = tiny.logits(model, params, whole)
    shifted = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segments", "positions")}
    for name, field in shifted.items():
        for row, left in enumerate(pads):
            field[row, left:] = np.asarray(whole[name])[row, : length - left]

    @jax.jit
    def run(cache, batch):
        return model.apply({"params": params}, batch, train=False, cache=cache)

    cache, logits = model.init_cache(rows, length), []
    for part in (slice(0, prompt), *(slice(at, at + 1) for at in range(prompt, length))):
        out, cache = run(cache, {name: jnp.asarray(field[:, part]) for name, field in shifted.items()})
        logits.append(out[..., : model.vocab])
    logits = jnp.concatenate(logits, axis=1)
    for row, left in enumerate(pads):
        np.testing.assert_allclose(logits[row, left:], expected[row, : length - left], rtol=1e-4, atol=1e-4)
    assert int(cache["index"]) == length


def build(changes=None):
    return program.build(tiny.config(changes), vocab=tiny.VOCAB,
                         devices=jax.devices()[:1])  # fmt: skip


def test_evaluation_does_not_depend_on_its_batch_size():
    """11 rows in batches of 1 and 4, the last filled up with rows of padding."""
    made = build()
    params = tiny.parameters(made.model)
    rows = {name: np.asarray(field) for name, field in tiny.packed([[3], [24], [10, 9], [1], [20]] * 2 + [[7]]).items()}
    found = {}
    for size in (1, 4):
        run, batches = made.compile_eval(size), -(-11 // size)
        padded = {name: np.concatenate([field, np.zeros_like(field)[:1].repeat(16, 0)]) for name, field in rows.items()}
        parts = ({name: f[i * size : (i + 1) * size] for name, f in padded.items()} for i in range(batches))
        found[size] = evaluate(run, params, (made.place(part, size) for part in parts))
    for size, metrics in found.items():
        assert metrics == pytest.approx(found[1], rel=1e-6), size
    assert found[1]["nll"] > 0.5 and found[1].keys() >= {"loss", "nll", "bits_per_byte", "perplexity"}


def test_microbatches_of_unequal_weight_train_as_one_batch_does():
    found, changes = [], {"optim.name": "sgd", "optim.learning_rate": 1.0, "optim.skip.nonfinite": False}
    init = build(changes).compile_init()
    for microbatches in (1, 4):
        made = build(changes | {"optim.microbatches": microbatches})
        state, step = init(), made.lower_step().compile()
        for i in range(2):
            batch = tiny.packed([[24], [3], [1], [10, 9], [2], [24], [1], [1]], seed=i)
            state, metrics = step(state, made.place({name: np.asarray(f) for name, f in batch.items()}, 8))
        sums = {name: (float(s.total), float(s.weight)) for name, s in metrics.items()}
        found.append((jax.device_get(state.params), sums))
    (expected_params, expected), (params, sums) = found
    assert sums == {name: pytest.approx(sum, rel=1e-5) for name, sum in expected.items()}
    jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=2e-4, atol=1e-5), params, expected_params)
