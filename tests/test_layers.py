"""Norms, attention and MLPs are what their papers say, forward and backward, in float32 and bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lmjax.layers import blocked as module
from lmjax.layers.attention import Keep, cached, dense, empty_cache, write_cache
from lmjax.layers.blocked import blocked
from lmjax.layers.linear import project
from lmjax.layers.mlp import ACTIVATIONS, MLPS, Mlp, default_width
from lmjax.layers.norms import LayerNorm, RMSNorm, layer_norm, rms_norm
from lmjax.layers.readout import Readout
from lmjax.sharding import dims_of, unbox

HALF = 2.0**-8  # of a unit in the last place of bfloat16: the error of rounding once


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), dtype)


def plain_rms(x, scale, eps=1e-6):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * scale


def plain_layer(x, scale, bias, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


def gradients(function, cotangent, *arguments):
    return jax.jit(lambda cotangent, *arguments: jax.vjp(function, *arguments)[1](cotangent))(cotangent, *arguments)


NORMS = {
    "rms": (rms_norm, plain_rms, reference.rms_norm, 1),
    "layer": (layer_norm, plain_layer, reference.layer_norm, 2),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype, error", [(jnp.float32, 2e-6), (jnp.bfloat16, HALF)])
def test_norms_equal_the_papers_formula(name, dtype, error):
    ours, _, formula, weights = NORMS[name]
    x = (3 * normal(0, 4, 7, 48) + 2).astype(dtype)
    vectors = [normal(i, 48) for i in range(1, weights + 1)]
    out = jax.jit(ours)(x, *vectors)
    assert out.dtype == dtype
    expected = formula(np.float64(x), *map(np.float64, vectors))
    np.testing.assert_allclose(np.float64(out), expected, rtol=error, atol=error / 10)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype, error", [(jnp.float32, 5e-6), (jnp.bfloat16, HALF)])
def test_the_written_out_gradients_of_norms_equal_automatic_ones(name, dtype, error):
    """In bfloat16 the input's gradient is rounded once, at the end; the scale's is float32 and as exact as ever."""
    ours, formula, _, weights = NORMS[name]
    x, dy = (2 * normal(0, 3, 5, 32) + 1).astype(dtype), normal(9, 3, 5, 32, dtype=dtype)
    vectors = [normal(i, 32) for i in range(1, weights + 1)]
    dx, *dvectors = gradients(ours, dy, x, *vectors)
    expected_dx, *expected = gradients(formula, dy.astype(jnp.float32), x.astype(jnp.float32), *vectors)
    assert dx.dtype == dtype and {d.dtype for d in dvectors} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.float32(dx), expected_dx, rtol=error, atol=max(error / 10, 2e-6))
    for d, e in zip(dvectors, expected, strict=True):
        np.testing.assert_allclose(d, e, rtol=1e-5, atol=1e-5)


def test_eps_bounds_the_gradient_where_the_input_vanishes():
    for norm, *vectors in ((rms_norm, jnp.ones(8)), (layer_norm, jnp.ones(8), jnp.zeros(8))):
        dx = gradients(norm, normal(0, 8), jnp.zeros(8), *vectors)[0]
        assert jnp.isfinite(dx).all() and jnp.abs(dx).max() > 100


def test_layer_norm_keeps_its_precision_far_from_zero():
    x = 1000 + normal(0, 4, 64)
    np.testing.assert_allclose(
        layer_norm(x, jnp.ones(64), jnp.zeros(64)), reference.layer_norm(np.float64(x), 1.0), atol=2e-4
    )


def test_norm_modules_have_the_parameters_they_say():
    x = normal(0, 2, 8)
    dims = lambda norm: dims_of(jax.eval_shape(norm.init, jax.random.key(0), x)["params"])  # noqa: E731
    assert dims(RMSNorm()) == {"scale": "d"} == dims(LayerNorm(bias=False))
    assert dims(LayerNorm(dim="k")) == {"scale": "k", "bias": "k"}
    np.testing.assert_allclose(LayerNorm().apply({"params": {"scale": jnp.ones(8), "bias": jnp.ones(8)}}, x),
                               1 + reference.layer_norm(np.float64(x), 1.0), atol=1e-5)  # fmt: skip


LONG = 150  # three blocks of queries
assert 2 * module.QUERY_BLOCK < LONG < 3 * module.QUERY_BLOCK


def documents(*lengths, left=0):
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.concatenate([np.zeros(left, np.int32), ids, np.zeros(LONG - left - len(ids), np.int32)]).astype(np.int32)


def heads(kv_heads, dtype=jnp.float32):
    q, k, v = (normal(i, 2, LONG, n, 8, dtype=dtype) for i, n in enumerate((4, kv_heads, kv_heads)))
    return q, k, v, np.stack([documents(40, 1, 70, 20), documents(100, 30, left=10)])


def attend(function, q, k, v, segments, *, window=None, **options):
    keep = Keep(jnp.asarray(segments), jnp.asarray(segments), 0, window)
    scale = q.shape[-1] ** -0.5
    return jax.jit(lambda q, k, v: function(q * jnp.asarray(scale, q.dtype), k, v, keep, **options))(q, k, v)


@pytest.mark.parametrize("function", [dense, blocked])
@pytest.mark.parametrize(
    "kv_heads, window, softcap, slopes",
    [(4, None, None, None), (2, None, 1.5, None), (1, 30, None, None), (2, 1, None, None), (2, 70, 1.0, 0.1)],
    ids=["multi-head", "grouped+softcap", "multi-query+window", "window of one", "everything"],
)
def test_attention_equals_a_loop_over_queries(function, kv_heads, window, softcap, slopes):
    q, k, v, segments = heads(kv_heads)
    bias = None if slopes is None else lambda head, distance: -slopes * (head + 1) * distance
    distance_ts = np.arange(LONG)[:, None] - np.arange(LONG)
    bias_hts = None if bias is None else jnp.asarray(np.stack([bias(h, distance_ts) for h in range(4)]), jnp.float32)
    out = attend(function, q, k, v, segments, window=window, softcap=softcap, bias_hts=bias_hts)
    expected = reference.attention(*map(np.float64, (q, k, v)), segments, window=window, softcap=softcap, bias=bias)
    assert jnp.isfinite(out).all()
    real = segments > 0
    np.testing.assert_allclose(out[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "kv_heads, window, softcap", [(2, None, 2.0), (4, None, None), (2, 30, None), (1, 70, None), (2, 1, None)]
)
def test_blocked_attention_has_the_gradients_of_dense_attention(kv_heads, window, softcap):
    q, k, v, segments = heads(kv_heads)
    cotangent = normal(5, *q.shape) * (segments > 0)[:, :, None, None]

    def run(function):
        mixed = partial(attend, function, segments=segments, window=window, softcap=softcap)
        return gradients(mixed, cotangent, q, k, v)

    ours, expected = run(blocked), run(dense)
    for o, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spec, shape",
    [("btd,df->btf", (6, 4)), ("btd,dhk->bthk", (6, 2, 3)), ("bthk,hkd->btd", (2, 3, 5)), ("btd,vd->btv", (7, 6))],
)
def test_a_projection_is_its_einsum_forward_and_backward(spec, shape):
    x, weight = normal(0, 2, 5, *(shape[:2] if spec.startswith("bthk") else (6,))), normal(1, *shape)
    cotangent = normal(2, *jnp.einsum(spec, x, weight).shape)
    ours = gradients(partial(project, spec), cotangent, x, weight)
    expected = gradients(partial(jnp.einsum, spec), cotangent, x, weight)
    for o, e in zip([project(spec, x, weight), *ours], [jnp.einsum(spec, x, weight), *expected], strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-5, atol=1e-5)


def test_bfloat16_logits_are_not_rounded_before_their_softmax():
    x, table = normal(0, 1, 3, 64, dtype=jnp.bfloat16), normal(1, 9, 64, dtype=jnp.bfloat16)
    exact = jnp.einsum("btd,vd->btv", x.astype(jnp.float32), table.astype(jnp.float32))
    np.testing.assert_allclose(Readout(table, 9).logits(x), exact, rtol=1e-5, atol=1e-5)
    assert jnp.abs(exact - exact.astype(jnp.bfloat16)).max() > 1e-3  # else this could not fail


def test_softmax_of_bfloat16_attention_is_float32():
    """Averaging 150 equal values in bfloat16 would be off by per cent; the weights are rounded once."""
    q, k, v, _ = heads(4, jnp.bfloat16)
    segments = np.ones((2, LONG), np.int32)
    out = attend(dense, q, k, v, segments)
    expected = reference.attention(*map(np.float64, (q, k, v)), segments)
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.float64(out) - expected).max() < 0.03
    ones = attend(dense, q, k, jnp.ones_like(v), segments)
    np.testing.assert_allclose(np.float32(ones), 1.0, atol=HALF)


def test_blocked_attention_is_for_whole_sequences():
    q, k, v, segments = heads(4)
    keep = Keep(jnp.asarray(segments)[:, :3], jnp.asarray(segments))
    with pytest.raises(ValueError, match="attention=blocked: it is for whole sequences, .*; use dense or chunked"):
        blocked(q[:, :3], k, v, keep)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_last_queries_over_a_cache_get_what_they_get_in_the_whole_sequence(rows):
    """The keys and values written in two parts; ALiBi-like biases, a window and a soft cap."""
    q, k, v, segments = heads(2)
    q, k, v, segments = q[:rows], k[:rows], v[:rows], jnp.asarray(segments[:rows])
    distance_ts = jnp.arange(LONG)[:, None] - jnp.arange(LONG)
    bias_hts = -0.1 * jnp.arange(1, 5)[:, None, None] * distance_ts
    whole = attend(dense, q, k, v, segments, window=50, softcap=2.0, bias_hts=bias_hts)

    @jax.jit
    def run(q, k, v, offset):
        caches = []
        for x in (k, v):
            cache = empty_cache(rows, LONG, 2, 8, jnp.float32)
            caches.append(write_cache(write_cache(cache, x[:, :120], 0), x[:, 120:], offset))
        keep = Keep(segments[:, 120:], segments, offset, 50)
        return cached(q[:, 120:] / 8**0.5, *caches, keep, bias_hts=bias_hts[:, 120:], softcap=2.0)

    part, real = run(q, k, v, 120), segments[:, 120:] > 0
    np.testing.assert_allclose(part[real], whole[:, 120:][real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", MLPS)
def test_mlps_equal_the_papers_formula(kind, bias):
    fan = lambda fan_in: jax.nn.initializers.normal(fan_in**-0.5)  # noqa: E731
    x = 2 * normal(0, 2, 5, 16)
    layer = Mlp(kind, 24, fan, fan, bias)
    shapes = unbox(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])
    assert any("bias" in name for name in shapes) == bias
    params = {name: 0.3 * normal(i, *leaf.shape) for i, (name, leaf) in enumerate(sorted(shapes.items()))}
    expected = reference.mlp(kind, {k: np.float64(v) for k, v in params.items()}, np.float64(x))
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, x), expected, rtol=1e-5, atol=2e-5)


def test_the_written_gradient_of_gelu_is_the_slope_of_the_formula():
    x, step = np.linspace(-12, 12, 4001), 1e-5
    gelu = lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))  # noqa: E731
    written = jax.jit(jax.vmap(jax.grad(ACTIVATIONS["gelu_tanh"])))(jnp.float32(x))
    np.testing.assert_allclose(written, (gelu(x + step) - gelu(x - step)) / (2 * step), rtol=0, atol=2e-6)


def test_default_widths_give_gated_and_plain_mlps_about_the_same_parameters():
    assert default_width("gelu", 192) == 768
    assert default_width("swiglu", 192) == 512 and default_width("swiglu", 200) == 544  # 533.3 up to a multiple of 32
    for width in (256, 768, 4096):
        assert 1 <= 3 * default_width("swiglu", width) / (2 * default_width("gelu", width)) < 1.05
