"""Losses over a padded vocabulary, whole or in chunks: the same numbers and gradients, and no trace of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.layers.readout import PADDED, Readout, chunked_losses, token_losses
from lmjax.objectives.next_token import next_token

VOCAB, PADDED_VOCAB, ROWS, LENGTH, WIDTH = 21, 32, 3, 12, 8


def random(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def inputs():
    weights = np.random.RandomState(3).uniform(0.2, 2, (ROWS, LENGTH)).astype(np.float32)
    weights[0, 5:] = 0
    weights[2, :4] = 0
    targets = np.random.RandomState(4).randint(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    return random(ROWS, LENGTH, WIDTH), random(PADDED_VOCAB, WIDTH, seed=1), jnp.asarray(targets), jnp.asarray(weights)


def by_hand(logits_v, target, smoothing=0.0, z_loss=0.0):
    """One token in float64: cross-entropy with the smoothed distribution, written out (Szegedy et al. 2016, eq. 7)."""
    logits_v = np.float64(logits_v)
    log_z = np.log(np.sum(np.exp(logits_v)))
    wanted = np.full(len(logits_v), smoothing / len(logits_v))
    wanted[target] = 1 - smoothing + smoothing / len(logits_v)
    assert np.isclose(wanted.sum(), 1)
    return wanted @ (log_z - logits_v) + z_loss * log_z**2, log_z - logits_v[target]


@pytest.mark.parametrize("smoothing, z_loss", [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.3, 1e-2)])
def test_token_losses_equal_the_formula(smoothing, z_loss):
    logits_btv = jnp.where(jnp.arange(PADDED_VOCAB) < VOCAB, 3 * random(2, 4, PADDED_VOCAB), PADDED)
    targets_bt = jnp.array([[0, 20, 7, 7], [1, 2, 3, 4]])
    options = {"label_smoothing": smoothing, "z_loss": z_loss}
    loss_bt, nll_bt = jax.jit(lambda x: token_losses(x, targets_bt, **options))(logits_btv)
    for at in np.ndindex(2, 4):
        loss, nll = by_hand(logits_btv[at][:VOCAB], int(targets_bt[at]), smoothing, z_loss)
        np.testing.assert_allclose((loss_bt[at], nll_bt[at]), (loss, nll), rtol=2e-6)


def test_logits_in_bfloat16_are_summed_in_float32():
    """In bfloat16 a sum of thousands stops growing: log(Z) of these would be 2 too small."""
    x_btd, table_vd = random(1, 2, WIDTH).astype(jnp.bfloat16), random(4096, WIDTH, seed=1)
    targets_bt, readout = jnp.array([[7, 4000]]), Readout(table_vd, 4090)
    logits_btv = readout.logits(x_btd, rounded=True)
    assert logits_btv.dtype == jnp.bfloat16 and readout.logits(x_btd).dtype == jnp.float32
    np.testing.assert_allclose(logits_btv[..., :4090], readout.logits(x_btd)[..., :4090], rtol=2**-7)
    losses = token_losses(logits_btv, targets_bt, label_smoothing=0.1, z_loss=1e-2)
    for at in np.ndindex(1, 2):
        expected = by_hand(logits_btv[at][:4090], int(targets_bt[at]), 0.1, 1e-2)
        np.testing.assert_allclose([one[at] for one in losses], expected, rtol=2e-6)
    gradient = jax.grad(lambda logits_btv: token_losses(logits_btv, targets_bt)[0].sum())(logits_btv)
    assert gradient.dtype == jnp.bfloat16, "the other large array of a step"


def test_label_smoothing_gives_the_true_class_1_minus_e_plus_e_over_v():
    """The gradient of the loss by the logits is probabilities minus the wanted distribution: read it off."""
    e, logits_v = 0.1, random(VOCAB)
    loss = lambda x: token_losses(x[None, None], jnp.array([[7]]), label_smoothing=e)[0].sum()  # noqa: E731
    wanted = jax.nn.softmax(logits_v) - jax.jit(jax.grad(loss))(logits_v)
    np.testing.assert_allclose(wanted[7], 1 - e + e / VOCAB, atol=1e-6)
    np.testing.assert_allclose(np.delete(wanted, 7), e / VOCAB, atol=1e-6)


def test_losses_equal_those_of_pytorch():
    torch = pytest.importorskip("torch")
    logits_btv, targets_bt = 3 * random(2, 5, VOCAB), jnp.asarray(np.arange(10).reshape(2, 5))
    loss_bt, nll_bt = token_losses(logits_btv, targets_bt, label_smoothing=0.2)
    theirs = lambda e: torch.nn.functional.cross_entropy(  # noqa: E731
        torch.tensor(np.array(logits_btv)).flatten(0, 1), torch.tensor(np.array(targets_bt)).flatten().long(),
        label_smoothing=e, reduction="none")  # fmt: skip
    np.testing.assert_allclose(loss_bt.ravel(), theirs(0.2), rtol=1e-5)
    np.testing.assert_allclose(nll_bt.ravel(), theirs(0.0), rtol=1e-5)


def whole(x, table, targets, weights, softcap=None, **options):
    loss, nll = token_losses(Readout(table, VOCAB, softcap).logits(x), targets, **options)
    return jnp.sum(loss * weights), jnp.sum(nll * weights)


def in_chunks(x, table, targets, weights, softcap=None, *, chunk, **options):
    return chunked_losses(x, Readout(table, VOCAB, softcap), targets, weights, chunk=chunk, **options)


def value_and_gradients(function, **options):
    x, table, targets, weights = inputs()
    loss = lambda x, table: function(x, table, targets, weights, **options)  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, table)


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2}, {"label_smoothing": 0.2, "z_loss": 1e-3, "softcap": 1.5}],
    ids=["plain", "label smoothing", "z-loss", "with a soft cap"],
)
@pytest.mark.parametrize("chunk", [4, 5, 100])  # 5 does not divide 12: the next size below that does is taken
def test_chunked_losses_and_gradients_equal_whole_ones(chunk, options):
    (loss, nll), gradients = value_and_gradients(in_chunks, chunk=chunk, **options)
    (expected_loss, expected_nll), expected = value_and_gradients(whole, **options)
    np.testing.assert_allclose((loss, nll), (expected_loss, expected_nll), rtol=1e-6)
    for g, e in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)
    weights = inputs()[-1]
    assert (gradients[0][weights == 0] == 0).all() and (gradients[0][weights > 0] != 0).any()


def test_chunked_losses_without_a_gradient_are_the_same():
    run = jax.jit(lambda *arrays: in_chunks(*arrays, chunk=3, z_loss=1e-3))
    np.testing.assert_allclose(run(*inputs()), whole(*inputs(), z_loss=1e-3), rtol=1e-6)


def test_the_gradient_scales_with_what_follows_the_sum():
    """A mean, a microbatch or a loss scale multiplies the sum afterwards."""
    x, table, targets, weights = inputs()
    mean = lambda function: jax.jit(jax.grad(lambda x: function(x) / 7.0))(x)  # noqa: E731
    chunked = mean(lambda x: in_chunks(x, table, targets, weights, chunk=4)[0])
    np.testing.assert_allclose(chunked, mean(lambda x: whole(x, table, targets, weights)[0]), rtol=1e-4, atol=1e-6)


def test_chunks_never_hold_all_logits():
    """The memory of the gradient's program is that of a chunk's logits and of the features, not tokens x vocabulary."""
    vocab, length = 512, 64

    def temporary(function, length=length, **options):
        x, table = jnp.zeros((2, length, WIDTH)), jnp.zeros((vocab, WIDTH))
        targets, weights = jnp.zeros((2, length), jnp.int32), jnp.ones((2, length))
        loss = lambda x, table: function(x, Readout(table, vocab), targets, weights, **options)[0]  # noqa: E731
        memory = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, table).compile().memory_analysis()
        return memory.temp_size_in_bytes

    full = lambda x, readout, targets, weights: (jnp.sum(token_losses(readout.logits(x), targets)[0] * weights),)  # noqa: E731
    short, long = (temporary(chunked_losses, size, chunk=8) for size in (length, 8 * length))
    assert temporary(full) >= 4 * 2 * length * vocab > 2 * short
    assert long - short < 4 * 2 * 7 * length * vocab / 20, "it grows with tokens x vocabulary"


def test_bfloat16_features_give_float32_sums_near_the_exact_ones():
    x, table, targets, weights = inputs()
    assert Readout(table, VOCAB).logits(x.astype(jnp.bfloat16)).dtype == jnp.float32
    rounded = [array.astype(jnp.bfloat16).astype(jnp.float32) for array in (x, table)]
    exact = whole(*rounded, targets, weights)
    for function, options in ((whole, {}), (in_chunks, {"chunk": 4})):
        sums = jax.jit(lambda x, f=function, o=options: f(x, table, targets, weights, **o))(x.astype(jnp.bfloat16))
        assert {s.dtype for s in sums} == {jnp.dtype("float32")}
        np.testing.assert_allclose(sums, exact, rtol=5e-3)


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_padded_ids_are_masked_and_the_soft_cap_bounds_the_rest(softcap):
    x, table = 5 * random(2, 3, WIDTH), random(PADDED_VOCAB, WIDTH, seed=1)
    logits = Readout(table, VOCAB, softcap).logits(x)
    raw = jnp.einsum("btd,vd->btv", x, table[:VOCAB])
    expected = raw if softcap is None else softcap * np.tanh(np.float64(raw) / softcap)
    np.testing.assert_allclose(logits[..., :VOCAB], expected, rtol=1e-4, atol=1e-5)
    assert (logits[..., VOCAB:] == PADDED).all()
    assert (jax.nn.softmax(logits)[..., VOCAB:] == 0).all()
    if softcap is not None:
        assert jnp.abs(logits[..., :VOCAB]).max() <= softcap < jnp.abs(raw).max()


OBJECTIVE = {"label_smoothing": 0.1, "z_loss": 1e-3}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [0, 6])
def test_vocabulary_padding_changes_neither_the_loss_nor_the_gradient_of_real_entries(tied, chunk):
    batch = tiny.packed([[24], [9, 8]])
    padded, exact = (tiny.model({"model.tied": tied, "model.vocab_multiple": n, "model.depth": 1}) for n in (16, 1))
    assert (padded.padded_vocab(), exact.padded_vocab()) == (64, 61)
    params = tiny.parameters(padded)
    tables = ("embed",) if tied else ("embed", "head")
    cut = params | {name: params[name][: tiny.VOCAB] for name in tables}

    def value_and_gradient(model, params):
        def total(params):
            key = jax.random.key(0)
            return next_token(model.apply, params, batch, key, train=True, chunk=chunk, **OBJECTIVE)["loss"].total

        return jax.jit(jax.value_and_grad(total))(params)

    loss, gradient = value_and_gradient(padded, params)
    expected_loss, expected = value_and_gradient(exact, cut)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for name in tables:
        assert (gradient[name][tiny.VOCAB :] == 0).all()
        gradient[name] = gradient[name][: tiny.VOCAB]
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-4), gradient, expected)
