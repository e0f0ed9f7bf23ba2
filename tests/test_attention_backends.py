"""The table of what each attention can do is true, and the README has it; memory, isolation and cuDNN's lowering."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import language_model
from lmjax import models
from lmjax.config import override
from lmjax.errors import UserError
from lmjax.layers.attention import Keep, dense
from lmjax.layers.attentions import ATTENTIONS
from lmjax.layers.backends import LACKS, SUPPORTS, choose, lack, markdown, refusal
from lmjax.layers.blocked import blocked
from lmjax.layers.chunked import chunked
from lmjax.layers.cudnn import cudnn

HEADS, HEAD = 2, 16


def arrays(t, s=None, dtype=jnp.float32):
    random = np.random.RandomState(0)
    return [jnp.asarray(random.standard_normal((2, n, HEADS, HEAD)), dtype) for n in (t, s or t, s or t)]


def documents(t, *stops):
    """Segments (2, t): documents that end there, then padding."""
    return jnp.asarray(np.tile(np.searchsorted(stops, np.arange(t), "right") + 1, (2, 1)) * (np.arange(t) < stops[-1]))


def asked_for(feature, t=128):
    """Queries, keys, values, a `Keep` and options that need this one feature."""
    ids = documents(t, 60, 120)
    keep, options = Keep(ids, ids), {}
    if feature == "window":
        keep = keep._replace(window=20)
    if feature == "prefix":
        keep = keep._replace(prefix_bs=(ids == 1).astype(jnp.int32))
    if feature == "softcap":
        options = {"softcap": 5.0}
    if feature == "bias":
        options = {"bias_hts": jnp.zeros((HEADS, t, t))}
    if feature == "cross":
        keep = keep._replace(key_segments_bs=documents(2 * t, t, 2 * t), pattern="bidirectional")
    if feature == "cache":
        keep = keep._replace(key_segments_bs=documents(2 * t, 2 * t), offset=t)
    return arrays(t, keep.key_segments_bs.shape[1], jnp.bfloat16), keep, options


def pretend_cudnn(monkeypatch):
    """JAX asks the driver for its version before it lowers anything."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("feature", LACKS)
def test_every_backend_does_what_the_table_says_and_refuses_the_rest(name, feature, monkeypatch):
    pretend_cudnn(monkeypatch)
    qkv, keep, options = asked_for(feature)

    def run():
        return jax.eval_shape(lambda *x: ATTENTIONS[name](*x, keep, **options), *qkv)

    if getattr(SUPPORTS[name], feature):
        assert run().shape == qkv[0].shape
        return
    with pytest.raises(UserError, match=f"model.attention={name}: {LACKS[feature][:20]}.*; use ") as error:
        run()
    named = str(error.value).rpartition("use ")[2].split(" or ")
    assert named == [other for other in SUPPORTS if getattr(SUPPORTS[other], feature)]


def test_automatic_choice_is_something_that_can():
    for platform in ("cpu", "gpu", "tpu", "another"):
        for asked in ({"length": 100}, {"length": 128, "prefix": True}, {"length": 7, "bias": True, "softcap": True}):
            assert lack(SUPPORTS[choose("auto", platform=platform, **asked)], **asked) is None


@pytest.mark.parametrize(
    "change, platform, said",
    [
        ("model.attention_softcap=30", "gpu", "no soft cap .*; use dense or blocked or chunked"),
        ("precision.compute=float32", "gpu", "bfloat16 or float16, and precision.compute is float32; use dense"),
        ("model.head_width=20", "gpu", "multiple of 8 up to 128, not 20"),
        ("model.width=256", "cpu", "it is for gpu, and this is a cpu; use dense or blocked or chunked"),
        ("data.length=255", "gpu", "multiple of 2, and this is 255"),
    ],
)
def test_a_config_that_cudnn_cannot_do_is_refused_before_anything_is_compiled(change, platform, said):
    config = override(language_model(), ["model.attention=cudnn", "precision.compute=bfloat16", change])
    with pytest.raises(UserError, match=f"model.attention=cudnn: .*{said}"):
        models.build(config, vocab=256, platform=platform)


def test_the_table_in_the_readme_is_the_one_that_choices_are_made_by():
    assert markdown() in (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("attend", [dense, blocked, chunked])
def test_documents_in_one_row_do_not_see_one_another_bit_for_bit(attend, monkeypatch):
    monkeypatch.setattr("lmjax.layers.blocked.QUERY_BLOCK", 32)
    for name in ("QUERIES", "KEYS"):
        monkeypatch.setattr(f"lmjax.layers.chunked.{name}", 32)
    t, first, second = 130, slice(0, 50), slice(50, 117)
    ids = documents(t, 50, 117)
    q, k, v = arrays(t)

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(lambda *x: attend(*x, Keep(ids, ids)), q, k, v)
        return out, *pull(jnp.where(ids[..., None, None] == 2, jnp.cos(out), 0))

    before = run(q, k, v)
    after = run(*(x.at[:, first].add(3.0) for x in (q, k, v)))  # which a causal mask alone would let the second see
    for b, a in zip(before, after, strict=True):
        np.testing.assert_array_equal(b[:, second], a[:, second])
    assert jnp.abs(before[0][:, first] - after[0][:, first]).max() > 0.1
    assert all((gradient[:, first] == 0).all() for gradient in after[1:])


def temporary(attend, t, **options):
    """Bytes that a compiled gradient needs beside its arguments and results."""
    ids = jnp.ones((1, t), jnp.int32)
    qkv = [jax.ShapeDtypeStruct((1, t, 1, 8), jnp.float32)] * 3
    loss = lambda *x: jnp.sum(attend(*x, Keep(ids, ids), **options) ** 2)  # noqa: E731
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*qkv).compile().memory_analysis().temp_size_in_bytes


def test_the_memory_of_chunked_attention_is_linear_in_the_length():
    small, large = (temporary(chunked, t, softcap=5.0) for t in (2048, 8192))
    assert large < 5 * small, "more than 4 times the length"
    assert large < 4 * 8192**2 / 50, "near queries x keys"
    assert temporary(dense, 2048, softcap=5.0) > 4 * 2048**2


@pytest.mark.parametrize("window", [None, 32])
def test_cudnn_attention_is_lowered_for_cuda_with_its_gradient(window, monkeypatch):
    """To the custom calls of the kernel; there is no GPU here that would run them."""
    pretend_cudnn(monkeypatch)
    ids = documents(128, 60, 120)

    def loss(q, k, v):
        return jnp.sum(cudnn(q, k, v, Keep(ids, ids, window=window)).astype(jnp.float32) ** 2)

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays(128, dtype=jnp.bfloat16))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBias" in text.replace("Softmax", "") and "Backward" in text
    assert 'mask_type": "CAUSAL' in text.replace("\\22", '"')
    assert f'sliding_window_length": {window or 0}' in text.replace("\\22", '"')


def test_refusals_name_what_can():
    assert refusal("splash", length=100, bias=True, cache=True).endswith("use dense or chunked")
    assert refusal("cudnn", length=128, dtype="bfloat16", head=128) is None
