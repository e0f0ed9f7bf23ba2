"""Disks that fill up, folders that may not be written, text that is none: a message or a recovery, never a traceback."""

import contextlib
import subprocess

import pytest
import runs

MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("data") / "text")


def refused(process) -> str:
    """Standard error of a command that failed as a user's command should."""
    code, out, err = runs.finish(process)
    assert code in (1, 2) and "Traceback" not in out + err, (code, out, err)
    assert err.splitlines()[-1].startswith("lmjax: ") or "lmjax: " in err, err
    return err


@pytest.mark.parametrize(  # nothing fits; the history fits; one checkpoint fits
    "room", [pytest.param(0, marks=pytest.mark.slow), pytest.param(MIB // 8, marks=pytest.mark.slow), MIB]
)
def test_on_a_full_disk_a_run_ends_with_the_reason_and_goes_on_when_there_is_room(
    room, text, small_disk, tmp_path_factory
):
    filler, folder = small_disk / "filler", small_disk / "run"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(8 * MIB - room))
        while not room:
            file.write(b"x" * 512)
    assert "No space left on device" in refused(runs.start(runs.arguments(text, folder)))
    filler.unlink()
    assert runs.finish(runs.start(runs.arguments(text, folder)))[0] == 0
    whole = tmp_path_factory.mktemp("whole") / "run"
    assert runs.train(text, whole) == 0
    assert runs.history(folder) == runs.history(whole) and runs.parameters(folder) == runs.parameters(whole)


@pytest.mark.slow
def test_in_a_folder_that_may_not_be_written_a_run_neither_starts_nor_goes_on_and_loses_nothing(text, small_disk):
    def mount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    words = runs.arguments(text, small_disk / "run")
    mount("ro")
    assert "Read-only file system" in refused(runs.start(words))
    mount("rw")
    process = runs.start(words)
    runs.wait_for_line(small_disk / "run", 5, process)
    process.kill()
    runs.finish(process)
    before = {path: path.read_bytes() for path in (small_disk / "run").rglob("*") if path.is_file()}
    mount("ro")
    assert "Read-only file system" in refused(runs.start(words))
    mount("rw")
    assert before == {path: path.read_bytes() for path in (small_disk / "run").rglob("*") if path.is_file()}
    assert runs.finish(runs.start(words))[0] == 0


@pytest.mark.parametrize("name, content, said", [
    (None, b"", "no .txt, .jsonl"), ("empty.txt", b"", "0 documents"),
    ("latin.txt", "caf\u00e9".encode("latin-1"), "invalid UTF-8"),
    ("broken.jsonl", b'{"text": "fine"}\n{"text": ', "broken.jsonl"), ("utf16.txt", "text".encode("utf-16"), "UTF-8"),
    ("short.txt", b"x", "1 document"),
])  # fmt: skip
def test_text_that_cannot_be_trained_on_is_named(name, content, said, tmp_path, capfd):
    folder = tmp_path / "text"
    folder.mkdir()
    if name:
        (folder / name).write_bytes(content)
    assert runs.train(folder, tmp_path / "run") == 2
    out, err = capfd.readouterr()
    assert err.startswith("lmjax: ") and said in err and str(folder) in err, err
    assert not (tmp_path / "run").exists()
