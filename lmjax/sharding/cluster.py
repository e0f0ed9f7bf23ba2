"""Which process of how many this one is, and where process 0 listens: from what its launcher has put into its environment.

Asked in this order: plain JAX_ variables, Open MPI, SLURM, TPU pods of Kubernetes (GKE), the metadata of a TPU VM. Open
MPI comes before SLURM, for `mpirun` inside a SLURM job starts itself by `srun` and hands SLURM's variables on.
"""

from __future__ import annotations

import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lmjax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TPU_PORT = 8482  # the one that JAX uses on TPU hosts
PORTS = 61440, 4096  # first and number of those above what Linux gives to outgoing connections
METADATA = "http://{host}/computeMetadata/v1/instance/attributes/{key}"
Ask = Callable[[str], "str | None"]  # an attribute of this machine's metadata, by its name


class Place(NamedTuple):
    """Where a process stands among those of its run."""

    found: str  # who says so
    address: str  # host:port of process 0
    count: int
    index: int
    local: tuple[int, int] = (0, 1)  # its number among the processes of its host, and how many these are


def find(env: Mapping[str, str], ask: Ask | None = None) -> Place | None:
    """The place of this process; None when it runs alone. UserError when what the launcher says is not whole.

    JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT take the place of what a launcher gives; JAX_NUM_PROCESSES=1: alone.
    """
    if env.get("JAX_NUM_PROCESSES") == "1":
        return None
    place = next((made for make in (plain, open_mpi, slurm, tpu_pod) if (made := make(env))), None)
    if place is None and ask:
        place = tpu_vm(env, ask)
    if place is None:
        check_plain(env)
        return None
    if place.count == 1:
        return None
    address = env.get("JAX_COORDINATOR_ADDRESS") or place.address
    if port := env.get("JAX_COORDINATOR_PORT"):
        address = f"{address.rpartition(':')[0]}:{port}"
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"the address of process 0 is {address!r} ({place.found}): HOST:PORT")
    return place._replace(address=address)


def plain(env: Mapping[str, str]) -> Place | None:
    """The three `VARIABLES`; pods of an indexed Kubernetes Job have their index already."""
    names = ["JAX_PROCESS_ID" if env.get("JAX_PROCESS_ID") else "JOB_COMPLETION_INDEX"]
    names = [*VARIABLES[:2], *names]
    if not all(env.get(name) for name in names):
        return None
    count, index = numbers(env, *names[1:])
    return Place("JAX_ variables", env[names[0]], count, index)


def check_plain(env: Mapping[str, str]) -> None:
    """UserError when a part of `VARIABLES` is set, and no launcher gives the rest."""
    given = [name for name in VARIABLES if env.get(name)]
    missing = [name for name in VARIABLES if name not in given]
    if given:
        raise UserError(f"{', '.join(given)} is set, so {' and '.join(missing)} must be too, or none of them")


def open_mpi(env: Mapping[str, str]) -> Place | None:
    """A process of `mpirun`. Open MPI 5 no longer says where `mpirun` runs: on several hosts it needs the address."""
    if not env.get("OMPI_COMM_WORLD_SIZE"):
        return None
    count, index = numbers(env, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    here, local = numbers(env, "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    uri = re.match(r"(\d+)\.\d+;.*?tcp6?://\[?([^,\]]*?)(?:[,\]]|:\d+(?:;|$))", env.get("OMPI_MCA_orte_hnp_uri", ""))
    job = int(uri[1]) // 4096 if uri else int(re.sub(r"\D", "", env.get("PMIX_NAMESPACE", "")) or 0)
    if count > here and not uri and not env.get("JAX_COORDINATOR_ADDRESS"):
        raise UserError("this Open MPI does not say where process 0 is: mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT "
                        "..., with the host of the first process and a free port of it")  # fmt: skip
    host = "127.0.0.1" if count == here else uri[2] if uri else ""
    return Place("Open MPI", f"[{host}]:{port(job)}" if ":" in host else f"{host}:{port(job)}", count, index,
                 (local, here))  # fmt: skip


def slurm(env: Mapping[str, str]) -> Place | None:
    """A task of `srun`. The script of a job is none: there SLURM_NTASKS counts tasks that nobody started."""
    if not env.get("SLURM_STEP_NUM_TASKS"):
        return None
    count, index = numbers(env, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if count == 1:
        return Place("SLURM", "localhost:0", 1, 0)
    job, step, node, local = (number(env, name) for name in
                              ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID", "SLURM_LOCALID"))  # fmt: skip
    hosts, tasks = env.get("SLURM_STEP_NODELIST", ""), env.get("SLURM_STEP_TASKS_PER_NODE", "")
    here = [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    if not hosts or node >= len(here):
        raise UserError(f"SLURM_STEP_NODELIST={hosts!r} and SLURM_STEP_TASKS_PER_NODE={tasks!r} do not tell where the "
                        f"{count} tasks are")  # fmt: skip
    return Place("SLURM", f"{first_host(hosts)}:{port(job + 1009 * step)}", count, index, (local, here[node]))


def unstarted(env: Mapping[str, str]) -> int:
    """How many tasks a SLURM job has whose script has started this process itself, without `srun`; else 0."""
    tasks = env.get("SLURM_NTASKS", "")
    script = env.get("SLURM_JOB_ID") and not env.get("SLURM_STEP_NUM_TASKS") and env.get("SLURM_TASK_PID")
    return int(tasks) if script and tasks.isdecimal() and int(tasks) > 1 else 0


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: node[001-015,020],gpu1 -> node001."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def tpu_pod(env: Mapping[str, str]) -> Place | None:
    """A pod on TPU hosts of GKE: its webhook sets these for Jobs and JobSets, MEGASCALE_ ones for several slices."""
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    if not hosts:
        return None
    return tpu("TPU pod", hosts.split(","), number(env, "TPU_WORKER_ID", 0 if "," not in hosts else None), env)


def tpu_vm(env: Mapping[str, str], ask: Ask) -> Place | None:
    """A host of a Cloud TPU, by the metadata of the machine."""
    worker, hosts = ask("agent-worker-number"), ask("worker-network-endpoints")
    if not worker or not hosts:
        return None
    given = re.findall(r"^(MEGASCALE_\w+): *'?([^'\n]*)'?$", ask("tpu-env") or "", re.MULTILINE)
    names = [host.split(":")[-1] for host in hosts.split(",")]  # a name, or id:number:address
    return tpu("TPU VM", names, number({"agent-worker-number": worker}, "agent-worker-number"), {**dict(given), **env})


def tpu(found: str, hosts: list[str], worker: int, env: Mapping[str, str]) -> Place:
    """The place of host `worker` of a slice with these hosts, which all slices have as many of."""
    slices, which = number(env, "MEGASCALE_NUM_SLICES", 1), number(env, "MEGASCALE_SLICE_ID", 0)
    if worker >= len(hosts) or which >= slices:
        raise UserError(f"{found}: worker {worker} of {len(hosts)} hosts in slice {which} of {slices}: each number is "
                        "below how many there are")  # fmt: skip
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    if slices > 1 and not env.get("MEGASCALE_COORDINATOR_ADDRESS"):
        raise UserError(f"{found}: MEGASCALE_NUM_SLICES={slices}, and no MEGASCALE_COORDINATOR_ADDRESS")
    return Place(found, f"{first.split(':')[0]}:{TPU_PORT}", len(hosts) * slices, which * len(hosts) + worker)


def metadata(env: Mapping[str, str]) -> Ask | None:
    """What answers for the metadata of a TPU VM; None on machines without TPUs, which are not asked."""
    there = any(True for _ in devices("accel[0-9]*")) or any(True for _ in devices("vfio/[0-9]*"))
    if not there or env.get("TPU_SKIP_MDS_QUERY") or env.get("JAX_PLATFORMS", "tpu").find("tpu") < 0:
        return None
    return reader(env) if importlib.util.find_spec("libtpu") else None


def reader(env: Mapping[str, str]) -> Ask:
    """Attributes of this machine from Google's metadata server; None for those that it does not have."""

    def ask(key: str) -> str | None:
        address = METADATA.format(host=env.get("GCE_METADATA_IP", "metadata.google.internal"), key=key)
        request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise UserError(f"{address} answers {error.code}: is this process one of several?") from None
        except OSError:
            return None  # not Google's cloud

    return ask


def devices(pattern: str) -> Iterator[Path]:
    """Device files of this machine."""
    return Path("/dev").glob(pattern)


def gpus(place: Place, env: Mapping[str, str], present: int) -> list[int] | None:
    """Which of the GPUs that it sees this process takes: an equal part where those of a host see the same ones.

    None: all of them, for it is alone on its host, or its launcher has dealt them out, or there are none.
    """
    rank, here = place.local
    seen = env.get("CUDA_VISIBLE_DEVICES")
    number_seen = present if seen is None else len([one for one in seen.split(",") if one])
    dealt = env.get("SLURM_GPUS_PER_TASK") or env.get("SLURM_NTASKS_PER_GPU") or env.get("JAX_LOCAL_DEVICE_IDS")
    if here == 1 or number_seen < here or dealt:
        return None
    if number_seen % here:
        raise UserError(f"{here} processes of this host cannot share its {number_seen} GPUs evenly")
    part = number_seen // here
    return list(range(rank * part, (rank + 1) * part))


def port(number: int) -> int:
    """A port that differs from that of most other jobs."""
    return PORTS[0] + number % PORTS[1]


def numbers(env: Mapping[str, str], count: str, index: str) -> tuple[int, int]:
    """Two variables: how many, and which one, from 0 on."""
    many, one = env.get(count, ""), env.get(index, "")
    if not (many.isdecimal() and one.isdecimal() and int(one) < int(many)):
        raise UserError(f"{index}={one} of {count}={many}: whole numbers, the first below the second")
    return int(many), int(one)


def number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable that is a whole number; `default` where it is not set, or a UserError where that is None."""
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise UserError(f"{name}={text}: a whole number")
    return int(text)
