"""Hides faults in folders of text, pairs, labels, images and sounds, and looks whether each is found, counted and named.

    python benchmarks/planted.py --copies=1000 --hidden=200 --line=50

The text is the World English Bible of the extra quickstart, in passages, and words made up here. Beside it stand exact
copies, near copies, validation documents inside training documents, broken bytes, a line of --line megabytes in a .txt
and in a .jsonl file, and an empty file. What the same text without them gives is known from a build of its own. Prints
a line a fault, and exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lmjax.data import cleaning, open_dataset, plan, sources, store
from lmjax.data.split import Split
from lmjax.environment import cache_root
from lmjax.errors import UserError
from lmjax.verbs.data import select_data

VALID = 0.05  # data.valid_fraction
TEXT = ("tokenizer=bytes", "clean.bad=drop", "clean.exact_duplicates=true", "clean.near_duplicates=0.8",
        "clean.contamination=13")  # fmt: skip


class Size(NamedTuple):
    """How much is planted: exact and as many near copies, hidden validation documents, bytes of the long lines."""

    passages: int = 5183
    copies: int = 1000
    hidden: int = 200
    line: int = 50 * 10**6


class Fault(NamedTuple):
    """What was planted, how often, how often it was found, what must name it, and what was said."""

    what: str
    planted: int
    found: int
    name: str
    said: str

    @property
    def passed(self) -> bool:
        """Whether all of it was found, and named."""
        return self.found == self.planted and self.name in self.said


def text(place: Path, size: Size) -> list[Fault]:
    """Faults of a folder of text."""
    rng, base = random.Random(1), passages()[: size.passages]
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    copies = rng.sample(base, size.copies)
    long = [document for document in base if len(document.split()) >= 100]  # one word of 100 leaves them 0.9 alike
    near = [edited(document, rng) for document in rng.sample(long, size.copies)]
    lines, rules = [made_up(words, size.line, rng) for _ in range(2)], (*TEXT, "clean.contamination_limit=1.0")
    write_texts(place / "clean", base, [], lines)
    before, split = build(place / "clean", *rules), Split(VALID)
    already = "\n".join(before["contamination"]["worst"])
    valid = [one for one in base if split.of(one) == "valid" and repr(one[: plan.EXCERPT]) not in already][
        : size.hidden
    ]
    hidden = [around(document, words, rng, split) for document in valid]
    more = copies + near + hidden
    write_texts(place / "planted", base, rng.sample(more, len(more)), lines)
    spoil(place / "planted")
    after, refused = build(place / "planted", *rules), refusal(place / "planted", *TEXT)
    removed = {name: after["report"]["removed"].get(name, 0) - before["report"]["removed"].get(name, 0)
               for name in ("exact_duplicates", "near_duplicates", "missing")}  # fmt: skip
    gone, said = after["report"]["samples"], samples(after)
    shown = [set(gone[name].values()) for name in ("exact_duplicates", "near_duplicates")]
    strangers = [one for some, planted in zip(shown, (copies, near), strict=True)
                 for one in some if not any(document[:99] == one[:99] for document in planted)]  # fmt: skip
    bad, share = after["report"]["bad"], after["contamination"]
    kept = before["bytes"] + sum(len(document) for document in hidden)
    return [
        Fault("exact copies", size.copies, removed["exact_duplicates"], "exact_duplicates", said),
        Fault("near copies", size.copies, removed["near_duplicates"], "near_duplicates", said),
        Fault("samples of copies that are none", 0, len(strangers), "", ""),
        Fault("validation documents in training", len(hidden), share["contaminated"] - before["contamination"]["contaminated"],
              f"{share['contaminated']} of", refused),
        Fault("their names", len(hidden), len(share["worst"]) - len(before["contamination"]["worst"]), "(100%)", refused),
        Fault("invalid UTF-8, a file", 1, sum("latin.txt: invalid UTF-8" in one for one in gone["bad"].values()),
              "byte 2", said),
        Fault("invalid UTF-8, all", 2, bad["invalid UTF-8"], "b.jsonl:", said),
        Fault("NUL", 1, bad["NUL byte"], "nul.txt: NUL byte", said),
        Fault("not a string, not JSON", 2, bad["not text"] + bad["not JSON"], "not JSON", said),
        Fault("an empty file", 1, after["read"]["empty"] + removed["missing"], "missing", json.dumps(after["report"]["removed"])),
        Fault("bytes of what was to be kept", kept, after["bytes"], "", ""),
        Fault("records read", before["report"]["read"] + 2 * size.copies + len(hidden) + 6, after["report"]["read"], "", ""),
        Fault("records kept, removed or bad", after["report"]["read"], total(after["report"]), "", ""),
    ]  # fmt: skip


def write_texts(folder: Path, base: list[str], more: list[str], lines: list[str]) -> None:
    """more stands behind what it may be a copy of; a long line in a .txt and in a .jsonl file."""
    write_jsonl(folder / "a.jsonl", base)
    write_jsonl(folder / "b.jsonl", more)
    write(folder / "line.txt", lines[0])
    write_jsonl(folder / "line.jsonl", lines[1:])


def spoil(folder: Path) -> None:
    """Five records that cannot be read, and an empty one."""
    write(folder / "empty.txt", b"")
    write(folder / "latin.txt", "Grüße aus Köln".encode("latin-1"))
    write(folder / "nul.txt", b"before\0behind")
    with open(folder / "b.jsonl", "ab") as file:
        file.write(b'{"text": "half a character: \xe2\x82"}\n{"text": 7}\n{"text": "never closed\n')


def pairs(place: Path, size: Size) -> list[Fault]:
    """Two files, one of which has lost a line; and a table in which a translation is empty."""
    lines = [f"line {n} of a text" for n in range(1000)]
    write(place / "two" / "story.en", "\n".join(lines) + "\n")
    write(place / "two" / "story.de", "\n".join(lines[:500] + lines[501:]) + "\n")
    rows = [f"{line}\t{'' if n in (10, 20) else line[::-1]}" for n, line in enumerate(lines)]
    write(place / "table" / "pairs.tsv", "source\ttarget\n" + "\n".join(rows) + "\n")
    kind = ("kind=pairs", "tokenizer=bytes", "packing=best_fit")
    said = refusal(place / "two", *kind, "columns=en,de")
    made = build(place / "table", *kind, "clean.bad=drop")
    return [
        Fault("files of unequal lines", 1, "1,000" in said and "999" in said, "story.de", said),
        Fault("empty translations", 2, made["report"]["bad"]["empty field"], "pairs.tsv:12", samples(made)),
        Fault("pairs kept", 998, made["documents"], "", ""),
    ]


def labels(place: Path, size: Size) -> list[Fault]:
    """A label that only validation has."""
    split, rows = Split(VALID), [f"text number {n},{'good' if n % 2 else 'bad'}" for n in range(400)]
    new = next(text for n in range(10**6) if split.of(text := f"text of another kind {n}") == "valid")
    write(place / "labels" / "all.csv", "text,label\n" + "\n".join([*rows, f"{new},strange"]) + "\n")
    kind = ("kind=labels", "tokenizer=bytes", "packing=none")
    said, made = refusal(place / "labels", *kind), build(place / "labels", *kind, "clean.bad=drop")
    return [
        Fault("a label never seen", 1, "'strange'" in said and new in said, "all.csv", said),
        Fault("left out when asked", 1, made["read"]["unseen_labels"], "'strange'", made["lines"]),
        Fault("records kept", 400, made["documents"], "", ""),
    ]


def images(place: Path, size: Size) -> list[Fault]:
    """A PNG with a flipped bit, one cut short, an empty one, and a text with the name of one."""
    good = {f"{'red' if n % 2 else 'blue'}/{n:03d}.png": png(n) for n in range(60)}
    flipped = bytearray(png(1000))
    flipped[len(flipped) // 2] ^= 16
    bad = {"red/flipped.png": bytes(flipped), "red/short.png": png(1001)[:-20], "blue/empty.png": b"",
           "blue/words.png": b"no image at all"}  # fmt: skip
    for name, raw in (good | bad).items():
        write(place / "images" / name, raw)
    kind = ("kind=image_labels", "image_size=16", "packing=none")
    said, made = refusal(place / "images", *kind), build(place / "images", *kind, "clean.bad=drop")
    found = [Fault(f"{name}", 1, sum(name in one for one in made["report"]["samples"]["bad"].values()), name, samples(made))
             for name in bad]  # fmt: skip
    return [
        Fault("broken images", len(bad), made["report"]["bad"]["broken image"], "blue/empty.png", said),
        *found,
        Fault("images kept", len(good), made["documents"], "", ""),
    ]


def sounds(place: Path, size: Size) -> list[Fault]:
    """A WAV whose samples end before its header says; speech can be read and cleaned, not trained on yet."""
    whole = [wav(n) for n in range(10)]
    for n, raw in enumerate(whole):
        write(place / "sounds" / f"{n}.wav", raw[: len(raw) // 2] if n == 7 else raw)
    rows = "\n".join(f"{n}.wav,spoken words {n}" for n in range(10))
    write(place / "sounds" / "transcripts.csv", f"file,text\n{rows}\n")
    source, report = sources.open_source(str(place / "sounds"), "speech"), cleaning.Report()
    chosen = cleaning.settings(select_data(str(place / "sounds"), ["data.clean.bad=drop"]).data)
    kept = list(cleaning.clean(lambda: (r for piece in source.pieces() for r in source.read(piece)), chosen, report))
    return [
        Fault("a truncated WAV", 1, report.bad.get("truncated audio", 0), "7.wav", json.dumps(report.samples)),
        Fault("sounds kept", 9, len(kept), "", ""),
    ]


def changing(place: Path, size: Size) -> list[Fault]:
    """A file that grows, one whose bytes are others at the same size and time, and one that goes, while a build reads."""

    def swap(path: Path) -> None:
        times = path.stat()
        path.write_text(path.read_text()[::-1])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    changes = {
        "grown.txt": lambda path: path.write_text(path.read_text() + "and more"),
        "other.txt": swap,
        "gone.txt": Path.unlink,
    }
    found = []
    for name, change in changes.items():
        folder = place / name.removesuffix(".txt")
        for n in range(40):
            write(folder / f"{n:02d}.txt", f"{n}: " + " ".join(str(n * m) for m in range(99)))
        write(folder / name, "a text that will not stay as it is")

        def say(line: str, path: Path = folder / name, change: Callable[[Path], Any] = change) -> None:
            if line == "tokenizing":
                change(path)

        said = refusal(folder, "tokenizer=bytes", say=say)
        made = [json.loads(path.read_text()) for path in (cache_root() / "data").glob("*/manifest.json")]
        sealed = sum(manifest["source"]["name"] == str(folder) for manifest in made)
        found += [
            Fault(f"a file that changes: {name}", 1, bool(said), name, said),
            Fault("sealed all the same", 0, sealed, "", ""),
        ]
    return found


PLANT = {"text": text, "pairs": pairs, "labels": labels, "images": images, "sounds": sounds, "changing": changing}


def passages() -> list[str]:
    """5,183 different passages of six verses."""
    verses = [
        line for document in sources.texts(sources.open_source("bible")) for line in document.splitlines() if line
    ]
    found = (" ".join(verses[i : i + 6]) for i in range(0, len(verses) - 5, 6))
    return [passage for passage in dict.fromkeys(found) if len(passage.split()) > 60]


def edited(document: str, rng: random.Random) -> str:
    """A near copy: one word is another."""
    found = document.split()
    found[rng.randrange(len(found))] = "planted"
    return " ".join(found)


def around(document: str, words: list[str], rng: random.Random, split: Split) -> str:
    """A training document four times as long, which holds this one."""
    while True:
        sides = [" ".join(rng.choices(words, k=len(document.split()) * 2)) for _ in range(2)]
        if split.of(found := f"{sides[0]} {document} {sides[1]}") == "train":
            return found


def made_up(words: list[str], size: int, rng: random.Random) -> str:
    """Words, about so many bytes of them, in one line."""
    return " ".join(rng.choices(words, k=size // 7))


def png(number: int) -> bytes:
    """An image of 24 x 24 random pixels."""
    raw = random.Random(number).randbytes(24 * 25 * 3)
    rows = b"".join(b"\0" + raw[72 * row : 72 * row + 72] for row in range(24))
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 24, 24, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def wav(number: int) -> bytes:
    """A tenth of a second of noise."""
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", ""))
        sound.writeframes(random.Random(number).randbytes(1600))
    return file.getvalue()


def write(path: Path, content: str | bytes) -> None:
    """A file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_jsonl(path: Path, documents: list[str]) -> None:
    """One object a line."""
    write(path, "".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents))


def build(folder: Path, *overrides: str, say: Callable[[str], None] = lambda line: None) -> dict:
    """What a build says of itself: counts, the report of cleaning, the lines it said."""
    config, lines = select_data(str(folder), [f"data.{one}" for one in (f"valid_fraction={VALID}", *overrides)]), []
    made = open_dataset(config.data, 0, lambda line: (lines.append(line), say(line)), workers=2)
    stats = made.stats
    place = cache_root() / "data" / store.name(stats["made_from"])
    report = json.loads((place / "cleaning.json").read_text()) if (place / "cleaning.json").exists() else {}
    sums = {key: stats["train"][key] + stats["valid"][key] for key in ("documents", "bytes")}
    return {"read": stats["read"], "report": report, "contamination": stats.get("contamination"), **sums,
            "lines": "\n".join(lines)}  # fmt: skip


def refusal(folder: Path, *overrides: str, say: Callable[[str], None] = lambda line: None) -> str:
    """What the UserError of a build says; nothing when there was none."""
    try:
        build(folder, *overrides, say=say)
    except UserError as error:
        return str(error)
    return ""


def samples(made: dict) -> str:
    """All samples of a report of cleaning, as one text."""
    return json.dumps(made["report"]["samples"], ensure_ascii=False)


def total(report: dict) -> int:
    """Records that were kept, removed or could not be read."""
    return report["kept"] + sum(report["removed"].values()) + sum(report["bad"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=Size().copies)
    parser.add_argument("--hidden", type=int, default=Size().hidden)
    parser.add_argument("--line", type=int, default=Size().line // 10**6, help="megabytes")
    flags = parser.parse_args()
    size, passed = Size(copies=flags.copies, hidden=flags.hidden, line=flags.line * 10**6), True
    with tempfile.TemporaryDirectory() as place:
        os.environ["LMJAX_CACHE"] = str(Path(place, "cache"))
        for name, plant in PLANT.items():
            began = time.monotonic()
            for fault in plant(Path(place, name), size):
                passed &= fault.passed
                print(f"{name:<9} {fault.what:<34} planted {fault.planted:>10,}  found {fault.found:>10,}  "
                      f"{'yes' if fault.passed else 'NO: ' + repr((fault.name, fault.said[:300]))}", flush=True)  # fmt: skip
            print(f"{name:<9} {time.monotonic() - began:.1f} s", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
