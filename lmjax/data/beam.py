"""The parts of a build made by Apache Beam, by whatever machines its runner has: the same folder, byte for byte.

    lmjax data build my/folder --beam -- --runner=DirectRunner --direct_num_workers=2

Part numbers go into the pipeline, and what a part gives lies in files: every machine must see the source and
LMJAX_CACHE at the same paths, on one file system, and have the same lmjax. A part that a runner tries twice, even at
the same time, is written twice with the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmjax.data import worker
from lmjax.data.store import Unfinished
from lmjax.errors import UserError


@dataclass(frozen=True)
class Beam:
    """What stands for a number of processes in `worker.each`: a pipeline, with the options of its runner."""

    options: Sequence[str] = ()

    def __post_init__(self):
        _pipeline(self.options)  # a wrong option is known before any work

    def __call__(self, job: Callable[[int], Any], numbers: list[int]) -> Iterator[Any]:
        """job(n) for each n in their order, when the pipeline has made all. job: one of a build, picklable, with its plan.

        The UserError of the first n that has one is raised here; Unfinished when the pipeline fails.
        """
        if not numbers:
            return
        with tempfile.TemporaryDirectory(prefix="answers-", dir=job.plan.notes) as place:
            _run(self.options, numbers, Answer(job, Path(place)))
            for number in numbers:
                answer = _read(Path(place), number)
                if isinstance(answer, BaseException):
                    raise answer
                yield answer


@dataclass(frozen=True)
class Answer:
    """Calls the job on a machine of the runner, and leaves what it gives in a file; any number of times."""

    job: Callable[[int], Any]
    place: Path

    def __call__(self, number: int) -> int:
        if not self.place.is_dir():
            raise FileNotFoundError(
                f"{self.place} is not on {socket.gethostname()}: with --beam every machine must see LMJAX_CACHE, and the "
                "source, at the same path"
            )
        try:
            with worker.lean():
                answer = self.job(number)
        except UserError as error:  # it would be the same again; whatever else is raised the runner may try again
            answer = error
        descriptor, beside = tempfile.mkstemp(dir=self.place)
        with open(descriptor, "wb") as file:
            pickle.dump(answer, file)
        os.replace(beside, self.place / f"{number:05d}")
        return number


def _pipeline(options: Sequence[str]) -> Any:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError:
        raise UserError("--beam needs Apache Beam: pip install 'lmjax[beam]'") from None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # of a parser that also writes three screens of what there is
            parsed = PipelineOptions(list(options))
            parsed.get_all_options(retain_unknown_options=True)  # reads the values, which else the runner does
            return beam.Pipeline(options=parsed)
    except (ValueError, SystemExit) as error:
        why = error if isinstance(error, ValueError) else said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"options of the Beam runner, {' '.join(options)}: {why}") from None


def _run(options: Sequence[str], numbers: list[int], answer: Answer) -> None:
    import apache_beam as beam

    pipeline = _pipeline(options)
    parts = pipeline | "part numbers" >> beam.Create(numbers) | "to any machine" >> beam.Reshuffle()
    parts | "make" >> beam.Map(answer)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has errors of its own
        raise _unfinished((str(error).strip().splitlines() or [type(error).__name__])[-1]) from error


def _read(place: Path, number: int) -> Any:
    try:
        return pickle.loads((place / f"{number:05d}").read_bytes())
    except FileNotFoundError:
        raise _unfinished(f"part {number} was not made") from None


def _unfinished(why: str) -> Unfinished:
    return Unfinished(
        f"the Beam pipeline did not end well: {why}. The parts that are done are kept: the same command goes on "
        "from there, with --beam or without"
    )
