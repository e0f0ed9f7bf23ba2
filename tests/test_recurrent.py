"""Recurrent layers and language models: PyTorch's numbers, documents apart, truncated gradients, cached steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_sharding import on_8_devices

from configs import rnn as recipes
from lmjax import models, program
from lmjax.config import update
from lmjax.data.tokenizers import Bytes
from lmjax.decode import Generator
from lmjax.errors import UserError
from lmjax.layers.cells import CELLS, from_torch
from lmjax.layers.recurrent import Stack, flow, recur
from lmjax.sharding import unbox

SMALL = {
    "steps": 10, "batch": 8, "data.length": tiny.LENGTH, "model.depth": 2, "model.width": 16,
    "model.vocab_multiple": 16, "optim.schedule.warmup": 2,
}  # fmt: skip


def config(changes=None):
    return update(recipes.of_model(recipes.rnn()), SMALL | (changes or {}))


@functools.cache
def made(**changes):
    """A model of these leaves, `random` parameters for it, and its logits of the true vocabulary."""
    model = models.build(config({f"model.{name}": value for name, value in changes.items()}), vocab=61, platform="cpu")
    params = random(lambda: model.init(jax.random.key(0), tiny.packed([[4]]), train=False))
    return model, params, jax.jit(lambda params, batch: model.apply({"params": params}, batch, train=False)[..., :61])


def random(init):
    draw = np.random.RandomState(0)
    shapes = unbox(jax.eval_shape(init)["params"])
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), jnp.float32), shapes)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_those_of_pytorch(cell):
    """In both directions, by the weights of torch.nn.RNN, LSTM and GRU."""
    torch = pytest.importorskip("torch", reason="the reference")
    torch.manual_seed(0)
    kind = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    depth = {"elman": 1, "lstm": 2, "gru": 1}[cell]
    theirs, ours = kind(5, 4, depth, batch_first=True, bidirectional=True), Stack(cell, depth, 8, both=True)
    draw = np.random.RandomState(0)
    x_btd, pull_btd = draw.randn(3, 7, 5).astype("f"), draw.randn(3, 7, 8).astype("f")
    params = from_torch(theirs.state_dict(), cell)

    def total(params, x_btd):
        y_btd, _ = ours.apply({"params": params}, x_btd, jnp.ones((3, 7), jnp.int32), train=False)
        return jnp.sum(y_btd * pull_btd), y_btd

    (_, y_btd), (dparams, dx_btd) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x_btd)
    x = torch.tensor(x_btd, requires_grad=True)
    y, _ = theirs(x)
    (y * torch.tensor(pull_btd)).sum().backward()
    np.testing.assert_allclose(y_btd, y.detach(), atol=1e-5)
    np.testing.assert_allclose(dx_btd, x.grad, atol=1e-5)
    # The two biases of a gate have the same gradient: from_torch sums them, so one of them counts as 0.
    twice = {"bias_hh": 0.0}
    gradients = {name: p.grad * twice.get(name.rpartition("_l")[0], 1.0) for name, p in theirs.named_parameters()}
    expected = from_torch(gradients, cell)
    for name, layer in expected.items():
        if cell == "gru":
            inner = "bias_hh_" + name.removeprefix("layer_").replace("_back", "_reverse").join(["l", ""])
            layer["recurrent_bias"] = theirs.get_parameter(inner).grad.reshape(3, -1)[2]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), dparams, expected)


def by_hand(kind, reverse, x, weight_qdf, bias_f, start, segments_bt, truncate):
    """One time after the other, with the automatic gradient."""
    cell, states, outputs = CELLS[kind], start, {}
    times = range(len(x[0]))
    before_b = None
    for t in reversed(times) if reverse else times:
        if before_b is not None:
            same_b = (segments_bt[:, t] == before_b)[:, None]
            states = tuple(jnp.where(same_b, s, 0.0) for s in states)
        if truncate and t % truncate == 0:
            states = jax.tree.map(jax.lax.stop_gradient, states)
        r = [states[0] @ weight_df for weight_df in weight_qdf]
        if bias_f is not None:
            r[2] += bias_f
        states, _ = cell.step([x_tbf[t] for x_tbf in x], r, states)
        outputs[t], before_b = states[0], segments_bt[:, t]
    return jnp.stack([outputs[t] for t in times]), states


@pytest.mark.parametrize("kind, reverse, truncate", [("elman", False, 2), ("lstm", False, 3), ("gru", True, None)])
def test_the_written_gradient_is_the_automatic_one(kind, reverse, truncate):
    """Of inputs, weights, bias and start, with documents that end anywhere, padding, and gradients that are cut."""
    draw, (t, b, f) = np.random.RandomState(1), (7, 3, 5)
    segments_bt = jnp.array([[1] * 7, [1, 1, 2, 2, 3, 0, 0], [0, 0, 1, 1, 1, 2, 2]])
    gates = CELLS[kind].gates
    x, weight = draw.randn(gates, t, b, f), 0.5 * draw.randn(gates, f, f)
    bias = jnp.asarray(draw.randn(f), jnp.float32) if kind == "gru" else None
    start = tuple(jnp.asarray(draw.randn(b, f), jnp.float32) for _ in range(CELLS[kind].states))
    given = (tuple(jnp.asarray(x, jnp.float32)), jnp.asarray(weight, jnp.float32), bias, start)
    pull_tbf = draw.randn(t, b, f).astype("f")

    def total(run, *given):
        y_tbf, last = run(*given)
        return jnp.sum(y_tbf * pull_tbf) + sum(jnp.sum(s * (i + 1.5)) for i, s in enumerate(last))

    def quick(*given):
        return recur(kind, reverse, *given, flow(segments_bt, truncate=truncate, reverse=reverse))

    def slow(*given):
        return by_hand(kind, reverse, *given, segments_bt, truncate)

    found, expected = (
        jax.jit(jax.value_and_grad(functools.partial(total, run), (0, 1, 2, 3)))(*given) for run in (quick, slow)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


# --- language models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_a_token_is_felt_later_in_its_document_and_nowhere_else(cell):
    _, params, logits = made(cell=cell)
    batch = tiny.packed([[9, 10], [24]])
    before = logits(params, batch)
    after = logits(params, batch | {"tokens": batch["tokens"].at[0, 4].add(1)})
    changed = np.abs(after - before).max(-1) > 1e-6
    expected = np.zeros_like(changed)
    expected[0, 4:9] = True
    np.testing.assert_array_equal(changed, expected)
    alone = {name: field[:1, 9:] for name, field in batch.items()}
    np.testing.assert_allclose(before[:1, 9:19], logits(params, alone)[:, :10], atol=1e-5)


def test_truncation_cuts_gradients_and_nothing_else():
    _, params, logits = made()
    model, _, cut = made(truncate=8)
    batch = tiny.packed([[24]])
    np.testing.assert_array_equal(cut(params, batch), logits(params, batch))

    def of_last(embed_vd):
        tokens = jnp.arange(24)[None]  # every position has a row of the table to itself
        inputs = {"params": params | {"embed": embed_vd}}
        x_btd, _ = model.apply(inputs, batch | {"tokens": tokens}, train=True, method="features")
        return jnp.sum(x_btd[0, 21] ** 2)

    gradient_v = np.abs(jax.jit(jax.grad(of_last))(params["embed"])).max(-1)
    assert (gradient_v[16:22] > 0).all() and (gradient_v[:16] == 0).all() and (gradient_v[22:] == 0).all()


def test_cached_steps_are_the_full_forward_pass():
    """Ragged prompts, padded on the left, then a token at a time."""
    model, params, logits = made(cell="gru")
    lengths, whole = (11, 6, 3), tiny.packed([(11,), (6,), (3,)])
    expected = logits(params, whole)
    shifted = {name: np.zeros((3, 11), np.int32) for name in ("tokens", "segments", "positions")}
    for name, field in shifted.items():
        for row, n in enumerate(lengths):
            field[row, 11 - n :] = np.asarray(whole[name])[row, :n]
    cache, parts = model.init_cache(3, 11), []
    run = jax.jit(
        lambda cache, batch: model.apply({"params": model.for_decoding(params)}, batch, train=False, cache=cache)
    )
    for part in (slice(0, 8), *(slice(at, at + 1) for at in range(8, 11))):
        found, cache = run(cache, {name: field[:, part] for name, field in shifted.items()})
        parts.append(found)
    found = jnp.concatenate(parts, axis=1)[..., :61]
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(found[row, 11 - n :], expected[row, :n], atol=1e-5)


def test_the_generator_writes_the_likeliest_tokens():
    tokenizer = Bytes()
    model = models.build(config({"model.depth": 1}), vocab=tokenizer.vocab_size, platform="cpu")
    params = random(lambda: model.init(jax.random.key(0), tiny.packed([[4]]), train=False))
    generator = Generator(model.apply, model.init_cache, params, tokenizer, chunk=4, prepare=model.for_decoding)
    prompts, run = ["ab", "so it was"], jax.jit(lambda batch: model.apply({"params": params}, batch, train=False))
    for prompt, sample in zip(prompts, generator.generate(prompts, new=6), strict=True):
        ids = [tokenizer.doc, *tokenizer.encode(prompt)]
        whole = tiny.packed([(len(ids) + 6,)])
        whole["tokens"] = whole["tokens"].at[0, : len(ids) + 6].set(jnp.array([*ids, *sample.tokens]))
        guesses = run(whole).argmax(-1)[0]
        assert sample.tokens == guesses[len(ids) - 1 : len(ids) + 5].tolist()


def test_dropout_is_of_training_alone_and_differs_by_its_key():
    model, params, logits = made(dropout=0.5)
    _, _, plain = made()
    batch = tiny.packed([[24]])
    np.testing.assert_array_equal(logits(params, batch), plain(params, batch))
    train = jax.jit(lambda key: model.apply({"params": params}, batch, train=True, rngs={"dropout": key}))
    one, same, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_half_precision_keeps_its_states_whole():
    """bfloat16 logits stray from those of float32 by no more than the rounding of the weights and of what is stored."""
    _, params, logits = made()
    half = models.build(config({"precision.compute": "bfloat16"}), vocab=61, platform="cpu")
    batch = tiny.packed([[24]])
    cached = jax.jit(lambda: half.apply({"params": params}, batch, train=False, cache=half.init_cache(1)))
    found, states = cached()
    found = found[..., :61]
    assert found.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(states["layers"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found, logits(params, batch), atol=0.03)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.cell": "lstn"}, "model.cell 'lstn'; did you mean 'lstm'"),
        ({"model.truncate": 0}, "model.truncate=0: tokens that gradients go back, at least 1, or none"),
        ({"model.width": 0}, "model.width=0: it must be positive"),
        ({"model.dropout": 1.0}, "model.dropout=1.0: from 0 to below 1"),
        ({"objective.kind": "classification"}, "objective.kind=classification is not for it"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        models.build(config(changes), vocab=61, platform="cpu")


# --- meshes ---------------------------------------------------------------------------------------------------------


def two_steps():
    """First parameters, those after two steps, and the losses, on one device and on eight."""
    found = []
    for mesh in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        changes = {f"layout.mesh.{axis}": size for axis, size in mesh.items()}
        chosen = config(changes | {"model.cell": "gru", "model.depth": 1, "optim.eps": 1e-3, "model.dropout": 0.1})
        built = program.build(chosen, vocab=61, devices=jax.devices()[: 1 if mesh == {"data": 1} else 8])
        state, step, losses = built.compile_init()(), built.lower_step().compile(), []
        start = jax.device_get(state.params)
        for seed in range(2):
            local = {name: np.asarray(field) for name, field in tiny.packed([(24,), (9, 8)] * 4, seed=seed).items()}
            state, metrics = step(state, built.place(local, 8))
            losses.append(metrics["loss"].mean())
        found.append((start, jax.device_get(state.params), losses))
    return found


@pytest.mark.slow
def test_every_layout_trains_as_one_device_does(tmp_path):
    (start, one, losses), *others = on_8_devices(tmp_path, "two_steps()", "test_recurrent")
    for first, many, theirs in others:
        jax.tree.map(np.testing.assert_array_equal, first, start)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), many, one)
        np.testing.assert_allclose(theirs, losses, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, start)
    assert min(jax.tree.leaves(moved)) > 1e-5, "every parameter was trained"
