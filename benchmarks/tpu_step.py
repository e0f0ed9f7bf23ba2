"""Training steps for TPUs that are not here, by their real compiler: lmjax beside MaxText, the same models and chips.

    python benchmarks/tpu_step.py --maxtext envs/maxtext/bin/python [--rows llama2-7b:v5e] [--json tpu.json]

Without --rows it makes all of them again and prints what each is over MaxText.

Both are compiled ahead of time in one environment (MaxText's: Python 3.12, `maxtext[tpu]==0.2.5`, with what lmjax
needs), and one estimator, `lmjax.plan.timeline`, walks both programs. Memory is the compiler's own account. No TPU is
timed: these are estimates, and the ratio is what they are for. A row takes some minutes of one core and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


class Row(NamedTuple):
    """One model on one topology, in the words of each framework."""

    topology: str
    rows_a_device: int
    length: int
    lmjax: list[str]
    maxtext: list[str]
    slices: int = 1


LLAMA = ["model_name=llama2-7b"]
BILLION = ["--config.model.depth=16", "--config.model.kv_heads=16", "--config.model.heads=16",
           "--config.model.mlp_width=7168", "--config.model.remat=full"]  # fmt: skip
ROWS = {
    "llama2-7b:v5e": Row("v5e:16x16", 4, 2048, ["configs/lm.py:llama_7b", "--config.model.remat=full"],
                         ["compile_topology=v5e-256", "remat_policy=full", *LLAMA]),
    "1b:v5e": Row("v5e:16x16", 4, 2048, ["configs/lm.py:llama_1b", *BILLION],
                  ["compile_topology=v5e-256", "remat_policy=full"]),
    "1b:v6e": Row("v6e:16x16", 4, 2048, ["configs/lm.py:llama_1b", *BILLION],
                  ["compile_topology=v6e-256", "remat_policy=full"]),
    "llama2-7b:v5p": Row("v5p:4x4x4", 4, 4096, ["configs/lm.py:llama_7b", "--config.model.remat=minimal"],
                         ["compile_topology=v5p-128", "remat_policy=minimal", *LLAMA]),
    "1b:tpu7x": Row("tpu7x:2x2x4", 4, 2048, ["configs/lm.py:llama_1b", *BILLION], []),
    "1b:v5e-two-slices": Row("v5e:8x8", 4, 2048, ["configs/lm.py:llama_1b", "--config.layout.mesh.data=2", *BILLION],
                             ["compile_topology=v5e-64", "remat_policy=full"], 2),
}  # fmt: skip
NAMES = {"maxtext": "MaxText", "plain": "lmjax, no options", "lmjax": "lmjax"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--maxtext", help="the Python of an environment with MaxText; none: lmjax alone")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--contenders", nargs="+", choices=("lmjax", "plain", "maxtext"), default=["lmjax", "maxtext"],
                        help="plain: lmjax without its compiler options for the chip, as MaxText is without any")  # fmt: skip
    parser.add_argument("--json", type=Path, help="keep the figures there; those that are there are not made again")
    arguments = parser.parse_args()
    found = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for name in arguments.rows:
        for contender, make in (("lmjax", lmjax), ("plain", partial(lmjax, plain=True)), ("maxtext", maxtext)):
            key, none = f"{name} {contender}", contender == "maxtext" and not (arguments.maxtext and ROWS[name].maxtext)
            if key in found or contender not in arguments.contenders or none:
                continue
            found[key] = make(ROWS[name], arguments.maxtext or sys.executable)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(table(found))


def lmjax(row: Row, python: str, plain: bool = False) -> dict:
    """The plan of the command line, in the environment that MaxText is compiled in."""
    from lmjax.plan import topology

    devices = topology.parse(row.topology, row.slices).devices
    words = [f"--topology={row.topology}", f"--slices={row.slices}", f"--config.batch={devices * row.rows_a_device}",
             f"--config.data.length={row.length}", "--json", *(["--plain"] if plain else [])]  # fmt: skip
    done = subprocess.run([python, "-m", "lmjax", "plan", *row.lmjax, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"lmjax plan {' '.join([*row.lmjax, *words])} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    plan = json.loads(done.stdout)
    if not plan["fits"]:
        raise SystemExit(f"{row.topology}: lmjax does not fit: {plan['memory']}")
    return {"memory": plan["memory"]["total"], "seconds": plan["time"]["estimate"], "flops": plan["hlo_flops"],
            "exposed": plan["time"]["exposed"], "kernels": plan["time"]["kernels"], "versions": plan["versions"],
            "compile": plan["seconds"]["compile"]}  # fmt: skip


def maxtext(row: Row, python: str) -> dict:
    """MaxText's own ahead-of-time compilation, and its program walked by our estimator."""
    from lmjax.plan import topology

    where = topology.parse(row.topology, row.slices)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        options = [f"per_device_batch_size={row.rows_a_device}", f"max_target_length={row.length}",
                   f"compile_topology_num_slices={row.slices}", *row.maxtext]  # fmt: skip
        command = [python, str(ROOT / "benchmarks/peers/maxtext_step.py"), str(answer), *options]
        environment = topology.environment(where, os.environ | {"PYTHONPATH": ""})
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if not answer.exists():
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        made = json.loads(answer.read_text())
    return walk(made, where, row)


def walk(made: dict, where: object, row: Row) -> dict:
    import numpy as np

    from lmjax.plan import hlo
    from lmjax.plan.chips import CHIPS
    from lmjax.plan.collectives import Network
    from lmjax.plan.timeline import Walk

    chip, coordinates = CHIPS[where.kind], np.array(made["coordinates"])
    sides = tuple(int(np.ptp(column)) + 1 for column in coordinates.T)
    network = Network(tuple(made["axes"]), tuple(made["shape"]), coordinates, np.array(made["slices"]), sides, chip.wraps,
                      chip.link, chip.network)  # fmt: skip
    blocks = max(1, row.length // 512)
    account = Walk(hlo.parse(made["hlo"]), chip, network, (blocks + 1) / (2 * blocks)).run()
    return {"memory": made["memory"], "seconds": account.seconds, "flops": account.flops, "kernels": account.kernels,
            "exposed": sum(one.waited for one in account.collectives), "notes": sorted(account.notes),
            "versions": made["versions"], "compile": made["compile"]}  # fmt: skip


def table(found: dict) -> str:
    """Markdown: memory and estimated seconds of each, and what they are over MaxText's."""
    lines = [
        "| model, chips | program | GiB a device | over MaxText | estimated s | over MaxText |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        peer = found.get(f"{name} maxtext")
        what = f"{name.partition(':')[0]}, {row.topology}{f' x {row.slices} slices' if row.slices > 1 else ''}, " \
               f"{row.rows_a_device} x {row.length} a device"  # fmt: skip
        for contender in ("maxtext", "plain", "lmjax"):
            if one := found.get(f"{name} {contender}"):
                of, ratios = NAMES[contender], ["", ""]
                if peer and one is not peer:
                    ratios = [f"{one[figure] / peer[figure]:.3f} x" for figure in ("memory", "seconds")]
                lines.append(
                    f"| {what} | {of} | {one['memory'] / 2**30:.2f} | {ratios[0]} | {one['seconds']:.3f} | {ratios[1]} |"
                )
                what = ""
    return "\n".join(lines)


if __name__ == "__main__":
    main()
