"""Several processes: how they find each other, and what happens when one of them ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import runs

from lmjax import chain
from lmjax.config import loads
from lmjax.data import open_dataset
from lmjax.errors import UserError
from lmjax.sharding import cluster

SLURM = {
    "SLURM_JOB_ID": "55", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "node[009-010,012],gpu1", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1(x2)",
    "SLURM_NTASKS": "6", "SLURM_TASK_PID": "1",
}  # fmt: skip
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "714801152.0;tcp://10.96.0.1,192.0.2.2:50253;tcp6://[fd00::2]:47501",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "run-0.run,run-1.run", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "run-a-0.run:8080"}
PLAIN = {"JAX_COORDINATOR_ADDRESS": "one:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
ALL_HERE = {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
FIVE = {name: value for name, value in MPI.items() if name != "OMPI_MCA_orte_hnp_uri"}


def without(env, name):
    return {key: value for key, value in env.items() if key != name}


@pytest.mark.parametrize(
    "env, place",
    [
        (PLAIN, ("JAX_ variables", "one:1234", 4, 2, (0, 1))),
        ({**without(PLAIN, "JAX_PROCESS_ID"), "JOB_COMPLETION_INDEX": "3"}, ("JAX_ variables", "one:1234", 4, 3, (0, 1))),
        (SLURM, ("SLURM", "node009:61495", 6, 4, (0, 1))),
        ({**SLURM, "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "1"},
         ("SLURM", "node009:61495", 6, 3, (1, 2))),
        ({**SLURM, "JAX_COORDINATOR_PORT": "7000"}, ("SLURM", "node009:7000", 6, 4, (0, 1))),
        (MPI, ("Open MPI", "10.96.0.1:63920", 4, 3, (1, 2))),
        ({**MPI, "OMPI_MCA_orte_hnp_uri": "714801152.0;tcp6://[fe80::b9b,2620:10d::2]:43370"},
         ("Open MPI", "[fe80::b9b]:63920", 4, 3, (1, 2))),
        (ALL_HERE, ("Open MPI", "127.0.0.1:63920", 4, 3, (3, 4))),
        ({**FIVE, "JAX_COORDINATOR_ADDRESS": "one:1234"}, ("Open MPI", "one:1234", 4, 3, (1, 2))),
        ({**MPI, **SLURM}, ("Open MPI", "10.96.0.1:63920", 4, 3, (1, 2))),  # mpirun in a job of SLURM
        ({**SLURM, **PLAIN}, ("JAX_ variables", "one:1234", 4, 2, (0, 1))),
        (GKE, ("TPU pod", "run-0.run:8482", 2, 1, (0, 1))),
        ({**GKE, **SLICES}, ("TPU pod", "run-a-0.run:8482", 6, 5, (0, 1))),
        ({"TPU_WORKER_HOSTNAMES": "localhost", **SLICES}, ("TPU pod", "run-a-0.run:8482", 3, 2, (0, 1))),
    ],
)  # fmt: skip
def test_a_process_finds_its_place_by_what_its_launcher_has_set(env, place):
    assert cluster.find(env) == place


@pytest.mark.parametrize(
    "env",
    [
        {},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        without(SLURM, "SLURM_STEP_NUM_TASKS"),  # the script of the job
        {**SLURM, "JAX_NUM_PROCESSES": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"JOB_COMPLETION_INDEX": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # pods that are runs of their own
        {**MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_a_process_that_no_launcher_calls_one_of_several_runs_alone(env):
    assert cluster.find(env) is None


@pytest.mark.parametrize(
    "env, says",
    [
        (without(PLAIN, "JAX_PROCESS_ID"), "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is set, so JAX_PROCESS_ID"),
        ({**PLAIN, "JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 of JAX_NUM_PROCESSES=4: whole numbers, the first below"),
        ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "one"}, "'one'.*HOST:PORT"),
        (without(SLURM, "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST=''.*do not tell where the 6 tasks are"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID=x of SLURM_STEP_NUM_TASKS=6"),
        (FIVE, "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        (without(GKE, "TPU_WORKER_ID"), "TPU_WORKER_ID=: a whole number"),
        ({**GKE, "TPU_WORKER_ID": "2"}, "worker 2 of 2 hosts"),
        ({**GKE, **without(SLICES, "MEGASCALE_COORDINATOR_ADDRESS")}, "no MEGASCALE_COORDINATOR_ADDRESS"),
    ],
)
def test_what_a_launcher_leaves_out_is_named(env, says):
    with pytest.raises(UserError, match=says):
        cluster.find(env)


@pytest.mark.parametrize(
    "nodes, first",
    {
        "vm": "vm",
        "a1,a2": "a1",
        "node[001-015],x": "node001",
        "n[7,9-11]-ib": "n7-ib",
        "r[0-1]n[2-3],y": "r0n2",
    }.items(),
)
def test_the_first_host_of_a_list_of_slurm(nodes, first):
    assert cluster.first_host(nodes) == first


def test_the_script_of_a_job_that_forgets_srun_is_told_apart():
    script = without(SLURM, "SLURM_STEP_NUM_TASKS")
    assert cluster.unstarted(script) == 6 and not cluster.unstarted(SLURM)
    assert not cluster.unstarted({**script, "SLURM_NTASKS": "1"}) and not cluster.unstarted({})


def test_processes_of_a_host_share_its_gpus_unless_the_launcher_has_dealt_them_out():
    second = cluster.Place("SLURM", "a:1", 4, 1, (1, 2))
    assert cluster.gpus(second, {}, 4) == [2, 3]
    assert cluster.gpus(second, {"CUDA_VISIBLE_DEVICES": "4,7"}, 8) == [1]
    assert cluster.gpus(second, {"CUDA_VISIBLE_DEVICES": "4"}, 8) is None
    assert cluster.gpus(second, {"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, 8) is None
    assert cluster.gpus(second, {}, 0) is None and cluster.gpus(second._replace(local=(0, 1)), {}, 8) is None
    with pytest.raises(UserError, match="2 processes of this host cannot share its 3 GPUs"):
        cluster.gpus(second, {}, 3)


class Metadata(BaseHTTPRequestHandler):
    """What Google's metadata server says of the second host of the second slice."""

    SAYS = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2",
        "tpu-env": "ZONE: 'x'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
                   "MEGASCALE_COORDINATOR_ADDRESS: '10.1.0.1'\n",
    }  # fmt: skip

    def do_GET(self):
        found = self.SAYS.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
        self.send_response(200 if found and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write((found or "").encode())

    def log_message(self, *_):
        pass


def test_a_tpu_vm_asks_its_metadata_server():
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ask = cluster.reader({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"})
        assert cluster.find({}, ask) == ("TPU VM", "10.1.0.1:8482", 4, 3, (0, 1))
        assert ask("nothing") is None
        server.shutdown()
    assert ask("tpu-env") is None  # nobody answers: another cloud


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def several(words, count, **env):
    """`count` processes of one run, one device each."""
    env |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
    return [runs.start(words, JAX_PROCESS_ID=str(i), **env) for i in range(count)]


def test_a_process_whose_others_never_come_says_so_and_exits_2():
    code = "from lmjax.sharding import distributed; distributed.start()"
    env = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2", "LMJAX_START_SECONDS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env, "JAX_PROCESS_ID": "1"}, cwd=runs.ROOT,
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "process 1 of 2 (so says: JAX_ variables) waited 1 s (LMJAX_START_SECONDS) for the others" in done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return runs.write_text(tmp_path_factory.mktemp("text"))


def batches(folder):
    """The hash of the rows that process 0 fed to every step."""
    return [line["batch"] for line in chain.read(folder)]


def expected(folder, shares):
    """`batches` for a run whose process 0 feeds the first batch / n rows of a step, n for every step in `shares`."""
    config = loads((folder / "config.json").read_text())
    dataset = open_dataset(config.data, config.seed)
    rows = [np.arange(config.batch // n) for n in shares]
    return [chain.digest(dataset.train_batch(i, config.batch, own)) for i, own in enumerate(rows)]


def mesh(**axes):
    return {"layout.mesh.data": 1, **{f"layout.mesh.{axis}": size for axis, size in axes.items()}}


@pytest.mark.slow
def test_4_processes_then_2_then_1_with_8_devices_are_one_run_and_each_reads_its_own_rows(text, tmp_path):
    other = runs.write_text(tmp_path / "other")
    changes = {"batch": 8, "data.mixture.sources": other, "data.mixture.weights": "1,2", "data.packing": "best_fit"}
    assert runs.train(text, tmp_path / "whole", changes) == 0
    folder, code, out, err = tmp_path / "run", 0, "", ""
    for count, step in ((4, 4), (2, 8)):
        words = runs.arguments(text, folder, {**changes, **mesh(fsdp=count)}, f"--until={step}")
        for code, out, err in map(runs.finish, several(words, count)):
            assert code == 75, out + err
    code, out, err = runs.finish(runs.start(runs.arguments(text, folder, {**changes, **mesh(fsdp=8)}), devices=8))
    assert code == 0, out + err
    sessions = runs.manifest(folder)["sessions"]
    assert [(one["process_count"], one["devices"]["count"]) for one in sessions] == [(4, 4), (2, 2), (1, 8)]
    assert batches(folder) == expected(folder, [4] * 4 + [2] * 4 + [1] * 4)
    assert batches(tmp_path / "whole") == expected(folder, [1] * 12)
    np.testing.assert_allclose(runs.losses(folder), runs.losses(tmp_path / "whole"), rtol=2e-5)


@pytest.mark.slow
def test_when_one_of_two_processes_is_killed_the_other_stops_and_the_run_goes_on_bit_for_bit(text, tmp_path):
    two = {"layout.mesh.data": 1, "layout.mesh.fsdp": 2}
    for code, out, err in map(runs.finish, several(runs.arguments(text, tmp_path / "whole", two), 2)):
        assert code == 0, out + err
    words = runs.arguments(text, tmp_path / "run", two)
    for killed, lines in ((1, 5), (0, 9)):
        processes = several(words, 2, LMJAX_HEARTBEAT_SECONDS="10")
        runs.wait_for_line(tmp_path / "run", lines, processes[0])
        processes[killed].send_signal(signal.SIGKILL)
        other = 1 - killed
        code, _, err = runs.finish(processes[other])
        assert code not in (0, 75), err
        assert f"process {other} of 2 stopped in the middle" in err and "goes on from the newest" in err
        assert f"process {killed} of 2 stopped in the middle" in runs.finish(processes[killed])[2]
    for code, out, err in map(runs.finish, several(words, 2)):
        assert code == 0, out + err
        assert "damaged" not in err and "stopped in the middle" not in err
    assert runs.history(tmp_path / "run") == runs.history(tmp_path / "whole")
    assert runs.parameters(tmp_path / "run") == runs.parameters(tmp_path / "whole")
    assert chain.read(tmp_path / "run") == chain.read(tmp_path / "whole")
    assert len(runs.manifest(tmp_path / "run")["sessions"]) == 3


def in_slurm(*words):
    """The output of a command of SLURM."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def answers():
    """Whether a SLURM cluster answers here."""
    return shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not answers(), reason="no SLURM cluster here (docs/slurm.md)")
def test_the_script_for_slurm_saves_at_sigterm_is_queued_again_and_finishes(text, tmp_path, monkeypatch):
    page = (runs.ROOT / "docs/clusters.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)[1]
    script = script.replace("--nodes=2", "--nodes=1").replace("--ntasks-per-node=1", "--ntasks-per-node=2")
    (tmp_path / "train.sh").write_text(script.replace("--output=", f"--output={tmp_path}/"))
    command = tmp_path / "lmjax"
    command.write_text(f'#!/bin/bash\ncd {runs.ROOT} && exec {sys.executable} -m lmjax "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = runs.arguments(text, tmp_path / "run", {"steps": 40, **mesh(fsdp=2)})[1:]
    job = in_slurm("sbatch", "--parsable", str(tmp_path / "train.sh"), *words)
    try:
        with subprocess.Popen(["sleep", "200"]) as watchdog:
            runs.wait_for_line(tmp_path / "run", 5, watchdog)
            in_slurm("scancel", "--signal=TERM", f"{job}.0")
            wait_until(watchdog, lambda: "PENDING" in in_slurm("squeue", "-h", "-o", "%T", "-j", job))
            assert runs.manifest(tmp_path / "run")["status"] == "preempted"
            in_slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
            wait_until(watchdog, lambda: runs.manifest(tmp_path / "run")["status"] == "completed")
            watchdog.kill()
    finally:
        subprocess.run(["scancel", job])
    sessions = runs.manifest(tmp_path / "run")["sessions"]
    assert [(one["status"], one["process_count"]) for one in sessions] == [("preempted", 2), ("completed", 2)]
    assert len(runs.losses(tmp_path / "run")) == 40


def wait_until(watchdog, true):
    """Return once `true()` holds; fails when the watchdog has ended."""
    while not true():
        assert watchdog.poll() is None
        time.sleep(0.2)  # between looks at what SLURM does
