"""TensorBoard event files, written by TensorBoard's own record writer. TensorFlow is never imported."""

from __future__ import annotations

import os
import pathlib
import socket
import sys
import time

import numpy as np

from lmjax.errors import UserError


class Board:
    """Events in `folder` for TensorBoard; without TensorBoard installed it says so once and writes nothing.

    With `first_step`, readers forget what earlier sessions of the run wrote for that step and later ones.
    """

    def __init__(self, folder, first_step: int = 0):
        self._writer = None
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            print("lmjax: no TensorBoard events are written: pip install tensorboard", file=sys.stderr)
            return
        self._event, self._path = event_pb2.Event, _event_file(pathlib.Path(folder))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "xb")
        except OSError as error:
            raise UserError(f"cannot write TensorBoard events to {self._path}: {error.strerror}") from None
        self._writer = RecordWriter(self._file)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(self._event(wall_time=time.time(), step=first_step, session_log=start))

    def scalars(self, step: int, values: dict) -> None:
        """One point for each tag; numbers only, NaN and infinities included."""
        self._summary(step, [dict(tag=tag, simple_value=float(value)) for tag, value in values.items()])

    def text(self, step: int, tag: str, text: str) -> None:
        """Shown verbatim: TensorBoard reads Markdown, so every line is indented into a code block."""
        if self._writer is None:
            return
        from tensorboard.plugins.text import metadata
        from tensorboard.util import tensor_util

        block = "\n".join("    " + line for line in text.splitlines())
        tensor = tensor_util.make_tensor_proto(np.array(block.encode(), dtype=object))
        about = metadata.create_summary_metadata(display_name=None, description=None)
        self._summary(step, [dict(tag=tag, tensor=tensor, metadata=about)])

    def histograms(self, step: int, arrays: dict, bins: int = 64) -> None:
        """One histogram for each array, over its finite values; where there are others `TAG/not_finite` counts them."""
        if self._writer is None:
            return
        from tensorboard.compat.proto import summary_pb2

        values, lost = [], {}
        for tag, array in arrays.items():
            flat = np.asarray(array).astype(np.float64).ravel()
            finite = flat[np.isfinite(flat)]
            if finite.size < flat.size:
                lost[f"{tag}/not_finite"] = flat.size - finite.size
            if not finite.size:
                continue
            counts, edges = np.histogram(finite, bins)
            histogram = summary_pb2.HistogramProto(
                min=finite.min(),
                max=finite.max(),
                num=finite.size,
                sum=finite.sum(),
                sum_squares=np.square(finite).sum(),
                bucket_limit=edges[1:],
                bucket=counts,
            )
            values.append(dict(tag=tag, histo=histogram))
        self._summary(step, values)
        self.scalars(step, lost)

    def close(self) -> None:
        if self._writer is not None:
            self._writer = None
            self._file.close()

    def _summary(self, step: int, values: list[dict]) -> None:
        if self._writer is not None and values:
            self._write(self._event(wall_time=time.time(), step=int(step), summary=dict(value=values)))

    def _write(self, event) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write TensorBoard events to {self._path}: {error.strerror}") from None


def _event_file(folder: pathlib.Path) -> pathlib.Path:
    """A new name behind all others in `folder`: readers take event files in the order of their names."""
    times = [int(name.split(".")[3]) for name in os.listdir(folder) if _is_event_file(name)] if folder.is_dir() else []
    now = max([int(time.time()), *(last + 1 for last in times)])
    return folder / f"events.out.tfevents.{now:010d}.{socket.gethostname()}.{os.getpid()}"


def _is_event_file(name: str) -> bool:
    return name.startswith("events.out.tfevents.") and name.split(".")[3].isdigit()
