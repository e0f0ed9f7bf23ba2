"""The process that compiles: `python -m lmjax.plan.worker REQUEST ANSWER`, both JSON files.

A compiler for a chip that is not here wants variables before JAX is imported and keeps gigabytes when it is done, so
the command line never loads it: `ask` starts this module with the right environment and reads what it wrote.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmjax.errors import UserError
from lmjax.plan import topology

MISSING = 'the TPU compiler is not installed: pip install "jax[tpu]" (it needs no TPU)'


def ask(config: Any, where: topology.Topology, **options: Any) -> dict:
    """The plan of `config` on `where`, made in a process of its own; its mistakes of the user are UserErrors here."""
    from lmjax.config import dumps

    if where.kind not in topology.HERE and importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={where.name}: {MISSING}")
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps({"config": dumps(config), "topology": list(where), "options": options}))
        command = [sys.executable, "-m", "lmjax.plan.worker", str(request), str(answer)]
        ran = subprocess.run(command, env=topology.environment(where), capture_output=True, text=True)
        if not answer.exists() and (fatal := re.search(r"^F\d{4} .*?\] (.*)$", ran.stderr, re.MULTILINE)):
            raise UserError(f"--topology={where.name}: the compiler itself failed ({fatal[1]}); that is a bug in it, which "
                            "another mesh, other sizes or another version may not meet")  # fmt: skip
        if not answer.exists():
            raise RuntimeError(f"the process that compiles for {where.name} ended with {ran.returncode}:\n"
                               f"{ran.stderr[-4000:]}")  # fmt: skip
        found = json.loads(answer.read_text())
    if "mistake" in found:
        raise UserError(found["mistake"])
    return found


def answer_to(request: Mapping[str, Any]) -> dict:
    """The plan that a request asks for, or the user's mistake in it."""
    from lmjax import discover
    from lmjax.config import loads
    from lmjax.plan.building import plan

    discover.open_rooms()
    kind, sides, slices = request["topology"]
    try:
        return plan(loads(request["config"]), topology.Topology(kind, tuple(sides), slices), **request["options"])
    except UserError as error:
        return {"mistake": str(error)}


if __name__ == "__main__":
    made = answer_to(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(made, sort_keys=True))
