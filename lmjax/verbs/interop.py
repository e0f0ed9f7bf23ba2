"""The verbs `lmjax import` and `lmjax export`."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmjax.verbs.parsing import add_run, start_jax


def add(verb: Callable[..., Any]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    coming = verb("import", "a checkpoint of another library as a run directory, for eval, generate and fine-tuning",
                  run_import, takes_config=True)  # fmt: skip
    coming.add_argument(
        "form", metavar="hf|gguf", choices=("hf", "gguf"), help="a folder of Hugging Face's, or a GGUF file"
    )
    coming.add_argument("source", metavar="DIR", type=Path, help="the folder with config.json, or the file")
    coming.add_argument("--workdir", type=Path, required=True, metavar="RUN", help="the run directory to make")
    coming.add_argument(
        "--drop", action="append", default=[], metavar="REGEX", help="tensors to leave out; may be repeated"
    )
    coming.add_argument("--missing", choices=("error", "init"), default="error",
                        help="init: parameters that the checkpoint lacks begin afresh")  # fmt: skip
    going = verb("export", "a run as a checkpoint that Hugging Face transformers reads", run_export)
    going.add_argument("form", metavar="hf", choices=("hf",))
    add_run(going)
    going.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    going.add_argument("--family", help="llama, gpt2, ... (default: the first that can hold the model)")


def run_import(arguments: Namespace, overrides: Sequence[str]) -> int:
    """Carry out `lmjax import`."""
    start_jax()
    from lmjax.interop.importing import import_run, open_hf

    with tempfile.TemporaryDirectory() as folder:
        if arguments.form == "gguf":
            from lmjax.interop.gguf import open_gguf

            given = open_gguf(arguments.source, Path(folder))
        else:
            given = open_hf(arguments.source)
        import_run(given, arguments.workdir, overrides, drop=arguments.drop, fresh=arguments.missing == "init")
    return 0


def run_export(arguments: Namespace, overrides: Sequence[str]) -> int:
    """Carry out `lmjax export`."""
    start_jax()
    from lmjax import counted, trained
    from lmjax.errors import UserError
    from lmjax.interop.exporting import export_run

    if counted.is_counted(arguments.run):
        raise UserError(f"{arguments.run} is a run of an n-gram, which no family of transformers can hold")
    loaded = trained.load(arguments.run, step=arguments.step, best=arguments.best, rows=False)
    export_run(loaded, arguments.out, family=arguments.family)
    return 0
