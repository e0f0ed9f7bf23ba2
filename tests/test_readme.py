"""The README's blocks are run as they stand, with the long runs replaced by their --smoke version."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
FILES = re.findall(r"```python file=(\S+)\n(.*?)```", README, re.DOTALL)
BLOCKS = re.findall(r"(<!-- \w+ command -->\n)?```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [block for marked, block in BLOCKS if not marked]  # the two marked ones are what runs this test


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    for name, content in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_the_commands_that_a_newcomer_types_first_are_there():
    first = re.search(r"<!-- first command -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert first and "lmjax train quickstart" in first[1]
    assert not re.search(r"^[A-Z]+_[A-Z_]+$", README, re.MULTILINE), "a placeholder was left in"
    assert len(FILES) >= 4 and len(COMMANDS) >= 4


def test_every_command_of_the_readme_runs_in_a_folder_of_the_readers_own(folder):
    script = "set -e\n" + "\n".join(COMMANDS)
    script = re.sub(r"(lmjax (train|show) quickstart)", r"\1 --smoke", script)
    # The reader's `lmjax` and `python` are those of the environment that runs the tests.
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, command in (("lmjax", "-m lmjax"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (bin_folder / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "LMJAX_CACHE": str(folder / "cache"),
           "PYTHONPATH": str(Path(__file__).parents[1])}  # fmt: skip
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
