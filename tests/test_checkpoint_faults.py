"""Checkpoints that are damaged, cut off, of another shape or cannot be written: refused by name, and none is lost."""

import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import abstract, assert_same_bits, contents, make_state, restore, save_all, start

from lmjax.checkpoint import CheckpointError, Checkpoints


def largest_file(folder):
    files = (path for path in (folder / "state" / "ocdbt.process_0" / "d").iterdir() if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


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
