"""The README's blocks are run as they stand, with the long runs replaced by their --smoke version."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
FILES = re.findall(r"```python file=(\S+)\n(.*?)```", README, re.DOTALL)
BLOCK = re.compile(r"(<!-- \w+ command -->\n)?```bash\n(.*?)```", re.DOTALL)


def commands(text):
    """The blocks of a part of the README, without the two marked ones, which are what runs this test."""
    return [block for marked, block in BLOCK.findall(text) if not marked]


PARTS = {
    title: commands(text) for title, text in re.findall(r"^(## .*?)$(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
}
PARTS = {title: blocks for title, blocks in PARTS.items() if blocks}


ANSWERS = {"## Train on your own data": (r"^code +\d+\.\d%", r"^an? \w+ (circle|square)")}  # of the runs that are asked

READERS = "JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS="

# What their commands do stands in other tests, too: of runs, experiments, kinds of data and registered parts.
SLOW = ("## Any mesh", "## Model families", "## Train on your own data", "## Add something, in one file",
        "## Ablations that can be published")  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "reader"
    for name, content in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_the_commands_that_a_newcomer_types_first_are_there():
    first = re.search(r"<!-- first command -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert first and "lmjax train quickstart" in first[1]
    assert not re.search(r"^[A-Z]+_[A-Z_]+$", README, re.MULTILINE), "a placeholder was left in"
    assert len(FILES) >= 4 and len(PARTS) >= 4 and sum(map(len, PARTS.values())) == len(commands(README))


@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow if part in SLOW else ()) for part in PARTS])
def test_every_command_of_a_part_of_the_readme_runs_in_a_folder_of_the_readers_own(folder, part):
    script = "set -e\n" + "\n".join(PARTS[part])
    script = re.sub(r"(lmjax (train|show) quickstart)", r"\1 --smoke", script)
    # What the images' run writes is looked at; of the others it is enough that they train and answer.
    script = re.sub(r"(lmjax train (?!configs/images).*)--config.steps=\d+", r"\1--config.steps=3", script)
    script = re.sub(r"sweep positions --seeds=5", "sweep positions --smoke --workdir=runs/positions --seeds=2 "
                    "--variants base rope", script)  # fmt: skip
    # The quickstart is compiled as a reader's is, and what has to learn from images; the others as all tests are.
    script = re.sub(r"^lmjax (?=train.*(quickstart|images))", f"{READERS} lmjax ", script, flags=re.MULTILINE)
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
    for line in ANSWERS.get(part, ()):
        assert re.search(line, done.stdout, re.MULTILINE), f"no line like {line} in {done.stdout[-3000:]}"
