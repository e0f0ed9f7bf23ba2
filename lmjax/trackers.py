"""Experiment trackers beside metrics.jsonl and TensorBoard: off unless asked for by name, imported only then."""

from __future__ import annotations

import importlib
import pathlib
from typing import NamedTuple

from lmjax.errors import UserError, unknown


class RunInfo(NamedTuple):
    """What a tracker is told of a run: its folder, its name, its flat config, and the step that it starts from."""

    folder: str
    name: str
    config: dict
    first_step: int = 0


class WandbTracker:
    """Weights & Biases. A resumed run goes on under the same id, kept in RUN/wandb-id."""

    def __init__(self, info: RunInfo):
        self._wandb = _import("wandb")
        known = pathlib.Path(info.folder) / "wandb-id"
        self._run = self._wandb.init(
            project="lmjax",
            name=info.name,
            dir=info.folder,
            config=info.config,
            id=known.read_text().strip() if known.exists() else None,
            resume="allow",
        )
        known.write_text(self._run.id + "\n")
        self._run.define_metric("*", step_metric="step")  # W&B's own step may not go back, ours does after a kill

    def scalars(self, step: int, values: dict) -> None:
        self._run.log({**{tag: float(value) for tag, value in values.items()}, "step": step})

    def text(self, step: int, tag: str, text: str) -> None:
        self._run.log({tag: self._wandb.Html("<pre>" + _escape(text) + "</pre>"), "step": step})

    def histograms(self, step: int, arrays: dict) -> None:
        import numpy as np

        found = {tag: self._wandb.Histogram(np.asarray(a, np.float64).ravel()) for tag, a in arrays.items()}
        self._run.log({**found, "step": step})

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """MLflow, at MLFLOW_TRACKING_URI (default: its own). A resumed run goes on under the id kept in RUN/mlflow-id."""

    def __init__(self, info: RunInfo):
        mlflow = _import("mlflow")
        self._metric = mlflow.entities.Metric
        try:
            self._client = mlflow.MlflowClient()
            self._begin(info, mlflow.entities.Param)
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"MLflow refuses {mlflow.get_tracking_uri()}: {error}") from None

    def _begin(self, info: RunInfo, param) -> None:
        known = pathlib.Path(info.folder) / "mlflow-id"
        if known.exists():
            self._run_id = known.read_text().strip()
            self._client.update_run(self._run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name("lmjax")
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("lmjax")
        self._run_id = self._client.create_run(experiment_id, run_name=info.name).info.run_id
        known.write_text(self._run_id + "\n")
        params = [param(path, str(value)[:5000]) for path, value in info.config.items()]
        for start in range(0, len(params), 100):  # the most that MLflow takes in one call
            self._client.log_batch(self._run_id, params=params[start : start + 100])

    def scalars(self, step: int, values: dict) -> None:
        import time

        now = int(time.time() * 1000)
        metrics = [self._metric(tag, float(value), now, step) for tag, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def text(self, step: int, tag: str, text: str) -> None:
        self._client.log_text(self._run_id, text, f"{tag}/{step:08d}.txt")

    def histograms(self, step: int, arrays: dict) -> None:
        """MLflow has no histograms."""

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


TRACKERS = {"wandb": WandbTracker, "mlflow": MlflowTracker}


def open_tracker(name: str, info: RunInfo):
    """A tracker by name; it takes what a Board takes: scalars, text, histograms, close.

    UserError for an unknown name, and, with the command that helps, for one that is not installed.
    """
    require(name)
    return TRACKERS[name](info)


def require(name: str) -> None:
    """The UserErrors of `open_tracker`, before there is a run to track."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    _import(name)


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the tracker {name!r} needs a package ({error}): pip install 'lmjax[{name}]'") from None


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
