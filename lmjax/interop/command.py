"""The verbs `lmjax import` and `lmjax export`."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def add_flags(verb: Callable[[str, str], Any]) -> None:
    """`verb(name, help)` gives the parser of a new verb."""
    coming = verb("import", "a checkpoint of another library as a run directory, for eval, generate and fine-tuning")
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
    going = verb("export", "a run as a checkpoint that Hugging Face transformers reads")
    going.add_argument("form", metavar="hf", choices=("hf",))
    going.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    going.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    going.add_argument("--step", type=int, help="the checkpoint of this step (default: the newest)")
    going.add_argument("--best", action="store_true", help="the best checkpoint by the run's eval.metric")
    going.add_argument("--family", help="llama, gpt2, ... (default: the first that can hold the model)")


def run_import(arguments: Namespace, overrides: Sequence[str]) -> int:
    """Carry out `lmjax import`."""
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
    from lmjax import counted, trained
    from lmjax.errors import UserError
    from lmjax.interop.exporting import export_run

    if counted.is_counted(arguments.run):
        raise UserError(f"{arguments.run} is a run of an n-gram, which no family of transformers can hold")
    loaded = trained.load(arguments.run, step=arguments.step, best=arguments.best, rows=False)
    export_run(loaded, arguments.out, family=arguments.family)
    return 0
