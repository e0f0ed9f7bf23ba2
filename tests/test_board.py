"""TensorBoard and the trackers: real readers find what was written, once, and TensorFlow stays away."""

import importlib.util
import math
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.board import Board
from lmjax.errors import UserError
from lmjax.trackers import RunInfo, open_tracker

REPOSITORY = pathlib.Path(__file__).parents[1]
tensorboard = pytest.importorskip("tensorboard")


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}).Reload()


def read_as_the_server(folder):
    """{tag: steps} as the TensorBoard server sees them: it turns every kind into tensors."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}


def test_tensorboard_reads_scalars_text_and_histograms(tmp_path):
    board = Board(tmp_path)
    board.scalars(10, {"train/loss": 2.5, "perf/waiting": np.float32(0.25)})
    board.scalars(20, {"train/loss": math.nan, "step": jnp.int32(3)})
    board.text(20, "sample", "In the *beginning*\n<b>was")
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    board.histograms(20, {"gradients/query": values, "bf16": jnp.ones(4, jnp.bfloat16), "empty": np.zeros(0)})
    board.close()
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("perf/waiting")] == [(10, 0.25)]
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses[0] == (10, 2.5) and losses[1][0] == 20 and math.isnan(losses[1][1])
    (event,) = found.Tensors("sample")
    assert event.step == 20 and event.tensor_proto.string_val[0].decode() == "    In the *beginning*\n    <b>was"
    assert found.summary_metadata["sample"].plugin_data.plugin_name == "text"
    histogram = found.Histograms("gradients/query")[0].histogram_value
    assert histogram.num == 1000 == sum(histogram.bucket)
    assert histogram.min == values.min() and histogram.max == values.max()
    assert histogram.sum == pytest.approx(values.sum(dtype=np.float64))
    below = np.cumsum(histogram.bucket)[: len(histogram.bucket) // 2][-1]
    assert below == (values <= histogram.bucket_limit[len(histogram.bucket) // 2 - 1]).sum()
    assert found.Histograms("bf16")[0].histogram_value.num == 4
    assert read_as_the_server(tmp_path)["gradients/query"] == [20]


def test_values_that_are_not_finite_are_counted_beside_the_histogram_of_the_others(tmp_path):
    board = Board(tmp_path)
    board.histograms(5, {"g": np.array([1.0, 2.0, np.nan, np.inf]), "all": np.full(3, np.nan)})
    board.close()
    found = read(tmp_path)
    assert found.Histograms("g")[0].histogram_value.num == 2
    assert found.Scalars("g/not_finite")[0].value == 2 and found.Scalars("all/not_finite")[0].value == 3


def test_after_a_resume_no_step_shows_twice(tmp_path):
    for first, steps in ((1, (10, 20, 30)), (11, (20, 30, 40)), (31, (40, 50))):  # ends in a kill each time
        board = Board(tmp_path, first_step=first)
        for step in steps:
            board.scalars(step, {"loss": 100 * first + step})
            board.text(step, "sample", str(first))
        board.close()
    assert len(os.listdir(tmp_path)) == 3
    expected = [(10, 110), (20, 1120), (30, 1130), (40, 3140), (50, 3150)]
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss")] == expected
    assert read_as_the_server(tmp_path) == {"loss": [10, 20, 30, 40, 50], "sample": [10, 20, 30, 40, 50]}


def test_what_was_written_before_a_kill_is_read_and_a_torn_event_does_not_hide_the_next_session(tmp_path):
    board = Board(tmp_path)
    board.scalars(10, {"loss": 1.0})  # never closed
    board.scalars(20, {"loss": 2.0})
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - 3)
    again = Board(tmp_path, first_step=11)
    again.scalars(20, {"loss": 3.0})
    again.close()
    board.close()
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss")] == [(10, 1.0), (20, 3.0)]


def test_tensorflow_is_not_imported_even_where_it_is_installed(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys; from lmjax.board import Board; import numpy as np; b = Board(sys.argv[1]); b.scalars(1, {'a': 1});"
        "b.text(1, 't', 'x'); b.histograms(1, {'h': np.ones(3)}); b.close(); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "run").Scalars("a")


def test_without_tensorboard_it_says_so_once_and_does_nothing(tmp_path):
    (tmp_path / "tensorboard.py").write_text("raise ImportError('not here')")
    code = (
        "import sys; from lmjax.board import Board; b = Board(sys.argv[1]); b.scalars(1, {'a': 1});"
        "b.text(1, 't', 'x'); b.histograms(1, {'h': [1.0]}); b.close(); b.close()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment, capture_output=True)
    assert done.returncode == 0 and done.stderr.count(b"pip install tensorboard") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        Board(tmp_path / "file" / "events")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("raise ImportError('No module named x')")
    code = (
        "import sys; from lmjax.trackers import *\n"
        "try: open_tracker(sys.argv[1], RunInfo('.', 'n', {}))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("UserError") and f"pip install 'lmjax[{name}]'" in done.stdout, done.stderr


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'wandbb'; did you mean 'wandb'.*mlflow"):
        open_tracker("wandbb", RunInfo(str(tmp_path), "n", {}))


def test_importing_the_trackers_imports_neither():
    code = "import sys, lmjax.trackers; assert not {'wandb', 'mlflow', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="needs the extra lmjax[mlflow]")
def test_mlflow_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/store")
    config = {"model.depth": 4, "model.window": None}
    for first in (0, 10):
        tracker = open_tracker("mlflow", RunInfo(str(tmp_path), "tiny", config, first))
        tracker.scalars(first + 5, {"train/loss": 1.5 - first / 10})
        tracker.text(first + 5, "sample", "text")
        tracker.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("lmjax").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(5, 1.5), (15, 0.5)]
    assert run.data.params["model.depth"] == "4" and run.info.status == "FINISHED"
