"""`lmjax plan`: programs read and walked, collectives on their axes, searches, and plans for this machine."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from configs.base import language_model
from lmjax.__main__ import main
from lmjax.config import update
from lmjax.errors import UserError
from lmjax.plan import collectives, hlo, search, topology
from lmjax.plan.advice import advise
from lmjax.plan.chips import CHIPS
from lmjax.plan.timeline import Walk, place

V5E = CHIPS["v5e"]


def network(data=2, fsdp=4, sides=(2, 4), wraps=4):
    """A mesh of data x fsdp, one row of the torus for each place along data."""
    count = data * fsdp
    coordinates = np.stack(np.unravel_index(np.arange(count), sides)).T
    return collectives.Network(
        ("data", "fsdp"), (data, fsdp), coordinates, np.zeros(count, int), sides, wraps, 10.0, 1.0
    )


def walked(function, *shapes):
    """The account of a function compiled for this CPU."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*arguments).compile()
    return Walk(hlo.parse(compiled.as_text()), V5E, network(1, 1, (1, 1))).run(), compiled


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    account, compiled = walked(layers, (8, 16), (5, 16, 16))
    assert account.flops == 5 * 2 * 8 * 16 * 16
    assert compiled.cost_analysis()["flops"] < account.flops, "the compiler's own count has become right: use it"


def test_a_convolution_does_not_multiply_its_padding():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (2, 1), ((2, 1), (0, 2)), rhs_dilation=(1, 2),
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip

    account, compiled = walked(convolve, (3, 7, 9, 4), (3, 2, 4, 6))
    ones = convolve(np.ones((3, 7, 9, 4), np.float32), np.ones((3, 2, 4, 6), np.float32))
    assert account.flops == 2 * float(np.sum(ones)), "every product of ones is one multiplication"


TEXT = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: f32[100]) -> f32[400] {
  %p = f32[100]{0} parameter(0)
  %start = (f32[100]{0}, f32[400]{0}) all-gather-start(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %work = f32[100]{0} fusion(%p), kind=kLoop, calls=%nothing, backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  %whole = f32[400]{0} all-gather-done(%start)
  ROOT %all = f32[400]{0} all-reduce(%whole), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}
"""


def exposed(share):
    """Seconds waited for the gather and the reduction when there is work for this share of the gather's time."""
    gather = 1600 * 3 / 4 / 20  # a ring of 4 both ways over links of 10 bytes a second
    chip = V5E._replace(clock=1.0, hbm=1e-6)  # so slow a memory that the cycles decide
    module = hlo.parse(TEXT.replace("CYCLES", str(int(gather * share))))
    account = Walk(module, chip, network()).run()
    return account, gather


@pytest.mark.parametrize("share", [0.25, 1.0, 1.5])
def test_a_collective_that_has_started_is_exposed_by_what_it_takes_longer_than_the_work_beside_it(share):
    account, gather = exposed(share)
    first, second = account.collectives
    assert (first.what.kind, first.what.axis, first.overlapped) == ("all-gather", "fsdp", True)
    assert first.waited == pytest.approx(max(0, 1 - share) * gather, abs=1)
    assert (second.what.kind, second.what.axis, second.overlapped) == ("all-reduce", "data", False)
    assert second.waited == second.what.seconds > 0
    assert account.seconds == pytest.approx(max(share, 1) * gather + second.waited, abs=1)


SLICES = """HloModule step, is_scheduled=true

ENTRY %main (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0)
  %after = token[] after-all()
  %send = (f32[100]{0}, u32[], token[]) send(%p, %after), frontend_attributes={TYPE,ATTRIBUTES}
  %sent = token[] send-done(%send)
  %receive = (f32[100]{0}, u32[], token[]) recv(%after), frontend_attributes={ATTRIBUTES}
  %received = (f32[100]{0}, token[]) recv-done(%receive)
  ROOT %sum = f32[100]{0} get-tuple-element(%received), index=0
}
"""


def test_a_reduction_between_slices_goes_over_their_network_along_its_axis():
    text = SLICES.replace("TYPE", '_xla_megascale_transfer_type="ALL_REDUCE"')
    text = text.replace("ATTRIBUTES", '_xla_host_transfer_rendezvous="all-reduce.1_0"')
    account = Walk(hlo.parse(text), V5E, network()._replace(slices=np.repeat([0, 1], 4))).run()
    (one,) = account.collectives
    assert (one.what.kind, one.what.axis, one.what.devices) == ("all-reduce", "data", 2)
    assert one.waited == account.seconds == 2 * 400 / 2 / 1.0


@pytest.mark.parametrize("groups, expected", [
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", [0, 4]),
    ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", [0, 1, 2, 3]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1':(2)2}", [0, 1]),
    ("source_target_pairs={{3,4},{4,3}}", [3, 4]),
    ("replica_groups={}", list(range(8))),
])  # fmt: skip
def test_every_spelling_of_groups_is_read(groups, expected):
    assert collectives.first_group(groups, 8) == expected


def test_collectives_cost_what_rings_do():
    ring, line = [0, 1, 2, 3], [0, 4]  # a row that closes; two places that do not
    seconds = {kind: collectives.cost(kind, 800.0, ring, network())[0] for kind in collectives.KINDS}
    assert seconds["all-gather"] == seconds["reduce-scatter"] == 800 * 3 / 4 / 20
    assert seconds["all-reduce"] == 2 * seconds["all-gather"]
    share = collectives.cost("all-to-all", 800.0 / 4, ring, network())[0]  # of the same array, cut four ways
    assert share == pytest.approx(seconds["all-gather"] * 4 / 3 / 4), "How to Scale Your Model: a quarter of a gather"
    assert collectives.cost("all-gather", 800.0, line, network())[0] == 800 / 2 / 10
    apart = network()._replace(slices=np.repeat([0, 1], 4))
    assert collectives.cost("all-gather", 800.0, line, apart)[0] == 800 / 2 / 1.0, "between slices"
    assert collectives.cost("all-gather", 800.0, ring, apart) == collectives.cost("all-gather", 800.0, ring, network())


def test_a_place_in_the_model_is_without_what_transformations_add():
    scope = (
        "jit(train_step)/transpose(jvp(Decoder))/while/body/closed_call/checkpoint/Block/mlp/btf,fd->btd/dot_general"
    )
    assert place(scope) == "backward Block/mlp"
    assert place("jit(train_step)/jvp(Decoder)/while/body/Block/attention/mul") == "forward Block/attention"


@pytest.mark.parametrize("text, said", [
    ("v5x:2x2", "v5e:SHAPE"), ("v5e", "16x16"), ("v5e:2x2x2", "16x16"), ("v4:4x4", "2x2x1"), ("cpu:0", "cpu:N"),
    ("gpu:2", "gpu"),
])  # fmt: skip
def test_an_unknown_topology_is_refused_with_those_that_are_known(text, said):
    with pytest.raises(UserError, match=said):
        topology.parse(text)


def test_a_topology_has_as_many_devices_as_its_chips_have():
    assert topology.parse("v5e:16x16").devices == topology.parse("v5e:16x16").devices == 256
    assert topology.parse("tpu7x:2x2x1").devices == 8
    assert topology.parse("v5p:2x2x1", slices=2).devices == 8
    assert topology.parse("v4:4x4x4").name == "v4:4x4x4"


def test_a_search_begins_with_the_config_and_only_tries_what_divides_the_batch():
    config = update(
        language_model(), {"batch": 12, "model.remat": "full", "layout.mesh.data": 1, "layout.mesh.fsdp": -1}
    )
    tried = list(search.candidates(config, topology.parse("cpu:4")))
    assert tried[0].overrides.items() >= {"model.remat": "full", "optim.microbatches": 1, "layout.mesh.fsdp": 4}.items()
    assert len({one.words for one in tried}) == len(tried) > 12
    for one in tried:
        assert np.prod(list(one.mesh.values())) == 4
        assert 12 % (one.microbatches * one.mesh["data"] * one.mesh["fsdp"]) == 0


PLAN = {"fits": False, "devices": 8, "mesh": {"data": 8}, "remat": "minimal", "batch": 32, "microbatches": 1,
        "memory": {"limit": 100.0, "parameters": 30.0, "optimizer": 60.0, "average": 0.0, "total": 120.0}}  # fmt: skip


def test_advice_begins_with_what_is_large():
    assert "layout.mesh.fsdp=-1" in advise(PLAN)[0], "the state is"
    sharded = PLAN | {"mesh": {"fsdp": 8}, "memory": PLAN["memory"] | {"parameters": 3.0, "optimizer": 6.0}}
    assert "model.remat=full" in advise(sharded)[0], "the activations are"
    assert "optim.microbatches=2" in advise(sharded | {"remat": "full"})[0]
    hopeless = PLAN | {"mesh": {"fsdp": 8}, "memory": PLAN["memory"] | {"parameters": 130.0, "optimizer": 260.0}}
    assert any("at least 32 such devices" in line for line in advise(hopeless))


SMALL = {"batch": 8, "data.length": 32, "model.width": 32, "model.heads": 2, "model.layers": "scan"}
WORDS = [f"--config.{path}={value}" for path, value in SMALL.items()]


def planned(capsys, *words):
    assert main(["plan", "configs/lm.py:tiny", *WORDS, *words]) == 0
    return capsys.readouterr().out


def test_a_plan_for_two_devices_says_what_each_holds_and_sends(capsys):
    found = json.loads(planned(capsys, "--topology=cpu:2", "--json", "--config.layout.mesh.data=1",
                               "--config.layout.mesh.fsdp=2"))  # fmt: skip
    assert found["fits"] and found["mesh"] == {"fsdp": 2} and found["time"]["estimate"] is None
    memory = found["memory"]
    assert 2 * memory["parameters"] == 4 * found["parameters"], "float32, half of them on each device"
    assert memory["optimizer"] >= 2 * memory["parameters"]
    assert memory["activations"] > 0
    assert {row["axis"] for row in found["collectives"]} == {"fsdp"}
    assert {"all-gather", "all-reduce"} <= {row["kind"] for row in found["collectives"]}
    # A device computes its half, once more what remat forgot, and nothing like the other half of the products.
    assert 0.9 < 2 * found["hlo_flops"] / found["model_flops"] < 1.6


@pytest.mark.parametrize("words, said", [
    (["plan"], "plan what"),
    (["plan", "configs/lm.py:tiny", "--topology=v5e:2x2x2"], "16x16"),
    (["plan", "--diff", "here", "there"], "here is no run directory"),
    (["plan", "configs/lm.py:tiny", "--diff", "a", "b"], "two run directories"),
])  # fmt: skip
def test_mistakes_are_said(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_finds_what_is_fastest_and_what_is_smallest(capsys):
    found = json.loads(planned(capsys, "--topology=cpu:2", "--search", "--limit=4", "--json"))
    fitting = [one for one in found["tried"] if one["plan"].get("fits")]
    assert len(found["tried"]) == 4 and fitting
    total = {one["words"]: one["plan"]["memory"]["total"] for one in fitting}
    time = {one["words"]: search.time_of(one["plan"]) for one in fitting}
    assert time[found["best"]] == min(time.values())
    smallest = min(total, key=lambda words: (total[words], time[words]))
    assert {found["best"], smallest} <= {one["words"] for one in fitting if one["pareto"]}


@pytest.mark.slow
def test_a_diff_names_what_changed_between_the_programs_of_two_runs(capsys, tmp_path):
    text = runs.write_text(tmp_path / "text")
    for name, changes in (("a", {}), ("b", {"model.mlp": "gelu"}), ("c", {"eval.sample_length": 3})):
        assert runs.train(text, tmp_path / name, {"steps": 1} | changes) == 0
    capsys.readouterr()
    assert main(["plan", "--diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["same"] and found["config"] == [["model.mlp", "swiglu", "gelu"]]
    assert found["notes"] == [], "a plan compiles the program that a run runs"
    assert any("mlp" in name for name in found["parts"])
    assert not any("attention" in name and a["flops"] != b["flops"] for name, (a, b) in found["parts"].items())
    assert main(["plan", "--diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert "the same program" in out and "eval.sample_length: 0 -> 3" in out
