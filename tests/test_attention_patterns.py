"""Who sees whom: in both directions, with a prefix, and over a source with segments of its own, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apart import apart

from lmjax.errors import UserError
from lmjax.layers import blocked as blocked_module
from lmjax.layers import chunked as chunked_module
from lmjax.layers.attention import Keep, cached, dense, empty_cache, write_cache
from lmjax.layers.backends import choose
from lmjax.layers.blocked import blocked
from lmjax.layers.chunked import chunked
from lmjax.layers.splash import splash

T, S, HEADS, KV_HEADS, HEAD = 40, 56, 4, 2, 8


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(blocked_module, "QUERY_BLOCK", 16)
    monkeypatch.setattr(chunked_module, "QUERIES", 16)
    monkeypatch.setattr(chunked_module, "KEYS", 12)


def arrays(t, s):
    random = np.random.RandomState(0)
    shapes = [(2, t, HEADS, HEAD), (2, s, KV_HEADS, HEAD), (2, s, KV_HEADS, HEAD), (2, t, HEADS, HEAD)]
    return [jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes]


def segments(t, *lengths):
    """Two rows of documents; the second has its first document only."""
    ids = np.zeros((2, t), np.int32)
    both = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    ids[0, : len(both)], ids[1, : lengths[0]] = both, 1
    return ids


def prefix(ids, share=0.5):
    """The first half of every document."""
    marks = np.zeros_like(ids)
    for row, document in {(row, ids[row, place]) for row, place in zip(*np.nonzero(ids), strict=True)}:
        places = np.nonzero(ids[row] == document)[0]
        marks[row, places[: int(share * len(places))]] = 1
    return marks


def case(name):
    """The `Keep`, and whether query t sees key s, said in words of the paper."""
    ids = segments(T, 21, 14)
    if name == "source":
        theirs = segments(S, 30, 20)
        return Keep(ids, theirs, pattern="bidirectional"), lambda b, t, s: ids[b, t] == theirs[b, s] != 0
    window = 6 if "window" in name else None
    marks = prefix(ids) if "prefix" in name else None

    def sees(b, t, s):
        near = window is None or abs(t - s) < window
        ahead = "both" in name or s <= t or (marks is not None and marks[b, s])
        return ids[b, t] == ids[b, s] != 0 and near and ahead

    return Keep(ids, ids, 0, window, "bidirectional" if "both" in name else "causal", marks), sees


def by_loop(q, k, v, sees):
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        seen = [s for s in range(k.shape[1]) if sees(b, t, s)]
        if seen:
            weights = np.exp([q[b, t, h] @ k[b, s, h // (HEADS // KV_HEADS)] for s in seen])
            values = np.stack([v[b, s, h // (HEADS // KV_HEADS)] for s in seen])
            out[b, t, h] = weights @ values / weights.sum()
    return out


def outputs_and_gradients(attend, keep, **options):
    q, k, v, cotangent = arrays(keep.query_segments_bt.shape[1], keep.key_segments_bs.shape[1])
    real = (jnp.asarray(keep.query_segments_bt) > 0)[:, :, None, None]

    @jax.jit
    def both(*arrays):
        traced = keep._replace(query_segments_bt=jnp.asarray(keep.query_segments_bt))
        out, pull = jax.vjp(lambda q, k, v: real * attend(q, k, v, traced, **options), *arrays)
        return out, *pull(cotangent)

    return both(q, k, v)


CASES = ("both", "both+window", "prefix", "prefix+window", "source")


@pytest.mark.parametrize("name", CASES)
def test_queries_see_what_the_pattern_says(name):
    keep, sees = case(name)
    q, k, v, _ = arrays(T, keep.key_segments_bs.shape[1])
    expected = by_loop(*map(np.float64, (q, k, v)), sees)
    real = keep.query_segments_bt > 0
    np.testing.assert_allclose(dense(q, k, v, keep)[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("biased", [False, True])
def test_blocked_attention_has_the_outputs_and_gradients_of_dense_attention(name, biased):
    keep, _ = case(name)
    shape = (HEADS, T, keep.key_segments_bs.shape[1])
    bias = {"bias_hts": jnp.asarray(np.random.RandomState(1).standard_normal(shape), jnp.float32)} if biased else {}
    ours, expected = (outputs_and_gradients(attend, keep, **bias) for attend in (blocked, dense))
    for o, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5)


def test_splash_sees_both_directions_a_window_and_a_source_and_refuses_a_prefix():
    ids, theirs = segments(128, 60, 40), segments(256, 128, 128)
    for keep in (
        Keep(ids, ids, 0, 30, "bidirectional"),
        Keep(ids, theirs, pattern="bidirectional"),  # no key is padding, and some queries are
    ):
        ours, expected = (outputs_and_gradients(attend, keep) for attend in (splash, dense))
        for o, e in zip(ours, expected, strict=True):
            np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5)
    q, k, v, _ = arrays(128, 128)
    with pytest.raises(UserError, match="model.attention=splash: its mask is made before .*; use dense or blocked"):
        splash(q, k, v, Keep(ids, ids, prefix_bs=ids))
    with pytest.raises(UserError, match="longer cache; use dense"):
        splash(q, *arrays(128, 256)[1:3], Keep(ids, theirs))
    assert choose("auto", platform="tpu", length=128, bias=False, prefix=True) == "dense"


@pytest.mark.parametrize(
    "name", apart(["causal+window", "both+window", "prefix+window", "source"], "causal+window", "source")
)
def test_chunked_attention_has_the_outputs_and_gradients_of_dense_attention(name):
    keep, _ = case(name)
    q, k, v, cotangent = arrays(T, keep.key_segments_bs.shape[1])
    bias = jnp.asarray(np.random.RandomState(1).standard_normal((HEADS, T, k.shape[1])), jnp.float32)
    real = (jnp.asarray(keep.query_segments_bt) > 0)[:, :, None, None]

    def outputs_and_gradients(attend):
        run = lambda q, k, v, bias: real * attend(q, k, v, keep, bias_hts=bias, softcap=2.0)  # noqa: E731
        out, pull = jax.jit(lambda *arrays: jax.vjp(run, *arrays))(q, k, v, bias)
        return out, *pull(cotangent)

    for o, e in zip(outputs_and_gradients(chunked), outputs_and_gradients(dense), strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5)


def test_chunked_attention_without_bias_and_soft_cap_is_dense_attention_too():
    keep, _ = case("causal")
    for o, e in zip(*(outputs_and_gradients(attend, keep) for attend in (chunked, dense)), strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_chunked_attention_takes_queries_that_begin_anywhere_among_the_keys(window):
    q, k, v, _ = arrays(7, S)
    ones = jnp.ones((2, 7), jnp.int32), jnp.ones((2, S), jnp.int32)
    of = jax.jit(lambda attend, offset: attend(q, k, v, Keep(*ones, offset, window)), static_argnums=0)
    for offset in (0, 13, S - 7):
        np.testing.assert_allclose(of(chunked, offset), of(dense, offset), rtol=1e-5, atol=1e-6)


def test_blocked_attention_refuses_keys_of_another_length_where_order_matters():
    q, k, v, _ = arrays(T, S)
    keep = Keep(segments(T, 9), segments(S, 9))
    for other in (keep, keep._replace(pattern="bidirectional", window=3), keep._replace(offset=4)):
        with pytest.raises(UserError, match="model.attention=blocked: it is for whole .*; use dense or chunked"):
            blocked(q, k, v, other)


def test_a_cache_that_holds_a_source_is_read_as_the_source_is():
    keep, _ = case("source")
    q, k, v, _ = arrays(T, S)
    caches = [write_cache(empty_cache(2, S, KV_HEADS, HEAD, jnp.float32), x, 0) for x in (k, v)]
    np.testing.assert_allclose(cached(q, *caches, keep), dense(q, k, v, keep), atol=1e-6)
