"""Text to packed rows on one core: lmjax beside encoders alone and beside a Grain pipeline that tokenises on the fly.

    python benchmarks/tokenize_pack.py --source bible --megabytes 8 --vocab 32000 --rounds 5

One byte-level BPE for all (SentencePiece trains one of the same size, for it cannot run ours). Each contender is a
process of its own with one thread, which encodes everything twice: `first` is how fast it met the text, the rest is how
fast it was when it knew the words. They take turns, ratios are taken round by round, and time is that of the processor.
Needs tiktoken, sentencepiece, gigatoken and regex; those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

LENGTH, ROWS = 256, 32  # tokens a row, rows a batch
ONE_CORE = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Task = Callable[[list[str]], int]  # documents -> how many tokens


def lmjax(folder: Path, *, fast: bool) -> Task:
    """What a build does, encoding and writing shards, and then the batches of an epoch, read from them."""
    if not fast:
        sys.modules["gigatoken.gigatoken_rs"] = None  # as if it were not installed
    from lmjax.data import build, examples, packing, shards, tokenizers

    tokenizer, form = tokenizers.load(folder), examples.Form()

    def run(texts: list[str]) -> int:
        with tempfile.TemporaryDirectory() as place:
            writer = shards.Writer(Path(place), "train", 0, tokenizer.vocab_size)
            for batch in build.batches(({"text": text} for text in texts), form):
                made = [(ids, b"", b"") for ids, _ in form.encode(batch, tokenizer)]
                writer.extend(made, form.text_bytes(batch), tokenizer.token_bytes)
            split = writer.close()
            np.save(Path(place) / "train.lengths.npy", np.array(writer.lengths, np.int64))
            documents = shards.load(Path(place), split, "train", tokenizer.vocab_size)
            rows = packing.OrderedRows(documents, LENGTH, tokenizer.doc, tokenizer.token_bytes)
            for first in range(0, len(rows), ROWS):
                packing.batch(rows, np.arange(first, first + ROWS))
        return split["tokens"] - split["documents"]

    return run


def lmjax_encode(folder: Path, *, fast: bool) -> Task:
    """Encoding alone."""
    if not fast:
        sys.modules["gigatoken.gigatoken_rs"] = None
    from lmjax.data import tokenizers

    tokenizer = tokenizers.load(folder)
    return lambda texts: sum(len(ids) for ids in tokenizer.encode_batch(texts))


def hugging_face(folder: Path) -> Task:
    import tokenizers

    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda texts: sum(len(found.ids) for found in model.encode_batch_fast(texts, add_special_tokens=False))


def tiktoken(folder: Path) -> Task:
    import tiktoken

    from lmjax.data import tokenizers

    ours = tokenizers.load(folder)
    ranks = {ours.decode_bytes([i]): i for i in range(ours.vocab_size) if i != ours.doc}
    model = tiktoken.Encoding("ours", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: sum(len(model.encode_ordinary(text)) for text in texts)


def gigatoken(folder: Path) -> Task:
    from gigatoken.gigatoken_rs import load_hf_json

    model = load_hf_json((folder / "tokenizer.json").read_text("utf-8"))
    return lambda texts: sum(len(model.encode(text)) for text in texts)


def sentencepiece(folder: Path) -> Task:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    return lambda texts: sum(len(model.encode(text)) for text in texts)


def grain(folder: Path) -> Task:
    """Documents tokenised by Hugging Face `tokenizers` as they are read, concatenated and cut by Grain."""
    import grain
    import tokenizers
    from grain.experimental import ConcatThenSplitIterDataset

    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(text: str) -> dict:
        return {"tokens": np.array(model.encode(text, add_special_tokens=False).ids, np.int32)}

    def run(texts: list[str]) -> int:
        documents = grain.MapDataset.source(texts).map(encode).to_iter_dataset()
        rows = ConcatThenSplitIterDataset(documents, length_struct={"tokens": LENGTH})
        return sum(int((row["tokens_segment_ids"] > 0).sum()) for row in rows)

    return run


CONTENDERS: dict[str, Callable[[Path], Task]] = {
    "lmjax": lambda folder: lmjax(folder, fast=True),
    "lmjax, no gigatoken": lambda folder: lmjax(folder, fast=False),
    "lmjax, encoding": lambda folder: lmjax_encode(folder, fast=True),
    "lmjax, encoding, no gigatoken": lambda folder: lmjax_encode(folder, fast=False),
    "gigatoken": gigatoken,
    "tiktoken": tiktoken,
    "sentencepiece": sentencepiece,
    "tokenizers": hugging_face,
    "grain": grain,
}

OURS = ("lmjax", "lmjax, no gigatoken")


def prepare(folder: Path, source: str, megabytes: float, vocab: int) -> None:
    """Writes the documents and the trained tokenizers."""
    from lmjax.data import sources, tokenizers

    texts = list(sources.documents(sources.open_source(source), limit=int(megabytes * 1e6)))
    (folder / "texts.pickle").write_bytes(pickle.dumps(texts))
    tokenizers.train_bpe(texts, vocab).save(folder)
    try:
        import sentencepiece
    except ImportError:
        return
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines()]),
        model_prefix=str(folder / "sentencepiece"),
        **dict(vocab_size=vocab, model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2),
    )


def measure(folder: Path, name: str) -> dict:
    """MB/s, the first time and then, and tokens/s of one contender, in this process, by the seconds that a core worked for
    it: waiting for a core that another process has does not count."""
    texts = pickle.loads((folder / "texts.pickle").read_bytes())
    run = CONTENDERS[name](folder)
    run(texts[:1])  # what is loaded only once
    size, spent = sum(len(text.encode()) for text in texts) / 1e6, []
    for _ in range(2):
        start = time.process_time()
        tokens = run(texts)
        spent.append(time.process_time() - start)
    return {"first MB/s": size / spent[0], "MB/s": size / spent[1], "tokens/s": tokens / spent[1]}


def turn(folder: Path, name: str) -> dict | None:
    """`measure` in a process of its own; None when what it needs is not installed."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    found = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True)
    if found.returncode:
        missing = "ModuleNotFoundError" in found.stderr
        print(f"{name}: {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None if missing else sys.exit(1)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="bible")
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.folder, chosen.measure)))
        return
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), chosen.source, chosen.megabytes, chosen.vocab)
        rounds = [{name: turn(Path(place), name) for name in chosen.contenders} for _ in range(chosen.rounds)]
    if chosen.json:
        chosen.json.write_text(json.dumps({"settings": vars(chosen), "rounds": rounds}, indent=1, default=str) + "\n")
    units = {"first": "first MB/s", "": "MB/s"}
    ours = [(name, unit) for name in OURS if name in chosen.contenders for unit in units]
    table = Table(
        "one core", *units.values(), "tokens/s", *(f"{name} is, {unit}".rstrip(", ") for name, unit in ours), box=None
    )
    for name in chosen.contenders:
        if rounds[0][name] is None:
            continue
        first, rate, tokens = (statistics.median(found[name][unit] for found in rounds) for unit in rounds[0][name])
        ratios = [
            statistics.median(found[own][units[unit]] / found[name][units[unit]] for found in rounds)
            for own, unit in ours
        ]
        table.add_row(name, f"{first:.1f}", f"{rate:.1f}", f"{tokens:,.0f}", *(f"{ratio:.2f} x" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
