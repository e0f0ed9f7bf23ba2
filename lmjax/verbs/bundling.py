"""The verbs that hand a study to others: bundle and verify."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lmjax.errors import UserError
from lmjax.verbs.parsing import add_insisting, insisted

DIFFERS = 1


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers; `verb` is that of `lmjax.__main__`."""
    one = verb("bundle", "put a finished study into one folder or ZIP file that others can check", run_bundle)
    one.add_argument("study", metavar="STUDY")
    one.add_argument("--out", type=Path, required=True, metavar="DIR|ZIP", help="a new folder, or FILE.zip")
    one.add_argument("--workdir", type=Path, help="the workspace with the runs (default: runs/STUDY)")
    one.add_argument("--seeds", metavar="N", help="how many, 5, or which, 0,3,7 (default: all that are there)")
    one.add_argument("--small", action="store_true", help="without the code, which the commit in every manifest names")
    add_insisting(one)
    one = verb("verify", "check every hash of a bundle and rebuild its tables from the raw metrics", run_verify)
    one.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder or ZIP file that `lmjax bundle` made")
    one.add_argument("--runs", type=Path, help="a workspace whose checkpoints are those of the bundle, if they are")
    one.add_argument("--sha256", help="the bundle's name as its authors gave it, or its beginning")


def run_bundle(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from lmjax.study import bundle, cells

    study, source = cells.study_named(arguments.study)
    seeds = None if arguments.seeds is None else cells.seeds_of(study, arguments.seeds)
    workspace = arguments.workdir or Path("runs") / study.name
    try:
        name = bundle.bundle(study, source, workspace, arguments.out, seeds=seeds, insist=insisted(arguments),
                             code=not arguments.small)  # fmt: skip
    except OSError as error:
        raise UserError(f"no bundle at --out={arguments.out}: {error}") from None
    print(f"{arguments.out}  sha256 {name}\ncheck it:  lmjax verify {arguments.out}")
    return 0


def run_verify(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Exit code 0 for a bundle in which all is as it was, 1 for another."""
    from lmjax.study import verify

    found = verify.verify(arguments.bundle, arguments.runs)
    faults = list(found.faults)
    if arguments.sha256 and not found.sha256.startswith(arguments.sha256.lower()):
        faults.append(f"{arguments.bundle} is another bundle: {found.sha256}, not {arguments.sha256}")
    for fault in faults:
        print(f"FAULT  {fault}")
    if faults:
        print(f"{arguments.bundle} does not hold: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
        return DIFFERS
    if not found.pages:
        print("pages  report.html, .md and .tex and table.txt are by another lmjax, and this one words them otherwise: their "
              "numbers were made again, the pages stand as they were sealed")  # fmt: skip
    print(f"{arguments.bundle} holds: {found.study}, {found.files} files, {found.runs} runs, tables rebuilt from raw "
          f"metrics  sha256 {found.sha256}")  # fmt: skip
    return 0
