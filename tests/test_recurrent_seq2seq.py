"""Recurrent sequence-to-sequence models: attention by hand, masks, cached steps, and tokens of their own in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from apart import apart
from test_sharding import on_8_devices

from configs import rnn as recipes
from lmjax import models, program
from lmjax.config import update
from lmjax.data import kinds
from lmjax.errors import UserError
from lmjax.sharding import unbox

SMALL = {
    "steps": 10, "batch": 8, "data.kind": "pairs", "data.length": 9, "data.source_length": 7, "data.packing": "none",
    "model.depth": 2, "model.encoder_depth": 1, "model.width": 12, "model.vocab_multiple": 16,
    "optim.schedule.warmup": 2,
}  # fmt: skip
KINDS = {"additive": False, "dot": False, "general": True, "concat": False}  # what is scored, and whether it is fed
VOCAB = 61


def config(changes=None):
    return update(recipes.of_model(recipes.seq2seq()), SMALL | (changes or {}))


def build(changes=None):
    chosen = config(changes)
    return models.build(chosen, vocab=VOCAB, platform="cpu", fields=kinds.fields(chosen.data))


def pairs(sizes, *, source=7, length=9, seed=0):
    """A row for each (tokens of a source, of a target)."""
    draw = np.random.RandomState(seed)
    batch = tiny.packed([(target,) for _, target in sizes], length=length, seed=seed, vocab=VOCAB)
    batch["source"] = jnp.asarray(draw.randint(0, VOCAB, (len(sizes), source)), jnp.int32)
    at = np.arange(source)[None] < np.array(sizes)[:, :1]
    batch["source_segments"] = jnp.asarray(at, jnp.int32)
    batch["source_positions"] = jnp.asarray(at * np.arange(source), jnp.int32)
    return batch


@functools.cache
def made(**changes):
    """A model of these leaves, random parameters, and its logits of the true vocabulary."""
    model = build({f"model.{name}": value for name, value in changes.items()})
    draw = np.random.RandomState(0)
    shapes = unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), pairs([(3, 4)]), train=False))["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * draw.standard_normal(leaf.shape), jnp.float32), shapes)
    return (
        model,
        params,
        jax.jit(lambda params, batch: model.apply({"params": params}, batch, train=False)[..., :VOCAB]),
    )


# --- by hand --------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(p, x, state, more=0.0):
    i, f, g, o = (
        (x @ p["input"][n] + state[0] @ p["recurrent"][n] + p["bias"][n] for n in range(4))
        if not np.any(more)
        else (x @ p["input"][n] + more[n] + state[0] @ p["recurrent"][n] + p["bias"][n] for n in range(4))
    )
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def run(p, xs):
    state, out = (np.zeros(p["bias"].shape[1]),) * 2, []
    for x in xs:
        state = lstm(p, x, state)
        out.append(state[0])
    return out


def by_hand(p, kind, feed, source, tokens):
    """Logits of one pair, from the formulas, a step and a position at a time."""
    e, d = p["embed"], p["decoder"]
    ahead = run(p["encoder"]["layer_0"], e[source])
    back = run(p["encoder"]["layer_0_back"], e[source][::-1])[::-1]
    values = [np.concatenate(both) for both in zip(ahead, back, strict=True)]
    start = [np.tanh(np.concatenate([ahead[-1], back[0]]) @ matrix) for matrix in p["start"]]
    states, out, logits = [tuple(start[:2]), tuple(start[2:])], np.zeros(12), []

    def context(h):
        a = d["alignment"] if kind != "dot" else None
        score = {
            "dot": lambda v: h @ v,
            "general": lambda v: h @ (v @ a["key"]),
            "concat": lambda v: a["score"] @ np.tanh(h @ a["query"] + v @ a["key"]),
        }["concat" if kind == "additive" else kind]
        weights = np.exp([score(v) for v in values])
        return sum(w * v for w, v in zip(weights / weights.sum(), values, strict=True))

    for token in tokens:
        c = context(states[1][0]) if kind == "additive" else None
        more = 0.0
        if kind == "additive" or feed:
            more = [(c if kind == "additive" else out) @ matrix for matrix in d["fed"]]
        first = lstm(d["layer_0"], e[token], states[0], more)
        states = [first, lstm(d["layer_1"], first[0], states[1])]
        c = context(states[1][0]) if c is None else c
        out = np.tanh(c @ d["of_context"] + states[1][0] @ d["of_state"])
        logits.append(e[:VOCAB] @ out)
    return np.stack(logits)


@pytest.mark.parametrize("kind, feed", KINDS.items())
def test_logits_are_those_of_the_formulas(kind, feed):
    _, params, logits = made(attention=kind, feed=feed)
    batch = pairs([(7, 9), (4, 6)])
    found, exact = logits(params, batch), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for row, (s, t) in enumerate([(7, 9), (4, 6)]):
        source, tokens = np.asarray(batch["source"])[row, :s], np.asarray(batch["tokens"])[row, :t]
        np.testing.assert_allclose(found[row, :t], by_hand(exact, kind, feed, source, tokens), atol=2e-5)


# --- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, feed", KINDS.items())
def test_a_target_sees_its_whole_source_no_padding_and_no_later_token(kind, feed):
    _, params, logits = made(attention=kind, feed=feed)
    batch = pairs([(7, 9), (4, 6)])
    before = logits(params, batch)
    for at in (0, 3):
        after = logits(params, batch | {"source": batch["source"].at[1, at].add(1)})
        assert (np.abs(after - before)[1, :6].max(-1) > 1e-4).all()
        np.testing.assert_array_equal(after[0], before[0])
    after = logits(params, batch | {"source": batch["source"].at[1, 4:].add(1)})
    np.testing.assert_array_equal(after[1, :6], before[1, :6])
    after = logits(params, batch | {"tokens": batch["tokens"].at[:, 3].add(1)})
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (np.abs(after - before)[:, 3:6].max(-1) > 1e-4).all()


@pytest.mark.parametrize("kind, feed", apart({**KINDS, "dot": True}.items(), ("additive", False), ("dot", True)))
def test_cached_steps_are_the_full_forward_pass(kind, feed):
    """Targets padded on the left, as a generator has them; then a token at a time without the source."""
    model, params, logits = made(attention=kind, feed=feed)
    lengths, whole = (9, 5, 2), pairs([(7, 9), (4, 5), (2, 2)])
    expected = logits(params, whole)
    shifted = {name: np.zeros((3, 9), np.int32) for name in ("tokens", "segments", "positions")}
    for name, field in shifted.items():
        for row, n in enumerate(lengths):
            field[row, 9 - n :] = np.asarray(whole[name])[row, :n]
    apply = jax.jit(lambda params, batch, cache: model.apply({"params": params}, batch, train=False, cache=cache))
    cache, parts, ready = model.init_cache(3, 9), [], model.for_decoding(params)
    source = {name: whole[name] for name in ("source", "source_segments", "source_positions")}
    for part in (slice(0, 6), *(slice(at, at + 1) for at in range(6, 9))):
        given = {name: field[:, part] for name, field in shifted.items()} | (source if part.start == 0 else {})
        found, cache = apply(ready, given, cache)
        parts.append(found)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}, "rows first, for beams to choose among"
    found = jnp.concatenate(parts, axis=1)[..., :VOCAB]
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(found[row, 9 - n :], expected[row, :n], atol=1e-5)


# --- scheduled sampling ---------------------------------------------------------------------------------------------


def mixed(step, **changes):
    """True tokens, and those that training puts in their place at a step."""
    model, params, _ = made(attention="additive", **changes)
    batch = pairs([(7, 9)] * 40) | {"step": jnp.int32(step)}

    def tokens(module):
        return module.mixed(batch, *module.encode(batch))

    run = jax.jit(lambda: model.apply({"params": params}, rngs={"dropout": jax.random.key(0)}, method=tokens))
    return np.asarray(batch["tokens"]), np.asarray(run())


@pytest.mark.parametrize("schedule, step, share", [("constant", 0, 0.5), ("linear", 0, 0.0), ("linear", 50, 0.25),
                                                   ("exponential", 100, 0.316), ("sigmoid", 460, 0.25)])  # fmt: skip
def test_a_share_of_the_tokens_are_the_models_own_by_a_schedule(schedule, step, share):
    true, found = mixed(step, sampling=0.5, schedule=schedule, schedule_steps=100.0)
    changed = (true != found).mean(0)
    assert changed[0] == 0, "<doc> is true"
    assert abs(changed[1:].mean() - share) < 0.08  # a draw is the true token by chance too


def test_own_tokens_are_draws_from_what_the_model_gives():
    """All of them the model's own, of logits so far apart that a draw is the likeliest: what greedy decoding writes."""
    model, params, logits = made(attention="additive", sampling=1.0)
    sharp = params | {"embed": 1000 * params["embed"]}
    batch = pairs([(7, 9), (4, 9)])

    def tokens(module):
        return module.mixed(batch, *module.encode(batch))

    rngs = {"dropout": jax.random.key(0)}
    found = jax.jit(lambda: model.apply({"params": sharp}, rngs=rngs, method=tokens))()
    guesses = logits(sharp, batch | {"tokens": found}).argmax(-1)
    np.testing.assert_array_equal(found[:, 1:], guesses[:, :-1])
    trained = jax.jit(lambda: model.apply({"params": sharp}, batch, train=True, rngs=rngs))()
    np.testing.assert_allclose(trained[..., :VOCAB], logits(sharp, batch | {"tokens": found}), rtol=1e-5, atol=1e-4)


# --- meshes, and what is refused ------------------------------------------------------------------------------------


def one_step():
    """The parameters after a step, and its loss, on one device and on eight."""
    found = []
    for mesh in ({"data": 1}, {"data": 1, "fsdp": 4, "tensor": 2}):
        changes = {f"layout.mesh.{axis}": size for axis, size in mesh.items()} | {"optim.eps": 1e-3}
        chosen = config(
            changes | {"model.depth": 1, "model.width": 16, "model.attention": "additive", "model.cell": "elman"}
        )
        built = program.build(chosen, vocab=VOCAB, devices=jax.devices()[: 8 if len(mesh) > 1 else 1])
        state, step = built.compile_init()(), built.lower_step().compile()
        local = {name: np.asarray(field) for name, field in pairs([(7, 9), (4, 6)] * 4).items()}
        state, metrics = step(state, built.place(local, 8))
        found.append((jax.device_get(state.params), metrics["loss"].mean()))
    return found


@pytest.mark.slow
def test_a_mesh_trains_as_one_device_does(tmp_path):
    one, eight = on_8_devices(tmp_path, "one_step()", "test_recurrent_seq2seq")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), eight, one)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.attention": "aditive"}, "model.attention 'aditive'; did you mean 'additive'"),
        ({"model.schedule": "square"}, "model.schedule 'square'"),
        ({"model.attention": "additive", "model.feed": True}, "model.feed is for dot, general and concat"),
        ({"model.width": 13}, "model.width=13: two directions share it"),
        ({"model.sampling": 1.5}, "model.sampling=1.5: a share, from 0 to 1"),
        ({"data.source_length": None}, "model.kind=rnn_seq2seq is not for it"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build(changes)
    model, params, _ = made(attention="dot")
    with pytest.raises(UserError, match="writes what belongs to a source, and there is none"):
        model.apply({"params": params}, tiny.packed([[4]]), train=False, cache=model.init_cache(1))
