"""The command line: `lmjax VERB ...`. Exit codes: 0 done, 2 the user's mistake, 75 stopped and saved, 1 anything else."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from lmjax import __version__
from lmjax.errors import UserError, unknown
from lmjax.verbs import FAMILIES

USER_MISTAKE = 2
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)  # no fault of the program's
OVERRIDE = re.compile(r"--config\.[^=]*(=.*)?$", re.DOTALL)
Verb = Callable[[argparse.Namespace, list[str]], int]  # (the words, the overrides "a.b=v") -> the exit code
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
        found = re.search(r"argument (\S+): invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if found:
            what = "command" if found[1] == "VERB" else f"value of {found[1]}"
            raise unknown(what, found[2], re.findall(r"[\w-]+", found[3]))
        raise UserError(f"{message}; see `{self.prog} --help`")


def parser() -> Parser:
    """All verbs and their flags."""
    top = Parser(prog="lmjax", description="Train language models on any mesh, exactly resumable, with provenance.",
                 epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    top.add_argument("--version", action="version", version=f"lmjax {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, help: str, run: Verb, *, takes_config: bool = False) -> Parser:
        one = verbs.add_parser(name, help=help, description=help, allow_abbrev=False, epilog=EXAMPLES,
                               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        one.set_defaults(run_verb=run, takes_config=takes_config)
        return one

    for family in FAMILIES:
        family.add(verb)
    return top


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        words, behind = split_behind(sys.argv[1:] if arguments is None else arguments)
        words, overrides = split_overrides(words)
        parsed = parser().parse_args(words, argparse.Namespace(behind=behind))
        if behind and not getattr(parsed, "beam", False):
            raise UserError(f"-- {' '.join(behind)}: only `lmjax data build --beam` passes options on")
        if overrides and not parsed.takes_config:
            raise UserError(
                f"--config.{overrides[0]}: `lmjax {parsed.verb}` reads the config of the run; it takes none"
            )
        return parsed.run_verb(parsed, overrides)
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
        if code == USER_MISTAKE:
            sys.modules["lmjax.sharding.witness"].release()
        os._exit(code)
    sys.exit(code)


def _several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


if __name__ == "__main__":
    entry()
