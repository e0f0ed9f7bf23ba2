"""From a resolved config to what can be compiled: mesh, model, objective, optimizer, and the steps with shardings.

`lmjax train`, `lmjax eval`, `lmjax generate`, the benchmarks and ahead-of-time compilation all build this one thing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lmjax import compiler, heap, models, objectives, optim, step
from lmjax.augment.wrap import augmented
from lmjax.data import Dataset, kinds
from lmjax.errors import UserError, unknown
from lmjax.objectives.auxiliary import with_auxiliary
from lmjax.sharding import Layout, dims_of, placed, unbox
from lmjax.sharding.pipeline import pipeline


@dataclass(frozen=True)
class Program:
    """Everything that is decided before the first compilation; nothing in it holds an array."""

    config: ConfigDict
    layout: Layout
    mesh: Mesh
    model: Any
    objective: Callable
    optimizer: optim.Optimizer
    dims: Any  # dimension letters of every parameter
    state: step.TrainState  # shapes, types and shardings
    rows: dict[str, NamedSharding]  # of each field of a batch

    @property
    def params(self) -> Any:
        """Shapes, types and shardings of the parameters."""
        return self.state.params

    @property
    def met(self) -> float:
        """The share of its experts that a token meets; 1 for models without."""
        moe = getattr(self.model, "moe", None)
        return moe.top / moe.experts if moe else 1.0

    def batch(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a batch, of data.length tokens a row unless given."""
        return example(self.config, rows, self.rows, length)

    def compile_init(self) -> Callable[[], step.TrainState]:
        """`init() -> state`, from the config's seed: the same bits on every mesh."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        return compiled(self._lower(jax.jit(self._init, out_shardings=shardings)))

    def lower_step(self, length: int | None = None, *, tuned: bool = True) -> Any:
        """The training step, lowered: `compiled` gives `step(state, batch) -> (state, metrics)`, state donated.

        tuned: with the compiler options that suit the mesh's chips.
        """
        o = self.config.optim
        run = step.make_train_step(self.model.apply, self.objective, self.optimizer, microbatches=o.microbatches,
                                   seed=self.config.seed, ema=o.ema, skip=o.skip)  # fmt: skip
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        options = compiler.options(self.mesh.devices.flat[0].device_kind) if tuned else None
        jitted = jax.jit(run, donate_argnums=0, out_shardings=(shardings, self._replicated()), compiler_options=options)
        return self._lower(jitted, self.state, self.batch(self.config.batch, length))

    def compile_eval(self, rows: int, lengths: Sequence[int] = ()) -> Callable[[Any, Mapping], dict]:
        """`evaluate(params, batch) -> metrics` as sums over the batch, for rows of these lengths."""
        run = jax.jit(step.make_eval_step(self.model.apply, self.objective), out_shardings=self._replicated())
        lengths = lengths or (self.config.data.length,)
        lowered = {length: self._lower(run, self.params, self.batch(rows, length)) for length in lengths}
        return by_length({length: compiled(one) for length, one in lowered.items()})

    def place(self, local: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """A global batch of `rows` rows on the mesh from the rows of this process, in order."""
        if jax.process_count() == 1:  # all at once takes a third of the time
            return jax.device_put({name: local[name] for name in self.rows}, self.rows)
        return {
            name: jax.make_array_from_process_local_data(sharding, local[name], (rows, *local[name].shape[1:]))
            for name, sharding in self.rows.items()
        }

    def local_rows(self, rows: int) -> np.ndarray:
        """The numbers, within a global batch of `rows`, of the rows that this process must supply."""
        sharding = NamedSharding(self.mesh, self.layout.spec("acts", "b"))
        slices = {index[0].indices(rows)[:2] for index in sharding.addressable_devices_indices_map((rows,)).values()}
        return np.concatenate([np.arange(*ends) for ends in sorted(slices)])

    def _init(self) -> step.TrainState:
        zeros = jax.tree.map(lambda field: jnp.zeros(field.shape, field.dtype), example(self.config))
        boxed = self.model.init(jax.random.key(self.config.seed), zeros, train=False)["params"]
        return step.init_state(unbox(boxed), self.optimizer, self.config.optim)

    def _replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def _lower(self, jitted: Any, *args: Any) -> Any:
        with placed(self.layout, self.mesh):
            return jitted.lower(*args)


def compiled(lowered: Any) -> Any:
    """The executable. What the compiler allocated goes back to the system: glibc would keep 300 MB of it."""
    executable = lowered.compile()
    heap.trim()
    return executable


def by_length(functions: Mapping[int, Callable]) -> Callable:
    """The function for the length of the rows of its second argument, a batch."""
    if len(functions) == 1:
        return next(iter(functions.values()))
    return lambda first, batch: functions[batch["tokens"].shape[-1]](first, batch)


def example(
    config: ConfigDict, rows: int = 1, shardings: Mapping[str, Any] | None = None, length: int | None = None
) -> dict:
    """Shapes and types of a batch of `rows` rows, of data.length tokens unless given."""
    found = {}
    for name, field in kinds.fields(config.data).items():
        shape = (*field.shape[:-1], length) if length is not None and "t" in field.letters else field.shape
        found[name] = jax.ShapeDtypeStruct((rows, *shape), field.dtype, sharding=shardings and shardings[name])
    return found


def build(config: ConfigDict, *, vocab: int, classes: int = 0, devices: Sequence[jax.Device] | None = None) -> Program:
    """Check the whole config against the devices and build the program; every mistake is a UserError, before compiling."""
    layout, mesh, model, objective, rows = parts(config, vocab, classes, devices)
    boxed = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), example(config))["params"]
    dims, abstract = dims_of(boxed), unbox(boxed)
    optimizer = optim.build(config.optim, config.steps, abstract, dims)
    shardings = layout.param_shardings(mesh, abstract, dims)
    state = abstract_state(config, optimizer, abstract, shardings, NamedSharding(mesh, PartitionSpec()))
    return Program(config, layout, mesh, model, objective, optimizer, dims, state, rows)


def build_for(config: ConfigDict, dataset: Dataset) -> Program:
    """`build` with the vocabulary and the classes of a dataset; of images with labels there is no tokenizer."""
    vocab = dataset.tokenizer.vocab_size if dataset.tokenizer else 0
    return build(config, vocab=vocab, classes=len(dataset.classes))


def check(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> None:
    """What of a config can be checked before its data, and so its vocabulary, is there: in milliseconds."""
    parts(config, getattr(config.model, "vocab", None) or 257, 2, devices)
    optim.choose(config.optim)


def parts(config: ConfigDict, vocab: int, classes: int, devices: Sequence[jax.Device] | None) -> tuple:
    """Layout, mesh, model, objective and the shardings of a batch."""
    devices = list(devices if devices is not None else jax.devices())
    layout = make_layout(config.layout)
    mesh = layout.make_mesh(devices)
    platform = devices[0].platform
    fields = tuple(kinds.fields(config.data))
    model = models.build(config, vocab=vocab, classes=classes, platform=platform, fields=fields)
    objective = objectives.build(config.objective, vocab=model.padded_vocab(), platform=platform)
    objective = with_auxiliary(augmented(objective, config.data))
    return layout, mesh, model, objective, check_batch(config, layout, mesh)


def make_layout(section: ConfigDict) -> Layout:
    """The config's layout; runs from before pipelines have tables only."""
    pipeline = section.pipeline if "pipeline" in section else {"microbatches": None, "rounds": 1}
    context = section.context if "context" in section else "auto"
    return Layout(section.mesh, section.params, section.acts, context, pipeline["microbatches"], pipeline["rounds"])


def check_batch(config: ConfigDict, layout: Layout, mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of each field of a batch, after the checks that microbatches and mesh divide its rows."""
    length, micro = config.data.length, config.optim.microbatches
    for name, value in (("batch", config.batch), ("steps", config.steps), ("data.length", length)):
        if value < 1:
            raise UserError(f"{name}={value}: at least 1")
    for name in ("every.log", "every.eval", "every.save", "every.histograms", "eval.sample_length", "eval.best"):
        section, _, leaf = name.partition(".")
        if (config[section][leaf] or 0) < 0:
            raise UserError(f"{name}={config[section][leaf]}: 0 or more")
    for name in ("every.keep", "eval.batch", "eval.batches", "eval.patience"):
        section, _, leaf = name.partition(".")
        if config[section][leaf] is not None and config[section][leaf] < 1:
            raise UserError(f"{name}={config[section][leaf]}: at least 1")
    if config.eval.mode not in ("min", "max"):
        raise unknown("value of eval.mode", config.eval.mode, ("min", "max"))
    if micro < 1 or config.batch % micro:
        raise UserError(f"optim.microbatches={micro} does not divide batch={config.batch} rows")
    layout.sharding(mesh, "acts", "bt", (config.batch // micro, length), "a microbatch" if micro > 1 else "batch")
    evaluated = config.eval.batch or config.batch
    layout.sharding(mesh, "acts", "bt", (evaluated, length), "eval.batch")
    if (made := pipeline(layout, mesh)) is not None:
        depth = getattr(config.model, "depth", made.stages * made.rounds)
        made.check(config.batch // micro, depth)
        made.check(evaluated, depth)
    fields = kinds.fields(config.data)
    return {name: NamedSharding(mesh, layout.spec("acts", field.letters)) for name, field in fields.items()}


def abstract_state(config, optimizer, abstract, shardings, replicated) -> step.TrainState:
    """The train state as shapes with shardings: what follows a parameter is sharded like it, the rest replicated."""
    shapes = jax.eval_shape(lambda params: step.init_state(params, optimizer, config.optim), abstract)
    places = step.TrainState(
        step=replicated,
        params=shardings,
        opt_state=optim.opt_state_shardings(optimizer, abstract, shardings, replicated),
        ema=shardings if jax.tree.leaves(shapes.ema) else (),
        guard=jax.tree.map(lambda _: replicated, shapes.guard),
    )

    def struct(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(struct, shapes, places)


class Later:
    """A call that runs in the background; `()` waits for it and gives its value or raises its error."""

    def __init__(self, function: Callable[[], Any]):
        self._value, self._error = None, None
        self._thread = threading.Thread(target=self._run, args=(function,))  # no daemon: XLA aborts if it is cut off
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:  # handed to the caller below
            self._error = error

    def __call__(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value
