"""Checkpoints: what is restored is what was saved, bit for bit, or it is refused by name."""

import gc
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from lmjax.checkpoint import CheckpointError, Checkpoints
from lmjax.provenance import params_sha256

REPOSITORY = pathlib.Path(__file__).parents[1]


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: tuple


class OtherState(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: tuple


def make_state(seed=0, width=6):
    w_df = jax.random.normal(jax.random.key(seed), (5, width))
    blocks = {"query": w_df, "norm": w_df[0].astype(jnp.bfloat16)}
    params = {"blocks": blocks, "mask": w_df > 0, "none": jnp.ones((0, 3))}
    return State(jnp.int32(seed), params, optax.adamw(1e-3).init({"w": w_df}), ())


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = jax.tree_util.tree_leaves(found)[[p for p, _ in jax.tree_util.tree_leaves_with_path(found)].index(path)]
        assert other.dtype == leaf.dtype and other.shape == leaf.shape, path
        assert np.asarray(other).tobytes() == np.asarray(leaf).tobytes(), path


def contents(folder):
    """Every name below `folder` with the hash of its bytes."""
    paths = sorted(pathlib.Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def save_all(folder, *steps, **options):
    checkpoints = Checkpoints(folder, **{"keep": 10, **options})
    for step in steps:
        checkpoints.save(step, make_state(step), {"batch": step})
    checkpoints.close()


def restore(folder, **options):
    warnings = []
    checkpoints = Checkpoints(folder, warn=warnings.append)
    try:
        return checkpoints.restore(abstract(make_state()), **options), warnings
    finally:
        checkpoints.close()


def largest_file(folder):
    files = (path for path in (folder / "state" / "ocdbt.process_0" / "d").iterdir() if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def start(code, *arguments, devices=1):
    """Starts `code` in a Python of its own with `devices` fake devices."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = runs.fake(devices)
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(child):
    """The words of the last line that the child printed."""
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out.splitlines()[-1].split()


def test_a_restored_state_has_the_same_bits_dtypes_and_host_facts(tmp_path):
    state, host = make_state(3), {"batch": 300, "best": float("inf"), "seen": float("nan"), "names": ["ä", None]}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(300, state, host)
    host["batch"] = -1  # the loop goes on and changes it
    found = checkpoints.restore(abstract(state))
    checkpoints.close()
    assert_same_bits(found.state, state)
    assert isinstance(found.state, State) and found.step == 300
    assert found.host["batch"] == 300 and found.host["best"] == float("inf") and np.isnan(found.host["seen"])
    assert found.host["names"] == ["ä", None]


def test_the_stored_state_does_not_depend_on_python_class_names(tmp_path):
    save_all(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(OtherState(*abstract(make_state())))
    checkpoints.close()
    assert isinstance(found.state, OtherState)
    assert_same_bits(State(*found.state), make_state(1))
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"blocks/query" in stored and b"ScaleByAdam" not in stored


def test_donating_the_state_while_it_is_written_does_not_change_what_is_written(tmp_path):
    step = jax.jit(lambda w: w * 1.5 + 1, donate_argnums=0)
    w = jax.random.normal(jax.random.key(0), (400_000,))
    before = np.array(w)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"w": w}, {})
    for _ in range(20):
        w = step(w)
    found = checkpoints.restore({"w": jax.ShapeDtypeStruct(before.shape, before.dtype)})
    checkpoints.close()
    np.testing.assert_array_equal(found.state["w"], before)
    assert np.abs(np.asarray(w) - before).max() > 1


def truncate(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size - 1)
    return path.name


def flip_a_bit(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def remove_a_file(folder):
    path = largest_file(folder)
    path.unlink()
    return path.name


def change_the_host_facts(folder):
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace('"batch": 2', '"batch": 7'))
    return "checkpoint.json"


def remove_the_seal(folder):
    (folder / "seal.json").unlink()
    return "seal.json"


def take_the_seal_of_another(folder):
    shutil.copy(folder.parent / "00000001" / "seal.json", folder / "seal.json")
    return "seal.json"


def break_the_seal(folder):
    os.truncate(folder / "seal.json", 100)
    return "seal.json"


def reseal_other_bytes(folder):
    seal = json.loads((folder / "seal.json").read_text())
    name = flip_a_bit(folder)
    path = next(key for key in seal["files"] if key.endswith(name))
    seal["files"][path]["sha256"] = hashlib.sha256((folder / path).read_bytes()).hexdigest()
    (folder / "seal.json").write_text(json.dumps(seal))
    return "seal.json"


def put_a_file_in_its_place(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    return folder.name


def put_another_step_in_its_place(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "00000001", folder)
    return "seal.json"


DAMAGES = [
    truncate,
    flip_a_bit,
    remove_a_file,
    change_the_host_facts,
    remove_the_seal,
    take_the_seal_of_another,
    break_the_seal,
    reseal_other_bytes,
    put_a_file_in_its_place,
    put_another_step_in_its_place,
]


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save_all(folder, 1, 2)
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(damage, two_saved, tmp_path):
    folder = tmp_path / "moved"  # and so a run folder may be copied elsewhere
    shutil.copytree(two_saved, folder)
    assert restore(folder)[0].step == 2
    name = damage(folder / "00000002")
    before = contents(folder)
    found, warnings = restore(folder)
    assert found.step == 1 and found.host == {"batch": 1}
    assert_same_bits(found.state, make_state(1))
    assert len(warnings) == 1 and name in warnings[0] and "00000002" in warnings[0] and "step 1" in warnings[0]
    assert contents(folder) == before


def test_when_no_checkpoint_can_be_read_it_stops_and_writes_over_nothing(two_saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    names = [truncate(folder / "00000001"), remove_the_seal(folder / "00000002")]
    before = contents(folder)
    with pytest.raises(CheckpointError) as caught:
        restore(folder)
    assert all(name in str(caught.value) for name in [*names, "00000001", "00000002", "Nothing was changed"])
    assert contents(folder) == before


def test_a_chosen_step_is_restored_or_refused_never_replaced_by_another(two_saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    found, warnings = restore(folder, step=1)
    assert found.step == 1 and not warnings
    truncate(folder / "00000001")
    with pytest.raises(CheckpointError, match="00000001 is damaged"):
        restore(folder, step=1)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7.*1, 2"):
        restore(folder, step=7)


def test_a_damaged_checkpoint_is_set_aside_and_does_not_count_as_kept(two_saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    flip_a_bit(folder / "00000002")
    checkpoints = Checkpoints(folder, keep=2, warn=lambda text: None)
    assert checkpoints.restore(abstract(make_state())).step == 1
    checkpoints.save(2, make_state(2), {})
    checkpoints.save(3, make_state(3), {})
    checkpoints.close()
    assert sorted(os.listdir(folder)) == ["00000002", "00000003", "damaged.00000002"]
    for name in ("00000002", "00000003"):
        shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match="damaged.00000002"):
        restore(folder)


@pytest.mark.parametrize("names", [None, [], ["notes", "1", "00000002 (copy)", "best", "00000002.zip"]])
def test_without_checkpoints_there_is_nothing_to_restore(names, tmp_path):
    folder = tmp_path / "checkpoints"
    for name in names or []:
        (folder / name).mkdir(parents=True)
    if names == []:
        folder.mkdir()
    assert restore(folder) == (None, [])


def test_an_unfinished_save_is_passed_over_with_a_word_and_cleared_by_the_next_save(two_saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    (folder / "tmp.00000003" / "state.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    shutil.copytree(folder / "00000001", folder / "old.00000000")
    found, warnings = restore(folder)
    assert found.step == 2 and len(warnings) == 1 and "step 3" in warnings[0] and "step 2" in warnings[0]
    assert "tmp.00000003" in os.listdir(folder)  # a reader clears nothing: the writer may be at it
    save_all(folder, 4)
    assert sorted(os.listdir(folder)) == ["00000001", "00000002", "00000004"]


def test_only_an_unfinished_first_save_means_to_begin_again(tmp_path):
    (tmp_path / "tmp.00000003" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    found, warnings = restore(tmp_path)
    assert found is None and "step 3" in warnings[0]


def test_a_save_that_was_sealed_but_not_yet_renamed_counts(two_saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    (folder / "00000002").rename(folder / "tmp.00000002")
    assert restore(folder)[0].step == 2
    save_all(folder, 4)
    assert sorted(os.listdir(folder)) == ["00000001", "00000002", "00000004"]


KILLED = """
    import sys
    import jax.numpy as jnp
    from lmjax.checkpoint import Checkpoints

    checkpoints = Checkpoints(sys.argv[1], keep=2, warn=lambda text: None)
    for step in range(int(sys.argv[2]), 10_000):
        checkpoints.save(step, {"w": jnp.full((300_000,), step, jnp.float32)}, {"batch": step})
        print("saving", step, flush=True)
        if step % 3 == 0:
            checkpoints.wait()
            print("saved", step, flush=True)
"""


def test_kill_9_at_any_moment_of_a_save_loses_no_finished_checkpoint(tmp_path):
    saved = 0
    for lines in (1, 2, 5):  # killed right after so many lines: in a save, in its sealing, in a deletion
        with start(KILLED, tmp_path, saved + 1) as child:
            for _ in range(lines):
                word, step = child.stdout.readline().split()
                saved = max(saved, int(step) if word == "saved" else 0)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                word, step = line.split()
                saved = max(saved, int(step) if word == "saved" else 0)
        checkpoints = Checkpoints(tmp_path, warn=lambda text: None)
        found = checkpoints.restore({"w": jax.ShapeDtypeStruct((300_000,), jnp.float32)})
        checkpoints.close()
        assert (found.step if found else 0) >= saved
        if found:
            assert found.host == {"batch": found.step}
            np.testing.assert_array_equal(found.state["w"], np.full(300_000, found.step, np.float32))
            saved = found.step


def test_a_state_that_does_not_fit_names_the_first_parameter_that_differs(two_saved):
    checkpoints = Checkpoints(two_saved)
    wanted = abstract(make_state())
    wider = abstract(make_state(width=7))
    with pytest.raises(CheckpointError, match=r"params/blocks/norm is bfloat16\[6\] in it, but bfloat16\[7\]"):
        checkpoints.restore(wider)
    half = wanted._replace(step=jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(CheckpointError, match=r"step is int32\[\] in it, but float32\[\] is wanted"):
        checkpoints.restore(half)
    with pytest.raises(CheckpointError, match="it has no ema/w"):
        checkpoints.restore(wanted._replace(ema={"w": wanted.step}))
    with pytest.raises(CheckpointError, match="it also has opt_state/0/count"):
        checkpoints.restore(wanted._replace(opt_state=()))
    found = checkpoints.restore({"params": wanted.params}, unused="ignore")
    checkpoints.close()
    assert_same_bits(found.state, {"params": make_state(2).params})


def test_the_newest_and_the_best_are_kept_also_after_a_restart(tmp_path):
    metrics = {1: float("nan"), 2: 1.0, 3: 4.0, 4: 5.0, 5: 2.0, 6: None, 7: 9.0, 8: 9.0}
    for step, metric in metrics.items():
        checkpoints = Checkpoints(tmp_path, keep=2, best=2)  # every save by another process, so to say
        checkpoints.save(step, {"w": jnp.ones(3)}, {}, metric)
        checkpoints.close()
    assert Checkpoints(tmp_path).steps() == {2: 1.0, 5: 2.0, 7: 9.0, 8: 9.0}
    assert Checkpoints(tmp_path, best=2).best() == [2, 5]
    assert Checkpoints(tmp_path, best=3, mode="max").best() == [7, 8, 5]


def test_a_step_saved_again_replaces_the_first_and_an_older_step_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {"w": jnp.zeros(3)}, {"try": 1})
    checkpoints.save(5, {"w": jnp.ones(3)}, {"try": 2})
    checkpoints.wait()
    assert os.listdir(tmp_path) == ["00000005"]
    with pytest.raises(CheckpointError, match="already holds step 5"):
        checkpoints.save(4, {"w": jnp.zeros(3)}, {})
    found = checkpoints.restore({"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
    checkpoints.close()
    assert found.host == {"try": 2} and found.state["w"].sum() == 3


def check_failed_save(folder, reason, obstruct, clear, size):
    small = {"w": jnp.ones(100)}
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(1, small, {})
    checkpoints.wait()
    obstruct()
    with pytest.raises(CheckpointError) as caught:  # by the save, or by the next call when it comes to light later
        checkpoints.save(2, {name: jnp.ones(size // 4) for name in "wxyz"}, {})
        checkpoints.wait()
    message = str(caught.value)
    assert "step 2" in message and reason in message and "last good one is step 1" in message
    clear()
    again = Checkpoints(folder)
    assert again.restore({"w": jax.ShapeDtypeStruct((100,), jnp.float32)}).step == 1
    assert os.listdir(folder) == ["00000001"]
    checkpoints.save(3, small, {})  # the same one goes on when the obstacle is gone
    checkpoints.close()
    assert list(again.steps()) == [3]


def test_a_disk_without_room_fails_the_save_and_keeps_the_last_good_checkpoint(small_disk):
    reason = "No space left on device: 10,724,288 bytes needed"
    check_failed_save(small_disk, reason, lambda: None, lambda: None, size=2_500_000)


def test_a_read_only_disk_fails_the_save_and_keeps_the_last_good_checkpoint(small_disk):
    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    check_failed_save(small_disk, "Read-only file system", lambda: remount("ro"), lambda: remount("rw"), size=200)


def test_a_file_that_may_not_grow_fails_the_save_and_keeps_the_last_good_checkpoint(tmp_path, capfd, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def obstruct():  # comes to light in the middle of the save, as a quota or a disk filled by others does
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    def clear():
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    try:
        check_failed_save(tmp_path, "File too large", obstruct, clear, size=2_500_000)
    finally:
        clear()
    gc.collect()
    assert capfd.readouterr().err == "" and caplog.messages == []


ON_EIGHT = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from lmjax.checkpoint import Checkpoints

    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    rng = np.random.default_rng(0)
    state = {"a": put(rng.normal(size=(16, 6)).astype(np.float32), "fsdp", "tensor"),
             "b": put(rng.normal(size=(8, 64)).astype(jnp.bfloat16), None, ("tensor", "fsdp")),
             "c": put(rng.normal(size=(24, 8)).astype(np.float32)), "step": put(np.int32(7))}
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None)
    checkpoints = Checkpoints(sys.argv[1])
    checkpoints.save(7, state, {})
    checkpoints.close()
    print(len(compiled))
    jax.jit(lambda x: x + 1)(1.0)
    assert compiled, "the listener hears compilations"
"""
ON_FEWER = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from lmjax.checkpoint import Checkpoints

    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    expected = {"a": rng.normal(size=(16, 6)).astype(np.float32), "b": rng.normal(size=(8, 64)).astype(jnp.bfloat16),
                "c": rng.normal(size=(24, 8)).astype(np.float32), "step": np.int32(7)}
    specs = {"a": P(None), "b": P("data"), "c": P("data"), "step": P()}
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, specs[name]))
              for name, x in expected.items()}
    checkpoints = Checkpoints(sys.argv[1])
    found = checkpoints.restore(wanted)
    checkpoints.close()
    for name, x in expected.items():
        assert found.state[name].sharding == wanted[name].sharding
        assert np.asarray(found.state[name]).tobytes() == x.tobytes(), name
    print(devices, found.step)
"""


def test_a_state_saved_on_8_devices_is_the_same_bits_on_1_2_and_4_in_other_shardings(tmp_path):
    assert finish(start(ON_EIGHT, tmp_path, devices=8)) == ["0"]  # saving compiles nothing in the middle of training
    children = [start(ON_FEWER, tmp_path, devices=devices) for devices in (1, 2, 4)]
    assert [finish(child) for child in children] == [["1", "7"], ["2", "7"], ["4", "7"]]


TWO_PROCESSES = """
    import os, sys
    import jax, jax.experimental.multihost_utils, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from lmjax.checkpoint import Checkpoints
    from lmjax.provenance import params_sha256

    folder, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))

    def state(step):
        whole = {"w": np.arange(32, dtype=np.float32).reshape(8, 4) + step, "all": np.full(3, step, np.int32)}
        shardings = {"w": rows, "all": NamedSharding(mesh, P())}
        return {k: jax.make_array_from_callback(x.shape, shardings[k], lambda i, x=x: x[i]) for k, x in whole.items()}

    warnings = []
    checkpoints = Checkpoints(folder, keep=3, warn=warnings.append)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"batch": step})
    checkpoints.wait()
    jax.experimental.multihost_utils.sync_global_devices("saved")
    if process == 0:
        os.truncate(folder + "/00000003/seal.json", 10)
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))
    found = checkpoints.restore(wanted)
    for name, array in state(2).items():
        for mine, other in zip(array.addressable_shards, found.state[name].addressable_shards):
            np.testing.assert_array_equal(mine.data, other.data)
    checkpoints.close()
    print(found.step, found.host["batch"], len(warnings), params_sha256(found.state))
"""


def test_two_processes_save_together_and_restore_the_same_checkpoint(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    children = [start(TWO_PROCESSES, tmp_path, port, process, devices=2) for process in (0, 1)]
    outputs = [finish(child) for child in children]
    whole = {"w": np.arange(32, dtype=np.float32).reshape(8, 4) + 2, "all": np.full(3, 2, np.int32)}
    sha = params_sha256(whole)
    assert outputs == [["2", "2", "1", sha], ["2", "2", "0", sha]]
    assert sorted(os.listdir(tmp_path)) == ["00000001", "00000002", "00000003"]
