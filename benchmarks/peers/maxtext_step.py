"""MaxText's train step, compiled ahead of time by its own train_compile: the program, its memory and its mesh as JSON.

python maxtext_step.py ANSWER.json compile_topology=v5e-256 per_device_batch_size=4 ...
"""

import importlib.metadata
import json
import os
import sys
import time

import jax
import maxtext
import numpy as np
from maxtext.trainers.pre_train import train_compile

answer, options = sys.argv[1], sys.argv[2:]
inner = train_compile.jit_and_compile


def jit_and_compile(func, inputs, keywords, mesh, *rest):
    """What MaxText does, and then the answer."""
    started = time.perf_counter()
    compiled = inner(func, inputs, keywords, mesh, *rest)
    seconds = time.perf_counter() - started
    found, devices = compiled.memory_analysis(), list(mesh.devices.flat)
    new = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    made = {
        "memory": found.argument_size_in_bytes + new + found.temp_size_in_bytes + found.generated_code_size_in_bytes,
        "axes": list(mesh.axis_names), "shape": list(mesh.devices.shape), "hlo": compiled.as_text(),
        "coordinates": np.array([device.coords for device in devices]).tolist(),
        "slices": [getattr(device, "slice_index", None) or 0 for device in devices], "compile": round(seconds, 1),
        "versions": {name: importlib.metadata.version(name) for name in ("maxtext", "jax", "libtpu")},
    }  # fmt: skip
    with open(answer, "w") as file:
        json.dump(made, file)
    os._exit(0)  # the rest prints


train_compile.jit_and_compile = jit_and_compile
base = os.path.join(os.path.dirname(maxtext.__file__), "configs", "base.yml")
jax.config.update("jax_compilation_cache_dir", None)
train_compile.main(["train_compile", base, *options, "base_output_directory=/tmp/maxtext", "enable_checkpointing=false",
                    "run_name=plan", "dataset_type=synthetic", "jax_cache_dir="])  # fmt: skip
