"""For all tests: the CPU, one compilation cache under .pytest_cache, and `--update-goldens`."""

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

GOLDENS = Path(__file__).parent / "goldens"
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_addoption(parser):
    parser.addoption("--update-goldens", action="store_true", help="write tests/goldens/*.json instead of comparing")


def pytest_configure(config):
    """Before any test module imports JAX; processes that tests start inherit it.

    XLA optimises next to nothing: the same numbers up to rounding, and a fifth of the time to compile. What the
    environment sets stays: `XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles as `lmjax` does.
    """
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("xla")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if version("jaxlib").startswith("0.10."):  # at a flag that it does not know, as 0.12 does not, XLA aborts
        os.environ.setdefault("XLA_FLAGS", QUICK)


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory):
    """What was compiled once in a module is not compiled again in it."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.mktemp("programs")))
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def golden(request):
    """`golden(name, made)`: what tests/goldens/NAME.json holds, to compare with `made`.

    `pytest tests/test_presets.py --update-goldens` writes `made` there first. A changed golden is the
    headline of the commit that changes it.
    """

    def read(name, made):
        file = GOLDENS / f"{name}.json"
        if request.config.getoption("--update-goldens"):
            file.write_text("[\n" + ",\n".join(map(json.dumps, made)) + "\n]\n")  # a list, one item a line
        return json.loads(file.read_text())

    return read


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 8 MiB of room."""
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)
