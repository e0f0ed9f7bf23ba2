"""One scanned Llama-shaped training step, compiled for four v5e chips by the real TPU compiler, without a TPU."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lmjax.__main__ import main
from lmjax.plan.chips import CHIPS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='the TPU compiler is not installed: pip install "jax[tpu]"'
)

ROOT = Path(__file__).resolve().parents[1]
COMPILER = {  # libtpu asks the cloud's metadata server for what is not said here, and floods stderr
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
    "JAX_OPTIMIZATION_LEVEL": "O0",  # a third of the time; what is sharded, donated and kept comes out the same
}  # fmt: skip
LENGTH = 640  # no other size is, so that a buffer with two of it is queries x keys
SIZES = {"l": 3, "d": 512, "h": 4, "g": 2, "k": 128, "f": 256, "v": 384}
CONFIG = {
    "batch": 8, "data.length": LENGTH, "model.depth": SIZES["l"], "model.width": SIZES["d"], "model.heads": SIZES["h"],
    "model.kv_heads": SIZES["g"], "model.head_width": SIZES["k"], "model.mlp_width": SIZES["f"],
}  # fmt: skip
PARAMETERS = {
    "embed": "vd", "norm/scale": "d", "blocks/attention_norm/scale": "ld", "blocks/mlp_norm/scale": "ld",
    "blocks/attention/query": "ldhk", "blocks/attention/key": "ldgk", "blocks/attention/value": "ldgk",
    "blocks/attention/out": "lhkd", "blocks/mlp/gate": "ldf", "blocks/mlp/up": "ldf", "blocks/mlp/down": "lfd",
}  # fmt: skip

FIELDS = 6  # of a batch

COMPILE = """
import json, sys
from jax.experimental import topologies
from configs.base import language_model
from lmjax import program
from lmjax.config import update

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
built = program.build(update(language_model(), json.loads(sys.argv[1])), vocab=300, devices=devices)
step = built.lower_step().compile()
memory = step.memory_analysis()
json.dump({"hlo": step.as_text(), "arguments": memory.argument_size_in_bytes, "aliased": memory.alias_size_in_bytes,
           "temporary": memory.temp_size_in_bytes, "host": memory.host_temp_size_in_bytes}, sys.stdout)
"""


def compiled(changes: dict) -> dict:
    """A training step: the optimized program of one device, bytes of its arguments, bytes of those it writes over."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", COMPILE, json.dumps({**CONFIG, "layout.mesh.data": 1, **changes})]
    run = subprocess.run(command, env={**environment, **COMPILER}, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


def shapes(hlo: str) -> list[tuple[int, ...]]:
    """The shape of every array in a program's text, scalars left out."""
    return [tuple(map(int, found.split(","))) for found in re.findall(r"\b[a-z]\w*\[([\d,]+)\]", hlo)]


def squares(hlo: str) -> set[tuple[int, ...]]:
    """Shapes with both queries and keys in them."""
    return {shape for shape in shapes(hlo) if shape.count(LENGTH) > 1}


def kernels(hlo: str) -> Counter:
    return Counter(re.findall(r"%splash_mha_([a-z]+)_\w+[.\d]* = ", hlo))


@pytest.mark.parametrize(
    "mesh, parts",
    [
        pytest.param({"fsdp": 4}, {"d": 4}, marks=pytest.mark.slow),
        ({"fsdp": 2, "tensor": 2}, dict.fromkeys("dhgfv", 2)),
    ],
    ids=["fsdp=4", "fsdp=2,tensor=2"],
)
def test_a_device_holds_its_shard_of_the_state_once_and_no_square_of_the_length(mesh, parts):
    step = compiled({f"layout.mesh.{axis}": size for axis, size in mesh.items()})
    assert squares(step["hlo"]) == set()
    assert kernels(step["hlo"]) == {"fwd": 1, "dq": 1, "dkv": 1}, "not one scanned layer with splash attention"

    shards = [tuple(SIZES[x] // parts.get(x, 1) for x in letters) for letters in PARAMETERS.values()]
    state = shards * 3  # parameters and Adam's two moments
    batch = [(CONFIG["batch"] // mesh["fsdp"], LENGTH)] * FIELDS
    header = step["hlo"].splitlines()[0]
    arguments, results = re.search(r"entry_computation_layout={\((.*)\)->\((.*)\)}", header).groups()
    assert Counter(shapes(arguments)) == Counter(state + batch)
    assert Counter(shapes(results)) == Counter(state)
    size = lambda arrays: sum(4 * math.prod(shape) for shape in arrays)  # noqa: E731
    assert 1 <= step["arguments"] / size(state + batch) < 1.01, "padded, or something else comes in too"

    donated = re.findall(r"{(\d+)}: \((\d+), {}, \w+-alias\)", header)
    whole_state = arguments.count("[") - FIELDS
    assert [(int(result), int(argument)) for result, argument in donated] == [(i, i) for i in range(whole_state)]
    assert 1 <= step["aliased"] / size(state) < 1.01


@pytest.mark.slow
def test_dense_attention_does_hold_the_square_of_the_length():
    hlo = compiled({"layout.mesh.fsdp": 4, "model.attention": "dense"})["hlo"]
    assert squares(hlo)
    assert not kernels(hlo)


@pytest.mark.slow
def test_offloaded_activations_leave_the_chips_memory_for_the_hosts():
    many = {"layout.mesh.fsdp": 4, "batch": 64}
    here, there = (compiled({**many, "model.remat": remat}) for remat in ("minimal", "offload"))
    assert here["host"] == 0 < there["host"]
    assert there["temporary"] < here["temporary"] - 0.8 * there["host"]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["splash", "chunked"])
def test_a_window_a_soft_cap_and_documents_compile_without_a_square_of_the_length(attention):
    """Rows are packed, so segments are always there."""
    window = {"model.window": 200, "model.window_layers": "all", "model.attention_softcap": 30.0}
    hlo = compiled({"layout.mesh.fsdp": 4, "model.attention": attention, **window})["hlo"]
    assert squares(hlo) == set()
    assert kernels(hlo) == ({"fwd": 1, "dq": 1, "dkv": 1} if attention == "splash" else {})


TINY = {
    "batch": 8, "data.length": 128, "model.width": 256, "model.heads": 2, "model.kv_heads": 2, "model.layers": "scan",
    "layout.mesh.data": 1, "layout.mesh.fsdp": -1,
}  # fmt: skip


def planned(capsys, monkeypatch, topology: str, *flags: str, **changes) -> dict:
    """The plan of a tiny decoder."""
    monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", "O0")
    words = [f"--config.{path}={value}" for path, value in {**TINY, **changes}.items()]
    assert main(["plan", "configs/lm.py:tiny", f"--topology={topology}", "--json", *flags, *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_is_of_the_chips_that_are_asked_for(capsys, monkeypatch):
    found = planned(capsys, monkeypatch, "v5e:2x2")
    assert found["fits"] and found["devices"] == 4 and found["mesh"] == {"fsdp": 4}
    assert found["options"] and found["memory"]["limit"] == CHIPS["v5e"].memory
    assert 4 * found["memory"]["parameters"] == 4 * found["parameters"], "float32, a quarter on each"
    time = found["time"]
    assert 0 < time["bound"] <= time["estimate"] and 0 < time["mfu"] <= time["bound_mfu"] < 1
    assert 0 < time["exposed"] < time["estimate"]
    assert {row["axis"] for row in found["collectives"]} == {"fsdp"}
    assert not any(row["kind"] == "all-to-all" for row in found["collectives"]), "of looked up columns"
    assert all(0 <= row["exposed"] <= row["seconds"] * 1.001 for row in found["collectives"] if not row["overlapped"])
    assert 0.7 < 4 * found["hlo_flops"] / found["model_flops"] < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_every_chip_can_be_planned_for(topology, capsys, monkeypatch):
    found = planned(capsys, monkeypatch, topology)
    assert found["fits"] and 0 < found["time"]["mfu"] < 1 and found["chip"] == CHIPS[topology.split(":")[0]].name


@pytest.mark.slow
def test_two_slices_reduce_their_gradients_over_the_network_between_them(capsys, monkeypatch):
    found = planned(capsys, monkeypatch, "v5e:2x2", "--slices=2", **{"layout.mesh.data": 2, "batch": 16})
    assert found["devices"] == 8 and found["mesh"] == {"data": 2, "fsdp": 4}
    rows = {(row["kind"], row["axis"]): row["bytes"] for row in found["collectives"]}
    assert rows["all-reduce", "data"] >= found["memory"]["parameters"] / 2, "bfloat16 at least"
    assert not any("data" in axis for kind, axis in rows if kind == "all-gather"), "parameters stay inside of a slice"


@pytest.mark.slow
def test_a_plan_that_does_not_fit_says_by_how_much_and_what_to_change_first(capsys, monkeypatch):
    found = planned(capsys, monkeypatch, "v5e:2x2", **{"batch": 65536, "model.remat": "minimal"})
    assert not found["fits"] and found["memory"]["room"] < 0
    assert "model.remat=full" in found["advice"][0]
