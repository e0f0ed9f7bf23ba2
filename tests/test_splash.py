"""Splash attention, interpreted on the CPU, is dense attention; what it cannot do it refuses by name."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from apart import apart
from jax.sharding import AbstractMesh

from configs.base import language_model
from lmjax import models
from lmjax.config import override
from lmjax.errors import UserError
from lmjax.layers import splash as module
from lmjax.layers.attention import Keep, dense
from lmjax.layers.backends import choose
from lmjax.layers.splash import splash
from lmjax.layers.stack import REMATS
from lmjax.sharding import Layout

LENGTH, HEADS, HEAD = 256, 4, 32
FIRST, SECOND, PADDING = slice(0, 140), slice(140, 230), slice(230, 256)


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_BLOCK", 128)  # so that the kernel walks over a grid of blocks


def arrays(kv_heads=2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, LENGTH, heads, HEAD) for heads in (HEADS, kv_heads, kv_heads, HEADS)]
    q, k, v, cotangent = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))
    return q / HEAD**0.5, k, v, cotangent


def documents(window=None) -> Keep:
    segments = np.zeros((2, LENGTH), np.int32)
    segments[:, FIRST], segments[:, SECOND] = 1, 2
    segments[1, :100] = 0  # the second row is padded on the left too
    return Keep(jnp.asarray(segments), jnp.asarray(segments), 0, window)


def output_and_gradients(attend, q, k, v, cotangent, *, window=None, softcap=None):
    def run(q, k, v):
        keep = documents(window)
        real = (keep.query_segments_bt > 0)[:, :, None, None]  # padding weighs nothing in any loss
        return attend(q, k, v, keep, softcap=softcap) * real

    @jax.jit
    def both(q, k, v, cotangent):
        out, pull = jax.vjp(run, q, k, v)
        return out, *pull(cotangent)

    return both(q, k, v, cotangent)


@pytest.mark.parametrize(
    "window, softcap, kv_heads",
    apart([(None, None, HEADS), (None, 2.0, 2), (90, None, 2), (130, 2.0, 1)], (None, None, HEADS), (130, 2.0, 1)),
)
def test_output_and_gradients_equal_dense_attention(window, softcap, kv_heads):
    options = {"window": window, "softcap": softcap}
    ours, reference = (output_and_gradients(attend, *arrays(kv_heads), **options) for attend in (splash, dense))
    for o, r in zip(ours, reference, strict=True):
        np.testing.assert_allclose(o, r, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_as_near_float32_as_dense_attention_is():
    exact = output_and_gradients(dense, *arrays())
    ours, reference = (output_and_gradients(attend, *arrays(dtype=jnp.bfloat16)) for attend in (splash, dense))
    for o, r, e in zip(ours, reference, exact, strict=True):
        error, allowed = (float(jnp.linalg.norm(x.astype(jnp.float32) - e) / jnp.linalg.norm(e)) for x in (o, r))
        assert o.dtype == jnp.bfloat16
        assert 0 < error < max(1.2 * allowed, 0.01), (error, allowed)


def test_queries_see_the_past_of_their_own_document_only_and_padding_is_finite():
    q, k, v, _ = arrays()
    attend = jax.jit(lambda k, v: splash(q, k, v, documents()))
    before = attend(k, v)
    assert jnp.isfinite(before).all()
    first = attend(k.at[:, FIRST].add(1.0), v.at[:, FIRST].add(1.0))
    np.testing.assert_array_equal(first[:, SECOND], before[:, SECOND])
    assert jnp.abs(first[:, FIRST] - before[:, FIRST]).max() > 0.1
    late = attend(k.at[:, 200:].add(1.0), v.at[:, 200:].add(1.0))
    np.testing.assert_array_equal(late[:, :200], before[:, :200])
    assert jnp.abs(late[:, 200:] - before[:, 200:]).max() > 0.1


ON_A_MESH = """
import jax, numpy as np
import test_splash
from lmjax.layers.attention import dense
from lmjax.layers.backends import choose
from lmjax.layers.splash import splash
from lmjax.layers.stack import REMATS
from lmjax.sharding import Layout
from lmjax.sharding import Layout, placed

acts = {"batch": ("data",), "length": ("context",), "heads": ("tensor",), "kv_heads": ("tensor",)}
arrays = test_splash.arrays(kv_heads=2)
expected = test_splash.output_and_gradients(dense, *arrays)
# With tensor=4 every device has one query head, and must find its own among two whole key/value heads.
for axes in ({"data": 2, "context": 2, "tensor": 2}, {"data": 2, "tensor": 4}):
    layout = Layout(axes, {}, acts)
    with placed(layout, layout.make_mesh(jax.devices())):
        ours = test_splash.output_and_gradients(splash, *arrays)
    assert len(ours[0].sharding.device_set) == 8, "it ran on one device"
    for o, e in zip(ours, expected, strict=True):
        np.testing.assert_allclose(o, e, rtol=1e-4, atol=1e-5, err_msg=str(axes))
print("equal")
"""


@pytest.mark.slow
def test_on_any_mesh_it_is_the_same_as_on_one_device():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": runs.fake(8)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run([sys.executable, "-c", ON_A_MESH], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "equal" in run.stdout, run.stderr


def test_heads_that_a_mesh_cannot_share_are_refused():
    layout = Layout({"tensor": 4}, {}, {"heads": ("tensor",)})
    mesh = AbstractMesh((4,), ("tensor",))
    q, k = (jax.ShapeDtypeStruct((1, LENGTH, heads, HEAD), jnp.float32) for heads in (6, 2))
    with pytest.raises(UserError, match="4 devices .* 6 query heads and 2 key/value heads"):
        module._sharded(None, (q, k), layout, mesh)


def test_what_it_cannot_do_names_what_can():
    q, k, v, _ = arrays()
    bias_hts = jnp.zeros((HEADS, LENGTH, LENGTH))
    with pytest.raises(UserError, match="alibi and t5 .*use dense or blocked"):
        splash(q, k, v, documents(), bias_hts=bias_hts)
    with pytest.raises(UserError, match="multiple of 128, and this is 100; use dense or blocked"):
        splash(q[:, :100], k[:, :100], v[:, :100], Keep(jnp.ones((2, 100)), jnp.ones((2, 100))))
    with pytest.raises(UserError, match="longer cache; use dense"):
        splash(q[:, :128], k, v, documents())
    with pytest.raises(UserError, match="longer cache; use dense"):
        jax.eval_shape(lambda i: splash(q, k, v, documents()._replace(offset=i)), 0)


def test_automatic_choice_is_splash_on_a_tpu_where_it_can():
    pick = lambda name, platform, length=256, bias=False: choose(name, platform=platform, length=length, bias=bias)  # noqa: E731
    assert pick("auto", "tpu") == "splash"
    assert pick("auto", "tpu", length=200) == pick("auto", "tpu", bias=True) == pick("auto", "gpu") == "dense"
    assert pick("auto", "cpu") == "blocked" and pick("splash", "cpu") == "splash"
    for asked in ({"platform": "tpu", "length": 200}, {"platform": "tpu", "bias": True}, {"platform": "gpu"}):
        with pytest.raises(UserError, match="model.attention=splash: .*use dense"):
            pick("splash", **asked)


def test_a_model_takes_the_attention_that_was_chosen():
    section = override(language_model(), ["model.attention=splash"])
    assert models.build(section, vocab=256, platform="tpu").attend is splash
    assert models.build(language_model(), vocab=256, platform="tpu").attend is splash
    with pytest.raises(UserError, match="alibi"):
        models.build(override(section, ["model.position=alibi"]), vocab=256, platform="tpu")


def test_minimal_remat_saves_what_the_kernels_of_the_backward_pass_need(capsys):
    def saved(remat):
        attend = jax.checkpoint(lambda q, k, v: splash(q, k, v, documents()), policy=REMATS[remat])
        jax.ad_checkpoint.print_saved_residuals(attend, *arrays()[:3])
        return [line.split()[0] for line in capsys.readouterr().out.splitlines() if "_splash_attention" in line]

    assert saved("minimal") == [f"f32[2,{HEADS},{LENGTH},{HEAD}]", f"f32[2,{HEADS},{LENGTH}]"]  # output and log-sum-exp
    assert saved("full") == []
