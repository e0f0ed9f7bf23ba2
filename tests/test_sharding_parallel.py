"""Rings, all-to-alls, pipelines and experts over 8 devices give what one device gives; what cannot be cut says why."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec
from test_sharding import on_8_devices

from configs.moe import moe
from lmjax import program
from lmjax.config import extend, update
from lmjax.errors import UserError
from lmjax.layers.attention import Keep, dense
from lmjax.layers.blocked import blocked
from lmjax.layers.contextual import attend_over_mesh
from lmjax.layers.exchange import Where, with_choices
from lmjax.sharding import Layout, placed
from lmjax.sharding.pipeline import Pipeline, pipeline
from lmjax.sharding.slices import spread

LAYOUT = tiny.config().layout
T = 24


def layout(mesh, **options):
    return Layout({"data": 1, **mesh}, LAYOUT.params, LAYOUT.acts, **options)


def arrays(kv_heads=2, seed=0):
    """Scaled queries, keys and values of 4 heads, and segments of two rows: two documents each, the last with padding."""
    random = np.random.RandomState(seed)
    shapes = ((2, T, 4, 8), (2, T, kv_heads, 8), (2, T, kv_heads, 8))
    segments_bt = np.repeat([[1, 2, 2], [1, 2, 0]], T // 3, axis=1).astype(np.int32)
    return [jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes], jnp.asarray(segments_bt)


# kind, mesh, key/value heads, of the mask, bias or not
ATTENTIONS = {
    "ring": ("ring", {"context": 4}, 2, {}, False),
    "ring with a window": ("ring", {"context": 2, "tensor": 2, "data": 2}, 4, {"window": 7}, False),
    "ring in both directions": ("ring", {"context": 8}, 1, {"pattern": "bidirectional"}, False),
    "ulysses": ("ulysses", {"context": 4}, 2, {"window": 9}, True),
    "ulysses x tensor": ("ulysses", {"context": 2, "tensor": 2}, 1, {}, False),
    "gather": ("gather", {"context": 4}, 2, {}, True),
}


def value_and_gradients(attend, qkv, keep, bias_hts):
    def loss(qkv, bias_hts):
        out_bthk = attend(*qkv, keep, bias_hts=bias_hts, softcap=5.0)
        real_bt = keep.query_segments_bt > 0
        return jnp.sum(jnp.sin(out_bthk) * real_bt[..., None, None]), out_bthk * real_bt[..., None, None]

    return jax.grad(loss, argnums=(0,) if bias_hts is None else (0, 1), has_aux=True)(qkv, bias_hts)


def attend_everywhere(names):
    """On one device and over a mesh: gradients and output; and which collectives the compiled program has.

    Documents of a row see nothing of one another, bit for bit.
    """
    found = {}
    for name in names:
        kind, mesh, kv_heads, mask, biased = ATTENTIONS[name]
        qkv, segments_bt = arrays(kv_heads)
        keep = Keep(segments_bt, segments_bt, 0, **mask)
        bias_hts = 0.1 * jnp.arange(4 * T * T, dtype=jnp.float32).reshape(4, T, T) % 1 if biased else None
        one = jax.jit(lambda qkv, keep=keep, bias=bias_hts: value_and_gradients(dense, qkv, keep, bias))(qkv)
        here = layout(mesh, context=kind)
        devices = here.make_mesh(jax.devices()[: math.prod(mesh.values())])
        with placed(here, devices):
            qkv[0] = jax.device_put(qkv[0], here.sharding(devices, "acts", "bthk", qkv[0].shape, "q"))

            def run(qkv, keep=keep, bias=bias_hts):
                return value_and_gradients(attend_over_mesh(blocked), qkv, keep, bias)

            compiled = jax.jit(run).lower(qkv).compile()
            many = compiled(qkv)
            first_bt11 = (segments_bt == 1)[..., None, None]
            changed = compiled([x + 3.0 * first_bt11 for x in qkv])
        for before, after in zip(
            jax.tree.leaves((many[0][0], many[1])), jax.tree.leaves((changed[0][0], changed[1])), strict=True
        ):
            apart = np.where(first_bt11, 0, before), np.where(first_bt11, 0, after)
            np.testing.assert_array_equal(*apart, err_msg=f"{name}: the first document was seen by the others")
            assert np.abs(before - after).max() > 0.1
        made = set(re.findall(r"\b(collective-permute|all-to-all|all-gather)(?:-start)?\(", compiled.as_text()))
        found[name] = jax.device_get((one, many)), made
    return found


def test_attention_over_a_cut_length_is_attention(tmp_path):
    """Values and gradients; the ring only passes on, Ulysses only swaps."""
    same_attention(on_8_devices(tmp_path, "attend_everywhere(['ring', 'ulysses x tensor'])", "test_sharding_parallel"))


@pytest.mark.slow
def test_attention_over_a_cut_length_is_attention_whatever_it_sees(tmp_path):
    found = on_8_devices(tmp_path, f"attend_everywhere({list(ATTENTIONS)})", "test_sharding_parallel")
    same_attention(found)


def same_attention(found):
    for name, ((one, many), made) in found.items():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5, err_msg=name), many, one)
        assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(one)) > 1e-3
        if name.startswith("ring"):
            assert made == {"collective-permute"}, name
        if name.startswith("ulysses"):
            assert "all-to-all" in made and "collective-permute" not in made, name


def by_gathering(x, room, begins_p, sizes_p, to_p, came_p, *, axis_name):
    """jax.lax.ragged_all_to_all, which CPUs have not, as its documentation describes it."""
    me = jax.lax.axis_index(axis_name)
    all_px, begins_pp, sizes_pp, to_pp = (jax.lax.all_gather(a, axis_name) for a in (x, begins_p, sizes_p, to_p))
    for device in range(len(all_px)):
        at = jnp.arange(len(x))
        begin, size, to = begins_pp[device, me], sizes_pp[device, me], to_pp[device, me]
        put = jnp.where((at >= begin) & (at < begin + size), at - begin + to, len(room))
        room = room.at[put].set(all_px[device], mode="drop")
    return room


def exchange_both_ways():
    """Products and gradients of choices on one device, on 4 with padded parts, and on 4 with ragged parts."""
    e, top, n, d = 8, 2, 12, 6
    random = np.random.RandomState(0)
    chosen_n = jnp.asarray(random.randint(0, 3, 4 * n * top) * 3 % e)  # some devices get much, and one nothing
    x_nd = jnp.asarray(random.standard_normal((4 * n, d)), jnp.float32)
    w_edd = jnp.asarray(random.standard_normal((e, d, d)), jnp.float32)
    devices = layout({"expert": 4}).make_mesh(jax.devices()[:4])

    def over(where, grouped):
        def local(w_edd, x_nd, chosen_n):
            return with_choices(where, lambda product, x: product(x, w_edd), grouped, e, top, x_nd, chosen_n)

        split = PartitionSpec("expert")
        return jax.shard_map(local, mesh=devices, in_specs=(split,) * 3, out_specs=split, check_vma=False)

    def alone(w_edd, x_nd, chosen_n):
        return jnp.einsum("nd,ndf->nf", jnp.repeat(x_nd, top, axis=0), w_edd[chosen_n])

    def loss(run, w_edd, x_nd):
        return jnp.sum(jnp.sin(run(w_edd, x_nd, chosen_n)))

    jax.lax.ragged_all_to_all = by_gathering
    ways = {"alone": alone}
    for grouped in ("blocks", "ragged"):
        for ragged in (False, True):
            ways[grouped, ragged] = over(Where(("expert",), 4, ragged), grouped)
    found = {}
    for name, run in ways.items():
        found[name] = jax.device_get(jax.jit(jax.value_and_grad(partial(loss, run), argnums=(0, 1)))(w_edd, x_nd))
    return found


@pytest.mark.slow
def test_choices_come_back_from_their_experts_whichever_way_they_went(tmp_path):
    found = on_8_devices(tmp_path, "exchange_both_ways()", "test_sharding_parallel")
    one = found.pop("alone")
    assert np.abs(one[1][0]).max() > 1 and len(found) == 4
    for name, many in found.items():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5, err_msg=str(name)), many, one)


TRAINED = {
    "ring, fsdp and data": ({"data": 2, "fsdp": 2, "context": 2}, {"layout.context": "ring", "model.dropout": 0.1}),
    "ulysses and tensor": ({"context": 2, "tensor": 2}, {"layout.context": "ulysses", "model.position": "t5"}),
    "gpipe, fsdp and tensor": ({"stage": 2, "fsdp": 2, "tensor": 2},
                               {"model.depth": 4, "model.window": 5, "model.window_layers": "alternate"}),
    "circular": ({"stage": 2, "data": 2}, {"model.depth": 4, "layout.pipeline.rounds": 2,
                                           "layout.pipeline.microbatches": 4, "optim.microbatches": 2, "batch": 16}),
    "circular, unrolled": ({"stage": 4}, {"model.depth": 8, "layout.pipeline.rounds": 2, "model.layers": "unroll",
                                          "model.position": "t5"}),
    "dropless experts and fsdp": ({"expert": 4, "fsdp": 2}, {"model.moe.dispatch": "dropless"}),
    "experts with capacity and tensor": ({"expert": 2, "tensor": 2, "data": 2}, {"model.moe.dispatch": "capacity",
                                                                               "model.moe.capacity": 0.7}),
    "experts in stages": ({"expert": 2, "stage": 2}, {"model.moe.balance": 0.0, "model.moe.z": 0.0}),
    "a ring in stages": ({"context": 2, "stage": 2, "data": 2}, {"layout.context": "ring"}),
}  # fmt: skip


def config(changes):
    """`tiny.config`, with experts and rows dealt out over their devices where the changes are about them."""
    made = tiny.config({"optim.eps": 1e-3})
    if any(path.startswith("model.moe") for path in changes):
        experts = {"model.moe.experts": 4, "layout.acts.batch": ("data", "fsdp", "expert")}
        made = update(extend(made, {"model.moe": moe()}), experts)
    return update(made, changes)


def train(changes, mesh):
    """Losses, first and last parameters of two steps, and the smallest part of a leaf that a device has."""
    made = config({**changes, **{f"layout.mesh.{axis}": size for axis, size in {"data": 1, **mesh}.items()}})
    made = program.build(made, vocab=tiny.VOCAB, devices=jax.devices()[: math.prod(mesh.values())])
    state, step, losses = made.compile_init()(), made.lower_step().compile(), []
    start, rows = jax.device_get(state.params), made.config.batch
    for i in range(2):
        lengths = [[3, 4] if row % 2 else [10, 13] for row in range(rows)]
        local = {name: np.asarray(field) for name, field in tiny.packed(lengths, seed=i).items()}
        state, metrics = step(state, made.place(local, rows))
        # What an expert measures is of a microbatch in a pipeline: means of largest shares are not the largest of means.
        losses.append({name: float(s.total) for name, s in metrics.items() if name in ("loss", "nll", "grad_norm")})
    part = min(leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(state.params))
    return start, jax.device_get(state.params), losses, part


def train_both(name):
    mesh, changes = TRAINED[name]
    return train(changes, {"data": 1}), train(changes, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_cut_model_trains_as_a_whole_one_does(name, tmp_path):
    """To the rounding of sums in another order: 1e-5 of a loss, 2e-4 of a parameter."""
    (start, last, losses, whole), many = on_8_devices(tmp_path, f"train_both({name!r})", "test_sharding_parallel")
    mesh = TRAINED[name][0]
    assert whole == 1 and many[3] <= 1 / math.prod(mesh.get(axis, 1) for axis in ("fsdp", "tensor", "stage", "expert"))
    jax.tree.map(np.testing.assert_array_equal, many[0], start)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), many[2], losses)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), many[1], last)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, last)
    assert min(jax.tree.leaves(moved["blocks"])) > 1e-5, "every layer was trained"


def abstract_mesh(axes):
    return jax.sharding.AbstractMesh(tuple(axes.values()), tuple(axes))


@pytest.mark.parametrize(
    "mesh, options, rows, depth, turns, message",
    [
        ({"stage": 4}, {}, 8, 6, 1, "mesh.stage=4 does not divide 6 layers"),
        ({"stage": 2}, {"rounds": 2, "microbatches": 2}, 8, 6, 1, "mesh.stage=2 x 2 rounds does not divide 6 layers"),
        ({"stage": 2}, {"microbatches": 3}, 8, 4, 1, "pipeline.microbatches=3 does not divide a batch of 8 rows"),
        ({"stage": 4}, {"microbatches": 2, "rounds": 2}, 8, 8, 1, "microbatches=2: with rounds=2 at least as many"),
        ({"stage": 4}, {}, 8, 4, 2, "gives a group 1 layers, and layers are of 2 kinds"),
    ],
)
def test_a_pipeline_that_does_not_divide_says_what(mesh, options, rows, depth, turns, message):
    with pytest.raises(UserError, match=re.escape(message)):
        pipeline(layout(mesh, **options), abstract_mesh(mesh)).check(rows, depth, turns)


def test_stages_without_layers_and_illegal_values_are_errors():
    with pytest.raises(UserError, match="no layers go there: --config.layout.params.layers=stage"):
        pipeline(Layout({"stage": 2}, {}, {}), abstract_mesh({"stage": 2}))
    with pytest.raises(UserError, match="layout.context 'rings'; did you mean 'ring'"):
        layout({}, context="rings")
    with pytest.raises(UserError, match="layout.pipeline.rounds=0: at least 1"):
        layout({}, rounds=0)
    assert pipeline(layout({}), abstract_mesh({"stage": 1})) is None
    assert pipeline(layout({}), abstract_mesh({"stage": 4})) == Pipeline(abstract_mesh({"stage": 4}), 4, 4, 1)


@pytest.mark.parametrize(
    "kind, mesh, heads, t, biased, message",
    [
        ("ring", {"context": 4}, 4, 24, True, "ring: it adds no bias to the logits.*use ulysses or gather"),
        ("ring", {"context": 4}, 4, 22, False, "ring: context=4 does not divide rows of 22 positions; use gather"),
        ("ulysses", {"context": 4}, 6, 24, False, "ulysses: context=4 does not divide the 6 heads; use ring or gather"),
        ("ulysses", {"context": 4, "tensor": 2}, 4, 24, False, "the 4 heads, 2 on each of 2 devices"),
        ("ring", {"context": 2, "tensor": 4}, 6, 24, False, "equal share of 6 query heads and 6 key/value heads"),
    ],
)
def test_attention_that_a_layout_cannot_cut_says_why_and_what_can(kind, mesh, heads, t, biased, message):
    x_bthk, segments_bt = jnp.zeros((2, t, heads, 8)), jnp.ones((2, t), jnp.int32)
    bias_hts = jnp.zeros((heads, t, t)) if biased else None
    whole = abstract_mesh(
        {axis: mesh.get(axis, 1) for axis in ("data", "fsdp", "tensor", "context", "expert", "stage")}
    )
    keep = Keep(segments_bt, segments_bt)
    with placed(layout(mesh, context=kind), whole), pytest.raises(UserError, match=message):
        jax.eval_shape(lambda x: attend_over_mesh(dense)(x, x, x, keep, bias_hts=bias_hts), x_bthk)


def test_slices_take_the_axis_that_sends_least():
    sizes = {"data": 4, "fsdp": 8, "tensor": 2, "context": 1, "expert": 1, "stage": 1}
    inside, across = spread(sizes, 2)
    assert (inside["data"], across["data"], inside["fsdp"], across["fsdp"]) == (2, 2, 8, 1)
    assert spread(sizes | {"data": 1, "stage": 2}, 2)[1]["stage"] == 2
    assert spread(sizes | {"data": 1}, 2)[1]["fsdp"] == 2
    with pytest.raises(UserError, match="2 slices divide none of data=1, stage=1, fsdp=3.*layout.mesh.data a multiple"):
        spread(sizes | {"data": 1, "fsdp": 3}, 2)
