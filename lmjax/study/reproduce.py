"""A run made again from what its directory says, and compared step by step: the same bits, or where and why not."""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmjax import atomic
from lmjax.config import flatten
from lmjax.environment import strict as determined
from lmjax.errors import UserError
from lmjax.history import History
from lmjax.study import causes
from lmjax.study.causes import Difference, Evidence, Parting

NAME = "reproduction.json"  # in the folder of the new run
FROM_HERE = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "LMJAX_", "CUDA_VISIBLE", "JAX_COORDINATOR")
WHAT = {
    "batch": "other rows went into it",
    "loss": "the same rows gave another loss",
    "params": "the losses so far are the same and the parameters after it are not",
    "end": "the parameters at the end are not the same; one of the runs has no chain to say since when",
}
START = "import sys; sys.path[:1] = sys.argv[1:2]; del sys.argv[1]; from lmjax.__main__ import entry; entry()"
Source = Literal["here", "recorded"]


class Comparison(NamedTuple):
    """Two runs, compared over `steps` steps. parted: None when they are the same bit for bit.

    why: the differences that can have made them part, the likeliest first; besides: the others, without effect.
    """

    a: Path
    b: Path
    steps: int
    whole: bool  # both runs went to their end, and to the same
    parted: Parting | None
    why: tuple[Difference, ...]
    besides: tuple[Difference, ...]
    seconds: tuple[float | None, float | None] = (None, None)  # of a step, the median of the logged ones

    def lines(self) -> list[str]:
        """What to say of it."""
        if self.parted is None:
            part = "" if self.whole else " that both have"
            said = [f"identical: {self.steps} steps{part} of {self.a} and {self.b}, bit for bit"]
        else:
            step, what = self.parted
            said = [f"{self.b} differs from {self.a} at step {step}: {WHAT[what]}"]
            said += [f"  why    {one.cause}: {one.text}" for one in self.why[:1]]
            said += [f"  or     {one.cause}: {one.text}" for one in self.why[1:]]
            if not self.why:
                said.append("  why    nothing that the manifests name differs: the computation does not repeat itself "
                            "(`--determinism=strict` makes it, on GPUs)")  # fmt: skip
        if None not in self.seconds and min(self.seconds) > 0:
            before, now = self.seconds
            said.append(f"  time   {1000 * before:.1f} ms a step, and {1000 * now:.1f} ms: {now / before - 1:+.0%}")
        return said + [f"  also   {one.cause}: {one.text} (without effect)" for one in self.besides]

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "run": str(self.a), "again": str(self.b), "identical": self.parted is None, "steps": self.steps,
            "whole": self.whole, "parted": self.parted and self.parted._asdict(),
            "why": [one._asdict() for one in self.why], "besides": [one._asdict() for one in self.besides],
            "step_seconds": list(self.seconds),
        }  # fmt: skip


def reproduce(
    folder: Path,
    workdir: Path,
    *,
    code: Source = "here",
    flags: Source = "recorded",
    strict: bool = False,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Train the run in `folder` again in `workdir`, by its config.json alone, and compare the two.

    code: that of this lmjax, or the recorded commit with the changes that the manifest holds, taken from this clone.
    strict: with the flags with which GPUs repeat every bit; what they cost is in the comparison's step times.
    flags: XLA's and JAX's as the run had them, and no more CPUs than it had, or those of this process.
    UserError when it cannot be run: no such commit, data that is gone, fewer devices.
    """
    before = causes.evidence(folder)
    if (workdir / "manifest.json").exists() and causes.evidence(workdir).manifest.get("status") == "completed":
        raise UserError(
            f"{workdir} is a finished run already: choose a new --workdir, or compare with --against={workdir}"
        )
    with tempfile.TemporaryDirectory(prefix="lmjax-code-") as temporary:
        if code == "recorded":
            home = checkout(before, Path(temporary))
        else:
            home = Path(__file__).parents[2]
        place = place_of(before)
        there = "" if place.samefile(".") else f", beginning in {place}, where its config finds its files"
        say(f"trains {folder} again in {workdir}{there}")
        trained = again(before, workdir, home, flags, strict, place)
    if trained:
        made = before.manifest.get("cwd")
        where = f"; it was made in {made}, from where relative paths in its config lead" if made else ""
        raise UserError(f"{folder} could not be trained again (exit code {trained}); what stopped it is above{where}")
    found = compare(before, causes.evidence(workdir))
    atomic.write(workdir / NAME, atomic.dumps(found.facts(), indent=1) + "\n")
    return found


def compare(a: Evidence, b: Evidence) -> Comparison:
    """Two runs, or what there is of them."""
    common = {line["step"] for line in a.lines} & {line["step"] for line in b.lines}
    ends = [one.manifest.get("result") or {} for one in (a, b)]
    done = all(one.manifest.get("status") == "completed" for one in (a, b))
    took = tuple(map(step_seconds, (a.folder, b.folder)))
    whole = done and ends[0].get("step") == ends[1].get("step")
    parted, steps = causes.parting(a.lines, b.lines), len(common)
    if parted is None and whole and ends[0].get("params_sha256") != ends[1].get("params_sha256"):
        parted = Parting(ends[0]["step"], "params" if common else "end")
    elif parted is None and not common:
        if not whole:
            raise UserError(f"{a.folder} and {b.folder} have no step in common to compare; chain.jsonl holds them")
        steps = ends[0]["step"]
    found = causes.differences(a, b, until=parted.step if parted else None)
    if parted is None:
        return Comparison(a.folder, b.folder, steps, whole, None, (), tuple(found), took)
    why = causes.suspects(parted, found, causes.same_program(a.manifest, b.manifest))
    besides = tuple(one for one in found if one not in why)
    return Comparison(a.folder, b.folder, steps, whole, parted, tuple(why), besides, took)


def step_seconds(folder: Path) -> float | None:
    """Seconds of a step of the run in `folder`, the median of its log lines; None where it logged none."""
    found = [line.get("perf/step_seconds") for line in History(folder / "metrics.jsonl").read()]
    found = [seconds for seconds in found if seconds is not None]
    return statistics.median(found) if found else None


def place_of(before: Evidence) -> Path:
    """The folder to train in: this one, or the run's own where more of the paths in its config lead to something."""
    leaves = [value for path, value in flatten(before.config).items() if path.startswith(("data.", "start."))]
    names = [name for value in leaves for name in (value if isinstance(value, (tuple, list)) else [value])]
    found = {
        place: sum((place / Path(name).expanduser()).exists() for name in names if isinstance(name, str) and name)
        for place in (Path("."), Path(before.manifest.get("cwd") or "."))
    }
    return max(found, key=found.__getitem__)


def again(before: Evidence, workdir: Path, home: Path, flags: Source, strict: bool = False,
          place: Path = Path(".")) -> int:  # fmt: skip
    """Train in a process of its own, in the folder `place` with the lmjax in the folder `home`; the exit code."""
    env, cpus = dict(os.environ), None
    if flags == "recorded":
        env, cpus = environment(before.manifest, env), cores(before.manifest)
    if strict:
        env["XLA_FLAGS"] = determined(env.get("XLA_FLAGS", ""))
    words = ["train", str(before.folder.absolute()), f"--workdir={workdir.absolute()}"]
    limit = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    return subprocess.run(
        [sys.executable, "-c", START, str(home), *words], env=env, cwd=place, preexec_fn=limit
    ).returncode


def environment(manifest: Mapping[str, Any], here: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process with XLA's and JAX's as a run's manifest has them; where caches are stays."""
    recorded = {name: value for name, value in manifest.get("flags", {}).items() if not name.startswith(FROM_HERE)}
    if recorded.get("JAX_PLATFORMS") != "cpu":  # an accelerator that is not here is better named than missed
        recorded.pop("JAX_PLATFORMS", None)
    kept = {name: value for name, value in here.items() if not name.startswith(("XLA_", "LIBTPU_"))}
    return kept | recorded


def cores(manifest: Mapping[str, Any]) -> set[int] | None:
    """As many of this process's CPUs as the run had, for XLA parts its sums among their threads; None: all of them."""
    had = manifest.get("host", {}).get("usable_cpus")
    if not hasattr(os, "sched_getaffinity") or not had or manifest.get("devices", {}).get("platform") != "cpu":
        return None
    here = sorted(os.sched_getaffinity(0))
    return set(here[:had]) if had < len(here) else None


def checkout(before: Evidence, folder: Path) -> Path:
    """The code that a run was made with, in `folder`: its commit, from this clone or the run's bundle, and its changes."""
    recorded = before.manifest.get("code", {}).get("lmjax", {})
    commit, diff, root = recorded.get("commit", "unknown"), recorded.get("diff", ""), Path(__file__).parents[2]
    if commit == "unknown":
        raise UserError("the run was made by an installed lmjax, of no known commit: install that version "
                        f"({recorded.get('version', 'see the packages in its manifest')}) and leave out --code")  # fmt: skip
    bundled = before.folder.absolute().parent.parent / "code" / f"{commit}.tar"
    packed = subprocess.run(["git", "archive", commit], cwd=root, capture_output=True)
    if packed.returncode and not bundled.is_file():
        raise UserError(f"commit {commit[:12]} is not in {root}: fetch it, or leave out --code=recorded")
    with tarfile.open(fileobj=io.BytesIO(bundled.read_bytes() if packed.returncode else packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    if diff.startswith("left out"):
        raise UserError(f"the run had changes that its manifest does not hold ({diff}): they cannot be put back")
    if diff:
        patch = diff.encode(errors="surrogateescape")
        applied = subprocess.run(["git", "apply", "-"], cwd=folder, input=patch, capture_output=True)
        if applied.returncode:
            raise UserError(
                f"the changes in the run's manifest do not fit commit {commit[:12]}: {applied.stderr.decode()}"
            )
    for name, file in recorded.get("untracked", {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(file.get("text", ""))
    return folder
