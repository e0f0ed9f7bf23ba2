"""Small train states of every kind of leaf, their checkpoints, and processes that save and restore them."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax.checkpoint import Checkpoints
from tests import runs


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: tuple


class OtherState(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: tuple


def make_state(seed=0, width=6):
    w_df = jax.random.normal(jax.random.key(seed), (5, width))
    blocks = {"query": w_df, "norm": w_df[0].astype(jnp.bfloat16)}
    params = {"blocks": blocks, "mask": w_df > 0, "none": jnp.ones((0, 3))}
    return State(jnp.int32(seed), params, optax.adamw(1e-3).init({"w": w_df}), ())


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = jax.tree_util.tree_leaves(found)[[p for p, _ in jax.tree_util.tree_leaves_with_path(found)].index(path)]
        assert other.dtype == leaf.dtype and other.shape == leaf.shape, path
        assert np.asarray(other).tobytes() == np.asarray(leaf).tobytes(), path


def contents(folder):
    """Every name below `folder` with the hash of its bytes."""
    paths = sorted(pathlib.Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def save_all(folder, *steps, **options):
    checkpoints = Checkpoints(folder, **{"keep": 10, **options})
    for step in steps:
        checkpoints.save(step, make_state(step), {"batch": step})
    checkpoints.close()


def restore(folder, **options):
    warnings = []
    checkpoints = Checkpoints(folder, warn=warnings.append)
    try:
        return checkpoints.restore(abstract(make_state()), **options), warnings
    finally:
        checkpoints.close()


def start(code, *arguments, devices=1):
    """Starts `code` in a Python of its own with `devices` fake devices."""
    environment = {**os.environ, "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = runs.fake(devices)
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(child):
    """The words of the last line that the child printed."""
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out.splitlines()[-1].split()
