"""Mixtures of experts: a loop over tokens, Mixtral's block, losses by hand, and experts on several devices."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_sharding import on_8_devices

from configs import moe as recipes
from lmjax import models, program
from lmjax.config import update
from lmjax.errors import UserError
from lmjax.flops import training_flops
from lmjax.layers.moe import Moe, Routing
from lmjax.sharding import Layout, dims_of, placed, unbox

KINDS = {
    "dropless, in blocks": Routing(5, 2),
    "dropless, ragged": Routing(5, 2, grouped="ragged"),
    "as the softmax gave them": Routing(4, 3, normalize=False),
    "capacity": Routing(4, 2, "capacity", 0.7),
}


def init(fan_in):
    return nn.initializers.normal(fan_in**-0.5)


def layer(routing, kind="swiglu", width=16, hidden=24):
    """A module, its parameters, and an input (3, 20, width)."""
    module = Moe(routing, kind, hidden, init, init)
    x_btd = jnp.asarray(np.random.RandomState(0).standard_normal((3, 20, width)), jnp.float32)
    shapes = jax.eval_shape(lambda: unbox(module.init(jax.random.key(1), x_btd)["params"]))
    random = np.random.RandomState(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape), jnp.float32), shapes)
    return module, params, x_btd


def run(module, params, x_btd, kept_bt=None):
    """What comes out, and what is sown."""
    sown = ["losses", "measures"]
    return jax.jit(partial(module.apply, mutable=sown))({"params": params}, x_btd, kept_bt)


def by_loop(params, x_btd, routing, kept_bt):
    """Token by token and expert by expert; what comes out, and how many choices were dropped."""
    p, x_btd = jax.tree.map(np.asarray, params), np.asarray(x_btd)
    (b, t, _), out_btd, dropped = x_btd.shape, np.zeros_like(x_btd), 0
    room = math.ceil(routing.capacity * routing.top * t / routing.experts)
    for i in range(b):
        taken = np.zeros(routing.experts, int)
        for j in np.flatnonzero(kept_bt[i]):
            x_d = x_btd[i, j]
            share_e = np.exp(x_d @ p["router"]) / np.exp(x_d @ p["router"]).sum()
            chosen = np.argsort(-share_e, kind="stable")[: routing.top]
            total = share_e[chosen].sum() if routing.normalize else 1.0
            for e in chosen:
                taken[e] += 1
                if routing.dispatch == "capacity" and taken[e] > room:
                    dropped += 1
                    continue
                gate_f = x_d @ p["gate"][e]
                h_f = gate_f / (1 + np.exp(-gate_f)) * (x_d @ p["up"][e])
                out_btd[i, j] += share_e[e] / total * (h_f @ p["down"][e])
    return out_btd, dropped


@pytest.mark.parametrize("name", KINDS)
def test_a_loop_over_tokens_gives_the_same(name):
    routing = KINDS[name]
    module, params, x_btd = layer(routing)
    kept_bt = (np.arange(20) >= np.array([0, 9, 0])[:, None]) & (np.arange(20) < np.array([20, 20, 1])[:, None])
    found_btd, sown = run(module, params, x_btd, kept_bt)
    expected_btd, dropped = by_loop(params, x_btd, routing, kept_bt)
    np.testing.assert_allclose(np.where(kept_bt[..., None], found_btd, 0), expected_btd, atol=2e-6)
    assert float(sown["measures"]["dropped"][0]) == pytest.approx(dropped / (kept_bt.sum() * routing.top), abs=1e-6)
    assert (dropped > 0) == (routing.dispatch == "capacity")


def test_gradients_are_those_of_a_sum_over_all_experts():
    module, params, x_btd = layer(Routing(5, 2, balance=0.0, z=0.0))

    def dense(params, x_btd):
        shares_bte = jax.nn.softmax(x_btd @ params["router"])
        top_bt = jnp.sort(shares_bte, axis=-1)[..., -2]
        gates_bte = jnp.where(shares_bte >= top_bt[..., None], shares_bte, 0.0)
        gates_bte /= gates_bte.sum(axis=-1, keepdims=True)
        h_btef = jax.nn.silu(jnp.einsum("btd,edf->btef", x_btd, params["gate"]))
        h_btef *= jnp.einsum("btd,edf->btef", x_btd, params["up"])
        return jnp.einsum("btef,efd,bte->btd", h_btef, params["down"], gates_bte)

    def loss(run, params, x_btd):
        return jnp.sum(jnp.sin(run(params, x_btd)))

    def ours(params, x_btd):
        return module.apply({"params": params}, x_btd)

    ours, theirs = (jax.jit(jax.grad(partial(loss, f), argnums=(0, 1)))(params, x_btd) for f in (ours, dense))
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), ours, theirs)


def test_losses_by_hand():
    """Two experts, four tokens, logits ln 3 and 0: shares 3/4 and 1/4; three tokens like the first expert, one the other."""
    module = Moe(Routing(2, 1, balance=1.0, importance=1.0, z=1.0, normalize=False), "relu", 3, init, init)
    x_btd = jnp.log(3.0) * jnp.asarray([[[1.0, 0], [1, 0], [1, 0], [0, 1], [9, 9]]])
    params = {"router": jnp.eye(2), "up": jnp.ones((2, 2, 3)), "down": jnp.ones((2, 3, 2))}
    _, sown = run(module, params, x_btd, jnp.asarray([[True] * 4 + [False]]))
    found = {name: float(value[0]) for name, value in (sown["losses"] | sown["measures"]).items()}
    f, p, gates = np.array([3, 1]) / 4, np.array([3 * 3 / 4 + 1 / 4, 3 * 1 / 4 + 3 / 4]) / 4, np.array([9, 3]) / 4
    assert found["balance"] == pytest.approx(2 * (f * p).sum(), rel=1e-5)
    assert found["importance"] == pytest.approx(gates.var() / gates.mean() ** 2, rel=1e-5)
    assert found["router_z"] == pytest.approx(math.log(4) ** 2, rel=1e-5)
    assert found["dropped"] == pytest.approx(0) and found["busiest"] == pytest.approx(0.75)


def test_with_capacity_a_future_token_cannot_change_a_past_one():
    module, params, x_btd = layer(KINDS["capacity"])
    before, after = (run(module, params, x)[0] for x in (x_btd, x_btd.at[:, 11:].multiply(-3.0)))
    np.testing.assert_array_equal(before[:, :11], after[:, :11])
    assert jnp.abs(before[:, 11:] - after[:, 11:]).max() > 0.1


def test_mixtrals_block_gives_the_same():
    torch = pytest.importorskip("torch", reason="parity with Mixtral needs torch")
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral", reason="and transformers")
    from transformers import MixtralConfig

    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2)
    block = mixtral.MixtralSparseMoeBlock(config).eval()
    with torch.no_grad():
        for leaf in block.parameters():
            leaf.copy_(torch.randn(leaf.shape, generator=torch.Generator().manual_seed(leaf.numel())) * 0.3)
        theirs = {name: leaf.numpy() for name, leaf in block.named_parameters()}
    module, _, x_btd = layer(Routing(4, 2))
    if "experts.gate_up_proj" in theirs:  # all experts in an array
        gate_efd, up_efd = np.split(theirs["experts.gate_up_proj"], 2, axis=1)
        down_edf = theirs["experts.down_proj"]
    else:
        stacked = {k: np.stack([theirs[f"experts.{e}.{k}.weight"] for e in range(4)]) for k in ("w1", "w2", "w3")}
        gate_efd, down_edf, up_efd = stacked["w1"], stacked["w2"], stacked["w3"]
    params = {"router": theirs["gate.weight"].T, "gate": gate_efd.transpose(0, 2, 1), "up": up_efd.transpose(0, 2, 1),
              "down": down_edf.transpose(0, 2, 1)}  # fmt: skip
    with torch.no_grad():
        out = block(torch.from_numpy(np.array(x_btd)))
    expected_btd = (out[0] if isinstance(out, tuple) else out).numpy().reshape(x_btd.shape)
    found_btd, _ = run(module, jax.tree.map(jnp.asarray, params), x_btd)
    np.testing.assert_allclose(found_btd, expected_btd, atol=1e-5)


def config(changes=None):
    small = {"model.moe.experts": 4, "model.mlp_width": 16, "model.depth": 1, "model.remat": "none"}
    return update(recipes.mixture(tiny.config()), {**small, **(changes or {})})


def test_decoding_with_a_cache_is_the_full_forward():
    module = models.build(config(), vocab=tiny.VOCAB, platform="cpu")
    params, batch = tiny.parameters(module), tiny.packed([[10], [10]], length=10)
    full_btv = jax.jit(partial(module.apply, train=False))({"params": params}, batch)
    cache, ready = module.init_cache(2, 10), module.for_decoding(params)
    for part in (slice(0, 7), slice(7, 10)):
        piece = {name: field[:, part] for name, field in batch.items()}
        logits_btv, cache = jax.jit(partial(module.apply, train=False))({"params": ready}, piece, cache=cache)
        np.testing.assert_allclose(logits_btv, full_btv[:, part], atol=2e-5)


MESHES = {"dropless": {"data": 2, "expert": 4}, "capacity": {"fsdp": 2, "tensor": 2, "expert": 2}}


def gradients_everywhere():
    """Gradients of a layer, its losses among what is differentiated, on one device and on a mesh."""
    found = {}
    for dispatch, mesh in MESHES.items():
        module, params, x_btd = layer(Routing(4, 2, dispatch, 0.7, importance=0.01))
        x_btd = jnp.tile(x_btd, (4, 1, 1))[:8] + 0.1 * jnp.arange(8)[:, None, None]
        boxed = jax.eval_shape(lambda x_btd, module=module: module.init(jax.random.key(0), x_btd)["params"], x_btd)

        def loss(params, x_btd, module=module):
            out_btd, sown = module.apply({"params": params}, x_btd, mutable=["losses", "measures"])
            return jnp.sum(jnp.sin(out_btd)) + 100 * sum(jax.tree.leaves(sown["losses"])), sown

        for axes in ({}, mesh):
            layout = Layout({"data": 1, **axes}, config().layout.params, config().layout.acts)
            placement = layout.make_mesh(jax.devices()[: math.prod(axes.values())])
            held = jax.device_put(params, layout.param_shardings(placement, unbox(boxed), dims_of(boxed)))
            rows_btd = jax.device_put(x_btd, layout.sharding(placement, "acts", "btd", x_btd.shape, "x"))
            with placed(layout, placement):
                grads, sown = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(held, rows_btd)
            part = held["up"].addressable_shards[0].data.size / held["up"].size
            found[dispatch, bool(axes)] = jax.device_get((grads, sown)), part
    return found


@pytest.mark.slow
def test_experts_on_several_devices_are_as_on_one(tmp_path):
    found = on_8_devices(tmp_path, "gradients_everywhere()", "test_moe")
    for dispatch, part in (("dropless", 1 / 4), ("capacity", 1 / 8)):
        (one, whole), (many, shard) = found[dispatch, False], found[dispatch, True]
        assert whole == 1 and shard == part
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), many, one)
        assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(one[0])) > 1e-2
        assert (one[1]["measures"]["dropped"][0] > 0.01) == (dispatch == "capacity")


def test_a_model_s_own_losses_are_added_to_any_objective():
    made = program.build(config({"model.depth": 2}), vocab=tiny.VOCAB, devices=jax.devices()[:1])
    params, rows = tiny.parameters(made.model), tiny.packed([[10, 13], [3, 4]])
    sums = jax.jit(partial(made.objective, made.model.apply, train=True))(params, rows, jax.random.key(0))
    total = {name: float(s.total) / float(s.weight) for name, s in sums.items()}
    assert total["loss"] == pytest.approx(total["nll"] + total["balance"] + total["router_z"], rel=1e-5)
    assert total["balance"] > 2 * 0.0099 and total["router_z"] > 0  # of two layers; 1 is even
    assert total["dropped"] == pytest.approx(0, abs=1e-6) and 0.25 < total["busiest"] < 1


@pytest.mark.parametrize("changes, said", [
    ({"model.moe.top": 5}, "model.moe.top=5 of model.moe.experts=4"),
    ({"model.moe.dispatch": "dropfull"}, "did you mean 'dropless'"),
    ({"model.moe.z": -1.0}, "model.moe.z=-1.0"),
])  # fmt: skip
def test_bad_leaves_are_said(changes, said):
    with pytest.raises(UserError, match=said):
        models.build(config(changes), vocab=tiny.VOCAB, platform="cpu")


def test_mixtral_has_its_parameters():
    """46.7 thousand million, of which a token meets 12.9: 6 FLOPs each but for the embedding, and the mixing."""
    module = models.build(recipes.mixtral_8x7b(), vocab=32_000, platform="tpu")
    batch = tiny.packed([[4]], length=128)
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), batch, train=False)["params"])
    plain, dims = unbox(boxed), dims_of(boxed)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(plain))
    assert total == 46_702_792_704
    met = total - 32 * 6 * 3 * 4096 * 14_336 - 32_000 * 4096 - (2 * 32 + 1) * 4096  # not looked up, not scales
    assert training_flops(plain, dims, length=128, met=2 / 8) == 6 * met + 12 * 32 * 4096 * 128
