"""The verb `lmjax generate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmjax.errors import UserError
from lmjax.verbs.parsing import add_run, start_jax


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser; `verb` is that of `lmjax.__main__`."""
    generate = verb("generate", "text from a run's checkpoint, streamed to the terminal", run_generate)
    add_run(generate)
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
