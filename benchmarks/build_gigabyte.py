"""Prepares a folder of text of any size under a cap on memory: seconds, memory, and whether the way there changes a byte.

    python benchmarks/build_gigabyte.py --megabytes=1000 --tokenizer=bpe --vocab=8192 --cap=2048

The text is the packaged corpora's, in another order of lines in every copy, and words made up here, as .txt and .jsonl
files. Each build is `lmjax data build` in a cache of its own: 1 worker, then 2, each also killed (-9) five times on the
way, then Apache Beam's DirectRunner where it is installed; and for how memory grows 1 worker with a hundredth of the text
and 2 with a twentieth, for less is a single part, of which no second worker is started.
Memory is the sum over the processes of a build, looked at ten times a second, and that of its largest process; the sum must
stay below --cap, and each process gets no more for its data either (ulimit -d). Prints a line a build, and the ratios;
exits 1 when folders differ or a build was above the cap.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from lmjax.data import sources

KILLS = 5
FILE = 40 << 20  # bytes of text in a file


class Built(NamedTuple):
    """seconds of wall and of CPU; MiB of all its processes together, and of the largest; files: name -> sha256."""

    wall: float
    cpu: float
    peak: float
    largest: float
    kills: int
    files: dict[str, str]


def write_text(folder: Path, size: int, corpora: list[str]) -> None:
    """Files of together at least `size` bytes, the same for the same arguments; every fourth document is made up."""
    folder.mkdir(parents=True)
    texts = [document for name in corpora for document in sources.texts(sources.open_source(name))]
    letters = "abcdefghijklmnopqrstuvwxyzäöüßéñабвгдежзиклмн的一是不了人我在有他😀🌧"
    rng = random.Random(0)
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 9))) for _ in range(20_000)]
    written = number = 0
    while written < size:
        rng = random.Random(number)
        jsonl = number % 2 == 1
        with open(folder / f"{number:04d}.{'jsonl' if jsonl else 'txt'}", "w", encoding="utf-8") as file:
            while file.tell() < min(FILE, size - written):
                if rng.random() < 0.25:
                    lines = [" ".join(rng.choices(words, k=12)) for _ in range(rng.randint(5, 60))]
                else:
                    lines = rng.choice(texts).splitlines()
                    rng.shuffle(lines)
                text = f"{rng.randrange(10**9)}\n" + "\n".join(lines)
                file.write(json.dumps({"text": text}) + "\n" if jsonl else text + "\n\n")
            written += file.tell()
        number += 1


def prepare(folder: Path, cache: Path, cap: int, words: list[str], kills: int = 0) -> Built:
    """One build to its end, killed on the way: at its start, and when so many of its parts are noted as make `kills`
    equal stretches. cap: MiB of data of each process.
    """
    words = [sys.executable, "-m", "lmjax", "data", "build", str(folder), *words]
    parts = -(-sum(path.stat().st_size for path in folder.iterdir()) // (16 << 20))
    limits = [parts * i // kills for i in range(kills)]
    began, cpu, peaks, killed = time.monotonic(), 0.0, (0.0, 0.0), 0
    while True:
        process = psutil.Popen(words, env={**os.environ, "LMJAX_CACHE": str(cache)}, stdout=subprocess.DEVNULL,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (cap << 20, cap << 20)))  # fmt: skip
        spent = {}
        while process.poll() is None:
            peaks = tuple(map(max, peaks, _look(process, spent)))
            begun = any(cache.glob("data/*.building/content"))
            if limits and begun and len(list(cache.glob("data/*.building/notes/[0-9]*.json"))) >= limits[0]:
                process.kill()
                limits.pop(0)
                killed += 1
            time.sleep(0.1)
        cpu += sum(spent.values())
        if process.returncode == 0:
            break
        if process.returncode != -9:
            raise SystemExit(f"the build failed with exit code {process.returncode} after {peaks[0] / 2**20:.0f} MiB")
    wall = time.monotonic() - began
    (made,) = [path for path in (cache / "data").iterdir() if path.is_dir()]
    files = {path.relative_to(made).as_posix(): _sha256(path) for path in sorted(made.rglob("*")) if path.is_file()}
    shutil.rmtree(cache)
    return Built(wall, cpu, peaks[0] / 2**20, peaks[1] / 2**20, killed, files)


def _look(process: psutil.Process, spent: dict[int, float]) -> tuple[float, float]:
    """Bytes of memory of a process and its children now, and of the largest; their CPU seconds so far into spent."""
    sizes = [0]
    try:
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            spent[one.pid] = times.user + times.system
            sizes.append(one.memory_info().rss)
    except psutil.NoSuchProcess:
        pass
    return sum(sizes), max(sizes)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--corpora", nargs="+", default=["bible", "botocore"])
    parser.add_argument("--tokenizer", default="bpe")
    parser.add_argument("--vocab", type=int, default=None)
    parser.add_argument("--cap", type=int, default=2048, help="MiB (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="where text and caches go, and are removed (default: a temporary one)"
    )
    flags = parser.parse_args()
    overrides = [f"--config.data.tokenizer={flags.tokenizer}"]
    overrides += [f"--config.data.vocab={flags.vocab}"] if flags.vocab else []
    size, same = flags.megabytes * 10**6, True
    with tempfile.TemporaryDirectory(dir=flags.folder) as place:
        text, cache = Path(place, "text"), Path(place, "cache")
        less = {share: Path(place, f"less-{share}") for share in (100, 20)}
        for share, folder in {1: text, **less}.items():
            write_text(folder, size // share, flags.corpora)
        jobs = {"a hundredth, 1 worker": (less[100], ["--workers=1"], 0), "1 worker": (text, ["--workers=1"], 0),
                "a twentieth, 2 workers": (less[20], ["--workers=2"], 0), "2 workers": (text, ["--workers=2"], 0),
                f"1 worker, {KILLS} kills": (text, ["--workers=1"], KILLS),
                f"2 workers, {KILLS} kills": (text, ["--workers=2"], KILLS)}  # fmt: skip
        if importlib.util.find_spec("apache_beam"):
            jobs["Beam, DirectRunner"] = (text, ["--beam", "--", "--runner=DirectRunner"], 0)
        found = {}
        for name, (folder, words, kills) in jobs.items():
            built = found[name] = prepare(folder, cache, flags.cap, overrides + words, kills)
            rate = sum(path.stat().st_size for path in folder.iterdir()) / 1e6 / built.wall
            print(f"{name:<24} {built.wall:8.1f} s  {rate:6.2f} MB/s  {built.cpu:8.1f} CPU s  {built.peak:6.0f} MiB  "
                  f"{built.largest:6.0f} MiB  {built.kills} kills  {len(built.files)} files", flush=True)  # fmt: skip
            same &= folder is not text or built.files == found["1 worker"].files
    one, two = found["1 worker"], found["2 workers"]
    least = found["a hundredth, 1 worker"], found["a twentieth, 2 workers"]
    below = all(built.peak <= flags.cap for built in found.values())
    print(f"2 workers are {one.wall / two.wall:.2f} times as fast as 1; 100 times the text takes "
          f"{one.peak / least[0].peak:.2f} times the memory with one worker, 20 times the text "
          f"{two.peak / least[1].peak:.2f} with two; every build was {'below' if below else 'ABOVE'} {flags.cap} MiB; "
          f"files {'are equal' if same else 'DIFFER'}")  # fmt: skip
    return 0 if same and below else 1


if __name__ == "__main__":
    sys.exit(main())
