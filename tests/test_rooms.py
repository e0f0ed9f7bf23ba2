"""The map of the rooms: who may import whom, and what starting the command line may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "lmjax"

# A room is a package or a module of lmjax, and this is all that it may import of the others.
GROUND = {"errors", "atomic", "parts", "environment"}
LETS = {
    "errors": set(),
    "atomic": {"errors"},
    "parts": {"errors"},
    "heap": set(),
    "environment": {"heap"},
    "metrics": set(),
    "sharding": GROUND,
    "layers": GROUND | {"sharding"},
    "models": GROUND | {"sharding", "layers"},
    "objectives": GROUND | {"metrics", "layers"},
    "optim": GROUND,
    "step": GROUND | {"metrics", "optim"},
    "evaluate": GROUND | {"metrics"},
    "decode": GROUND,
    "seal": GROUND,
    "augment": GROUND,
    "data": GROUND | {"seal", "augment"},
    "checkpoint": GROUND | {"seal"},
    "loop": GROUND,
    "flops": GROUND,
}
# These see every room that is not above them.
ABOVE = (
    "program",
    "session",
    "start",
    "resume",
    "counted",
    "counting",
    "asking",
    "trained",
    "evaluation",
    "translate",
    "interop",
    "run",
    "study",
    "plan",
    "show",
    "verbs",
    "__main__",
)
LINEN = {"sharding", "layers", "models"}
ELSEWHERE = {"tensorflow", "keras", "torch", "transformers", "tests", "benchmarks"}


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room(file):
    """lmjax/layers/mlp.py -> layers, lmjax/step.py -> step."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(text):
    """Dotted names of everything that a file imports, wherever it stands in it: `from a import b` gives a.b."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(names):
    """The rooms of lmjax among dotted names."""
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "lmjax" and len(part) > 1 and not part[1].startswith("__")}


def test_imports_are_seen_wherever_they_stand():
    text = "import a.b\nfrom lmjax import models\ndef f():\n    from lmjax.layers.mlp import Mlp, MLPS\n    import jax"
    assert imports(text) == {"a.b", "lmjax.models", "lmjax.layers.mlp.Mlp", "lmjax.layers.mlp.MLPS", "jax"}
    assert rooms(imports(text)) == {"models", "layers"}
    assert {room(file) for file in files()} >= {"sharding", "layers", "models", "step", "run", "__main__"}


@pytest.mark.parametrize("name", LETS)
def test_a_room_imports_only_what_the_map_lets_it(name):
    own = [file for file in files() if room(file) == name]
    assert own, f"the map has a room {name}, and lmjax has none"
    for file in own:
        strangers = rooms(imports(file.read_text())) - LETS[name] - {name}
        assert not strangers, f"{file.relative_to(REPOSITORY)} imports {strangers}"


def test_only_what_puts_rooms_together_imports_models_or_stands_above_them():
    order = ["models", *ABOVE]
    for file in files():
        mine = order.index(room(file)) if room(file) in order else -1
        for other in rooms(imports(file.read_text())) & set(order) - {room(file)}:
            assert order.index(other) < mine, f"{file.relative_to(REPOSITORY)} imports {other}"


def test_rooms_import_each_other_in_one_direction():
    edges = {}
    for file in files():
        edges.setdefault(room(file), set()).update(rooms(imports(file.read_text())) - {room(file)})
    done = set()
    while rest := set(edges) - done:
        free = {name for name in rest if not (edges[name] & set(edges)) - done}
        assert free, f"a circle of imports among {sorted(rest)}"
        done |= free


def test_lmjax_never_imports_configs_experiments_or_other_frameworks():
    for file in files():
        tops = {name.split(".")[0] for name in imports(file.read_text())}
        assert not tops & ({"configs", "experiments"} | ELSEWHERE), file.relative_to(REPOSITORY)


def test_linen_stays_in_layers_models_and_sharding():
    users = {room(file) for file in files() if any(name.startswith("flax") for name in imports(file.read_text()))}
    assert users == LINEN


def test_configs_and_experiments_are_recipes():
    """They import lmjax's config, experiment and spaces modules and each other, and no JAX."""
    allowed = {"lmjax.config", "lmjax.experiment", "lmjax.study.spaces", "configs"}
    for file in sorted([*REPOSITORY.glob("configs/*.py"), *REPOSITORY.glob("experiments/*.py")]):
        for name in imports(file.read_text()):
            assert any(name == ok or name.startswith(f"{ok}.") for ok in allowed), (file.name, name)


def loaded_by(module):
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_starting_the_command_line_loads_no_jax():
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "grain", "tensorboard"}
    for module in ("lmjax.__main__", "lmjax.experiment", "lmjax.environment"):
        assert not loaded_by(module) & heavy, module


def test_everything_that_training_imports_leaves_tensorflow_out():
    loaded = loaded_by("lmjax.run")
    assert "jax" in loaded and not loaded & ELSEWHERE
