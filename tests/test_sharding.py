"""Dimension names and layouts: every mesh gives what one device gives, and every mistake is told by name."""

import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from jax.sharding import AbstractMesh, PartitionSpec

from lmjax import program
from lmjax.config import update
from lmjax.errors import UserError
from lmjax.sharding import Layout, constrain, dims_of, distributed, param, placed, unbox

DEFAULT = tiny.config().layout
LAYOUTS = {
    "one device": {"data": 1},
    "data x8": {"data": 8},
    "fsdp x8": {"data": 1, "fsdp": 8},
    "fsdp 4 x tensor 2": {"data": 1, "fsdp": 4, "tensor": 2},
    "data 2 x fsdp 2 x tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
}
ADAM = {"optim.eps": 1e-3}  # a gradient that is nothing but rounding, as of a key's bias, must not become a step
RECIPES = {
    # Llama-shaped, with dropout, microbatches of unequal weight and documents in one row.
    "llama": ADAM | {"model.kv_heads": 2, "model.tied": False, "model.qk_norm": True,
                     "model.dropout": 0.1, "batch": 16, "optim.microbatches": 2},
    # GPT-2-shaped, unrolled, with the cross-entropy in chunks.
    "gpt2": ADAM | {"model.mlp": "gelu", "model.norm": "layernorm", "model.bias": True, "model.position": "learned",
                    "model.layers": "unroll", "model.remat": "full", "objective.chunk": 64, "objective.label_smoothing": 0.1},
}  # fmt: skip
WHERE = {"llama": tuple(LAYOUTS), "gpt2": ("one device", "fsdp 4 x tensor 2")}
STEPS = 3


def rows(batch):
    """Documents of unequal lengths; every other row, which is one of two microbatches, is mostly padding."""
    return [[3, 4] if row % 2 else [10, 13] for row in range(batch)]


def build(recipe, mesh):
    """The program on as many devices as the mesh has."""
    config = update(tiny.config(RECIPES[recipe]), {f"layout.mesh.{axis}": size for axis, size in mesh.items()})
    return program.build(config, vocab=tiny.VOCAB, devices=jax.devices()[: math.prod(mesh.values())])


def train(recipe, name):
    """Losses and last parameters of three steps, on the host, and how many devices and what part of a leaf they had."""
    made = build(recipe, LAYOUTS[name])
    state, step, losses = made.compile_init()(), made.lower_step().compile(), []
    start, batch = jax.device_get(state.params), made.config.batch
    for i in range(STEPS):
        local = {name: np.asarray(field) for name, field in tiny.packed(rows(batch), seed=i).items()}
        state, metrics = step(state, made.place(local, batch))
        losses.append({name: (float(s.total), float(s.weight)) for name, s in metrics.items()})
    leaves = jax.tree.leaves(state.params)
    return {"init": start, "params": jax.device_get(state.params), "losses": losses,
            "devices": {len(leaf.sharding.device_set) for leaf in leaves},
            "part": min(leaf.addressable_shards[0].data.size / leaf.size for leaf in leaves)}  # fmt: skip


def train_everywhere(recipe):
    return {name: train(recipe, name) for name in WHERE[recipe]}


def initialise_everywhere():
    meshes = [{"data": 1, "fsdp": count} for count in (1, 2, 4, 8)]
    return [jax.device_get(build("llama", mesh).compile_init()().params) for mesh in meshes]


def on_8_devices(folder, call, module="test_sharding"):
    """The value of a call of a function of a test module, made in a process with 8 devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": runs.fake(8)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    code = f"import pickle, {module}\nvalue = {module}.{call}\npickle.dump(value, open('value', 'wb'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return pickle.loads((folder / "value").read_bytes())


@pytest.mark.parametrize("recipe", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_every_layout_trains_as_one_device_does(recipe, tmp_path):
    """To the rounding of sums in another order: 1e-5 of a loss, 2e-4 of a parameter."""
    found = on_8_devices(tmp_path, f"train_everywhere({recipe!r})")
    one = found.pop("one device")
    for name, many in found.items():
        axes = LAYOUTS[name]
        assert many["devices"] == {8} and many["part"] == 1 / axes.get("fsdp", 1) / axes.get("tensor", 1), name
        close = partial(np.testing.assert_allclose, err_msg=name)
        jax.tree.map(np.testing.assert_array_equal, many["init"], one["init"])
        jax.tree.map(partial(close, rtol=1e-5, atol=1e-6), many["losses"], one["losses"])
        jax.tree.map(partial(close, rtol=2e-4, atol=2e-5), many["params"], one["params"])
    for params in (one["init"], one["params"]):
        params["blocks"]["attention"].pop("key_bias", None)  # it shifts all logits of a softmax alike: no gradient
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one["init"], one["params"])
    assert min(jax.tree.leaves(moved)) > 1e-5, "every parameter was trained"


def test_random_initialisation_is_the_same_bits_on_1_2_4_and_8_devices(tmp_path):
    one, *others = on_8_devices(tmp_path, "initialise_everywhere()")
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, one, other)
    draws = [leaf for leaf in jax.tree.leaves(one) if leaf.std() > 0]
    assert len(draws) >= 8 and not np.allclose(one["blocks"]["mlp"]["up"][0], one["blocks"]["mlp"]["up"][1])


def layout(mesh=None, params=None, acts=None):
    return Layout(mesh or {}, params or {}, acts or {})


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"mesh": {"datta": 8}}, "layout.mesh 'datta'; did you mean 'data'.*Legal: data, fsdp, tensor"),
        ({"params": {"embd": ("fsdp",)}}, "layout.params 'embd'; did you mean 'embed'"),
        ({"acts": {"d": ("fsdp",)}}, "layout.acts 'd'.*Legal: batch, length"),
        ({"params": {"embed": ("fdsp",)}}, "layout.params.embed 'fdsp'; did you mean 'fsdp'"),
        ({"acts": {"batch": ("data", "tensr")}}, "layout.acts.batch 'tensr'; did you mean 'tensor'"),
    ],
)
def test_a_misspelt_name_in_a_layout_is_an_error(tables, message):
    with pytest.raises(UserError, match=message):
        layout(**tables)


def test_an_axis_that_shards_two_dimensions_of_one_array_is_an_error():
    twice = layout(params={"embed": ("fsdp",), "mlp": ("tensor", "fsdp"), "heads": ("tensor",)})
    assert twice.spec("params", "dhk") == PartitionSpec("fsdp", "tensor", None)
    with pytest.raises(UserError, match="both embed and mlp over mesh axis 'fsdp'.*'df'"):
        twice.spec("params", "df")
    with pytest.raises(UserError, match="both embed and embed over mesh axis 'fsdp'"):
        layout(params={"embed": ("fsdp", "fsdp")}).spec("params", "d")


def test_specs_follow_the_letters():
    made = Layout(DEFAULT.mesh, DEFAULT.params, DEFAULT.acts)
    assert made.spec("params", "ldf") == PartitionSpec("stage", "fsdp", "tensor")
    assert made.spec("params", "vd") == PartitionSpec("tensor", "fsdp")
    assert made.spec("acts", "btd") == PartitionSpec(("data", "fsdp"), "context", None)
    assert layout().spec("params", "vd") == PartitionSpec(None, None)


@pytest.mark.parametrize("letters", ["dy", "d f", "D"])
def test_an_unknown_dimension_letter_is_an_error(letters):
    with pytest.raises(ValueError, match="unknown dimension letter"):
        layout().spec("params", letters)
    with pytest.raises(ValueError, match="unknown dimension letter|do not name the shape"):
        Holder(letters, (2, 3)).init(jax.random.key(0))


class Holder(nn.Module):
    dims: str
    shape: tuple

    @nn.compact
    def __call__(self):
        return param(self, "weight", self.dims, self.shape, nn.initializers.ones)


@pytest.mark.parametrize("dims, shape", [("d", (2, 3)), ("dfk", (2, 3)), ("dd", (2, 2))])
def test_letters_that_do_not_name_a_parameters_shape_one_by_one_are_an_error(dims, shape):
    with pytest.raises(ValueError, match=r"parameter 'weight': dimensions .* do not name the shape"):
        Holder(dims, shape).init(jax.random.key(0))


def test_parameters_know_their_letters():
    boxed = Holder("df", (2, 3)).init(jax.random.key(0))["params"]
    assert dims_of(boxed) == {"weight": "df"}
    assert unbox(boxed)["weight"].shape == (2, 3) and unbox(boxed)["weight"].dtype == jnp.float32
    module = tiny.model({"model.bias": True, "model.qk_norm": True, "model.tied": False, "model.norm": "layernorm"})
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), tiny.packed([[4]], length=4), train=False)["params"])
    shapes, dims = unbox(boxed), dims_of(boxed)
    jax.tree.map(lambda leaf, letters: len(leaf.shape) == len(letters) or pytest.fail(letters), shapes, dims)
    assert all(letters[0] == "l" for letters in jax.tree.leaves(dims["blocks"]))
    assert (dims["embed"], dims["blocks"]["attention"]["query"], dims["blocks"]["mlp"]["down"]) == ("vd", "ldhk", "lfd")


def test_sizes_that_do_not_divide_name_the_parameter_the_dimension_and_the_way_out():
    mesh = AbstractMesh((2, 4), ("fsdp", "tensor"))
    made = layout(params={"embed": ("fsdp", "tensor"), "heads": ("tensor",)})
    assert made.sharding(mesh, "params", "d", (16,), "x").spec == PartitionSpec(("fsdp", "tensor"))
    abstract, dims = {"blocks": {"query": jax.ShapeDtypeStruct((6, 3), jnp.float32)}}, {"blocks": {"query": "kh"}}
    with pytest.raises(UserError) as error:
        made.param_shardings(mesh, abstract, dims)
    for part in ("parameter blocks/query", "heads dimension of 3", "divisible by 4", "tensor=4",
                 "--config.layout.params.heads='()'"):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"its batch dimension of 12 is not divisible by 8 \(mesh fsdp=2 x tensor=4\)"):
        layout(acts={"batch": ("fsdp", "tensor")}).sharding(mesh, "acts", "bt", (12, 5), "batch")


@pytest.mark.parametrize(
    "mesh, message",
    [
        ({"data": 3}, "layout.mesh data=3 needs 3 devices, and there are 4.*--config.layout.mesh.data=-1"),
        ({"data": -1, "tensor": 3}, "data=-1, tensor=3 needs a multiple of 3 devices, and there are 4"),
        ({"data": -1, "fsdp": -1}, "at most one axis may be -1"),
        ({"data": 0}, "sizes are positive"),
        ({"data": -2}, "sizes are positive"),
        ({}, "one device needs 1 devices, and there are 4"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_an_error(mesh, message):
    with pytest.raises(UserError, match=message):
        layout(mesh).make_mesh(jax.devices()[:1] * 4)


def test_a_mesh_has_every_axis_in_order():
    mesh = layout({"tensor": 1, "data": -1}).make_mesh(jax.devices()[:1])
    assert list(mesh.shape.items()) == [(axis, 1) for axis in ("data", "fsdp", "tensor", "context", "expert", "stage")]


def test_activations_are_constrained_inside_a_layout_only():
    x = jnp.zeros((2, 3))
    assert constrain(x, "bt") is x
    with pytest.raises(ValueError, match="do not name the shape"):
        constrain(x, "btd")
    made = layout(acts={"batch": ("data",)})
    with placed(made, made.make_mesh(jax.devices()[:1])):
        assert constrain(x, "bt") is x  # one device


@pytest.mark.parametrize(
    "variables, message",
    [
        (("localhost:1", None, None), "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        (("localhost:1", "2", "2"), "the first below the second"),
        (("localhost:1", "two", "0"), "whole numbers"),
    ],
)
def test_half_a_start_of_several_processes_is_refused(monkeypatch, variables, message):
    for name, value in zip(distributed.VARIABLES, variables, strict=True):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=message):
        distributed.start()


def test_alone_nothing_is_started(monkeypatch):
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    distributed.start()
    assert not jax.distributed.is_initialized()
