"""Small sweeps of a study in a folder of its own, and processes that end before their time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from configs import ngram
from lmjax import run, seal
from lmjax.atomic import dumps, loads
from lmjax.config import update
from lmjax.experiment import Experiment, Selected
from lmjax.study.records import collect
from tests import runs

STUDY = '''"""A study of the tests."""

from configs import lm, ngram
from lmjax.config import update
from lmjax.experiment import Experiment, register


def trained():
    return update(lm.tiny(), {trained})


def counted():
    return update(ngram.of_bytes(), {counted})


register(Experiment(name="small", question="Does a small model learn?", base={base}, variants={variants}))
'''
COUNTED = {"steps": 1, "batch": 4, "data.length": 32, "data.valid_fraction": 0.2, "every.log": 1, "every.eval": 1,
           "eval.sample_length": 0}  # fmt: skip


def orders(text: Path, question: str = "Do longer contexts help?") -> Experiment:
    """A study of n-grams, whose runs take no time."""
    changes = {"steps": 3, "data.valid_fraction": 0.2, "data.length": 32, "eval.batch": 4, "eval.sample_length": 0,
               "data.source": str(text)}  # fmt: skip
    return Experiment(name="orders", question=question, base=lambda: update(ngram.of_bytes(), changes),
                      variants={"short": {"model.order": 2}}, seeds=(0, 1))  # fmt: skip


def carried_out(study: Experiment, workspace: Path, source: Path, commit: str = "a" * 40) -> Path:
    """The workspace with all cells of the study; its code is that commit's, whoever edits the repository meanwhile."""
    for variant in study.names():
        for seed in study.seeds:
            name = study.name if variant == "base" else f"{study.name}/{variant}"
            folder = workspace / variant / f"seed{seed}"
            chosen = Selected(name, study.question, update(study.config(variant), {"seed": seed}), source)
            assert run.train(chosen, folder) == 0
            facts = loads((folder / "manifest.json").read_text())
            facts["code"] = {"lmjax": {"commit": commit, "dirty": False}}
            (folder / "manifest.json").write_text(dumps(seal.stamped(facts), indent=1))
    return workspace


def write_study(folder: Path, base: str, variants: dict, changes: dict | None = None) -> Path:
    """folder/experiments/small.py, its text beside it; `base` is trained or counted."""
    (folder / "experiments").mkdir(parents=True)
    text = {"data.source": str(runs.write_text(folder / "text"))}
    study = STUDY.replace("{trained}", repr(runs.SMALL | text | (changes or {}))).replace(
        "{counted}", repr(COUNTED | text)
    )
    (folder / "experiments" / "small.py").write_text(
        study.replace("{base}", base).replace("{variants}", repr(variants))
    )
    return folder


def start(folder: Path, workspace: Path, *flags: str) -> subprocess.Popen:
    """`lmjax sweep small` in another process."""
    env = os.environ | {"PYTHONPATH": str(runs.ROOT)}
    return subprocess.Popen([sys.executable, "-m", "lmjax", "sweep", "small", f"--workdir={workspace}", *flags],
                            cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def workers(workspace: Path) -> list[int]:
    """The processes that work in a workspace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lmjax.study.worker" in words and str(workspace).encode() in words:
            found.append(int(path.parent.name))
    return sorted(found)


def kill(process: int) -> None:
    """kill -9, of a process that may have ended just now."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def measured(study, workspace: Path) -> list[tuple]:
    """All that the clock does not decide: of every cell its variant, seed, history and the hash of its parameters."""
    return [(record.variant, record.seed, runs.history(record.folder), record.manifest["result"]["params_sha256"])
            for record in collect(study, workspace)]  # fmt: skip


def sessions(folder: Path) -> list[str]:
    """How each session of a run ended."""
    return [session["status"] for session in runs.manifest(folder)["sessions"]]
