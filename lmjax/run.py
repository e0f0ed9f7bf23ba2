"""A run directory from start to end: config -> mesh, data, model, optimizer, step, loop; and back from it to a model."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from lmjax import atomic, flops, loop, source
from lmjax.board import Board
from lmjax.checkpoint import Checkpoints
from lmjax.config import config_hash, diff, dumps, loads, update
from lmjax.data import Dataset, Prefetch, open_dataset
from lmjax.decode import Generator
from lmjax.errors import UserError, unknown
from lmjax.evaluate.language import evaluate as evaluate_batches
from lmjax.experiment import Selected
from lmjax.history import History
from lmjax.program import Later, Program, build, check, compiled
from lmjax.provenance import Manifest, RunLock, environment, params_sha256
from lmjax.session import PREEMPTED, Diverged, Session, Sinks
from lmjax.sharding import AXES, distributed
from lmjax.trackers import RunInfo, open_tracker, require
from lmjax.view import View, count

DONE, PREEMPTED_EXIT, FAILED = 0, 75, 1
FREE = "layout."  # what may change between sessions: the mesh changes no number but by rounding


class Options(NamedTuple):
    """What `lmjax train` may be asked besides the config."""

    overrides: tuple[str, ...] = ()
    allow_config_change: bool = False
    profile: tuple[int, int] | None = None
    track: str | None = None


class Loaded(NamedTuple):
    """A run directory, opened for reading: its program and data, and the parameters of one checkpoint."""

    program: Program
    dataset: Dataset
    params: Any
    step: int


def train(selected: Selected, folder: Path, options: Options = Options()) -> int:
    """Train `selected.config` in `folder`, from the start or from where it stopped; the exit code."""
    config, first_process = selected.config, jax.process_index() == 0
    view = View(quiet=not first_process)
    check(config)
    if options.track:
        require(options.track)
    if distributed.agree(lambda: is_finished(folder, config, options, view)):
        return DONE
    dataset = open_dataset(config.data, config.seed, view.say)
    dataset.check(config.steps, config.batch)
    program = build(config, vocab=dataset.tokenizer.vocab_size)
    with contextlib.ExitStack() as stack:
        if first_process:
            stack.callback(RunLock(folder).release)
        manifest = Manifest(folder)  # again: another process may have gone on with the run until now
        check_same_data(manifest, dataset, options.allow_config_change, view)
        peak = flops.peak(list(program.mesh.devices.flat))
        facts = gather_facts(selected, options, program, dataset, peak)
        section = config.eval
        checkpoints = Checkpoints(folder / "checkpoints", config.every.keep, section.best, section.mode, view.warn,
                                  lambda step: manifest.update(saved=step))  # fmt: skip
        sampler = make_sampler(program, dataset)
        lowered = program.lower_step()
        check_metric(config, lowered.out_info[1])
        compiling = Later(lambda: compiled(lowered))
        warming = Later(checkpoints.warm_up)
        state, host, first = start_state(program, checkpoints, manifest, view)
        warming()
        if first > config.steps:
            raise UserError(f"{folder} is at step {first} already, beyond steps={config.steps}")
        if options.profile and not first <= options.profile[0] < config.steps:
            raise UserError(f"--profile={options.profile[0]}:...: this session runs steps {first} to {config.steps}")
        history = History(folder / "metrics.jsonl") if first_process else None
        if history:
            again = bool(first) and host["evaluated"] != first  # stopped before the evaluation of its last step
            history.truncate_after(first, lambda line: again and line["step"] == first and "valid/loss" in line)
            manifest.start(first, **facts)
            manifest.update(data=facts["data"], config_hash=facts["config_hash"])
            stack.push(lambda kind, error, trace: seal_failure(manifest, error))
            atomic.write(folder / "config.json", dumps(config))
        sinks = Sinks(view, checkpoints, history, open_boards(selected, folder, first, options, first_process), folder)
        per_token = flops.training_flops(program.params, program.dims, length=config.data.length)
        session = Session(program, dataset, sinks, flops=per_token, peak=peak, profile=options.profile,
                          sampler=sampler)  # fmt: skip
        session.go_on(host, state)
        stack.callback(session.close)
        introduce(view, selected, folder, program, dataset, per_token, peak, first)
        return carry_out(session, manifest, compiling(), state, first)


def seal_failure(manifest: Manifest, error: BaseException | None) -> None:
    """What ended a session before its loop could say so goes into the manifest."""
    if error is not None and manifest.facts["status"] == "running":
        with contextlib.suppress(UserError):  # the first error is the one to tell
            manifest.finish("failed", cause=f"{type(error).__name__}: {error}")


def carry_out(session: Session, manifest: Manifest, step: Any, state: Any, first: int) -> int:
    """Run the loop and seal the manifest, whatever happens."""
    sinks, last = session.sinks, session.config.steps
    hooks = loop.Hooks(session.before, session.record, session.pauses, session.pause)
    finish = manifest.finish if sinks.history else lambda *args, **kwargs: None
    sinks.view.start(first, last)
    try:
        reason = catch_up(session, state, first)
        batches = session.train_batches(first)
        ending = loop.Ending(state, first, reason)
        if not reason:
            ending = loop.run(step, state, batches, first=first, last=last, hooks=hooks)
        with jax.transfer_guard("allow"):
            result = {"step": ending.done, "metrics": session.host["latest"],
                      "params_sha256": params_sha256(ending.state.params)}  # fmt: skip
        sinks.checkpoints.close()
    except BaseException as error:
        sinks.view.stop()
        with contextlib.suppress(UserError):  # the first error is the one to tell
            finish("failed", cause=f"{type(error).__name__}: {error}")
        if isinstance(error, Diverged | UserError):  # nothing that the command line got wrong: the disk, or the numbers
            print(f"lmjax: {error}", file=sys.stderr)
            return FAILED
        raise
    finally:
        for board in sinks.boards:
            board.close()
    sinks.view.stop()
    if ending.reason == PREEMPTED:
        finish("preempted", cause=session.interrupts.received or "preempted", result=result)
        sinks.view.say(f"stopped by {session.interrupts.received} after step {ending.done}, everything saved; "
                       f"the same command goes on from there")  # fmt: skip
        return PREEMPTED_EXIT
    finish("completed", cause=ending.reason or None, result=result)
    if ending.reason:
        sinks.view.say(f"stopped early after step {ending.done}: {ending.reason}")
    sinks.view.say(f"finished: {sinks.folder}  (params sha256 {result['params_sha256'][:12]})")
    sinks.view.say(next_steps(sinks.folder))
    return DONE


def catch_up(session: Session, state: Any, first: int) -> str:
    """A stop is saved without its evaluation: make up for it, so that the history is that of an unbroken run."""
    every, last = session.config.every, session.config.steps
    if first and loop.due(first, every.eval, last) and session.host["evaluated"] != first:
        reason = session.evaluate(first, state)
        session.save(first, state)  # again, now with what was measured
        return reason
    return session.out_of_patience() if first else ""


def refuse_foreign(folder: Path) -> None:
    """A folder that holds something else is not a run directory: nothing is written into it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --workdir needs a folder")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        others = [item.name for item in folder.iterdir() if item.name != "lock"]
        if others and not {"checkpoints", "metrics.jsonl"} & set(others):
            raise UserError(f"{folder} is not empty and not a run ({others[0]} is in it); choose a new --workdir")


def is_finished(folder: Path, config: ConfigDict, options: Options, view: View) -> bool:
    """Whether there is nothing left to do in `folder`; UserError if it is not this run's to write in."""
    refuse_foreign(folder)
    manifest = Manifest(folder)
    changed = check_same(manifest, folder, config, options.allow_config_change, view)
    if manifest.facts.get("status") != "completed" or changed:
        return False
    view.say(f"{folder}: finished already, at step {manifest.facts['result']['step']}; nothing to do")
    view.say(next_steps(folder))
    return True


def check_metric(config: ConfigDict, measured: dict) -> None:
    """The metric that chooses the best checkpoint must be one that an evaluation measures."""
    names = [f"valid/{name}" for name in measured if name not in ("grad_norm", "learning_rate", "skipped")]
    names += ["valid/perplexity"] if "nll" in measured else []
    if config.eval.metric not in names:
        raise unknown("metric in eval.metric", config.eval.metric, names)


def check_same(manifest: Manifest, folder: Path, config: ConfigDict, allowed: bool, view: View) -> bool:
    """Whether the config differs from that of the run in `folder`, beyond its layout; refused unless `allowed`."""
    if not manifest.facts:
        return False
    try:
        before = loads((folder / "config.json").read_text())
    except FileNotFoundError:
        if manifest.facts.get("config_hash") == config_hash(config):
            return False  # killed between the two first files
        raise UserError(
            f"{folder} has a manifest but no config.json; put it back, or start in another --workdir"
        ) from None
    changes = diff(before, config)
    for path, old, new in changes:
        if path.startswith(FREE):
            view.say(f"goes on with another layout: {path} was {old}, is {new}")
    changes = [(path, old, new) for path, old, new in changes if not path.startswith(FREE)]
    if changes and not allowed:
        listed = "\n".join(f"  {path}: was {old!r}, is {new!r}" for path, old, new in changes)
        raise UserError(
            f"{folder} is a run with another config:\n{listed}\nStart in another --workdir, or go on with the new "
            "config with --allow-config-change."
        )
    for path, old, new in changes:
        view.warn(f"goes on with a changed config: {path} was {old!r}, is {new!r}")
    return bool(changes)


def check_same_data(manifest: Manifest, dataset: Dataset, allowed: bool, view: View) -> None:
    """The same config must mean the same tokens: the text of a folder may have changed since the run began."""
    before = manifest.facts.get("data", {}).get("fingerprint", dataset.fingerprint)
    if before != dataset.fingerprint and allowed:
        view.warn(f"goes on with other data: fingerprint {dataset.fingerprint[:12]}, until now {before[:12]}")
    elif before != dataset.fingerprint:
        raise UserError(
            f"the data is not what this run began with (fingerprint {before[:12]}, now {dataset.fingerprint[:12]}): "
            "put the text back as it was, or start in another --workdir"
        )


def start_state(program: Program, checkpoints: Checkpoints, manifest: Manifest, view: View) -> tuple[Any, dict, int]:
    """The newest intact checkpoint, or a fresh state where none was ever saved."""
    restored = checkpoints.restore(program.state)
    if restored is None:
        if manifest.facts.get("saved"):
            raise UserError(
                f"this run had saved step {manifest.facts['saved']}, and {checkpoints.folder} is empty: put the "
                "checkpoints back, or start in another --workdir. Nothing was written over."
            )
        return program.compile_init()(), {}, 0
    view.say(f"goes on from step {restored.step}")
    return restored.state, restored.host, restored.step


def gather_facts(selected: Selected, options: Options, program: Program, dataset: Dataset, peak: Any) -> dict:
    """What the manifest says of this session."""
    config = selected.config
    return environment() | {
        "experiment": selected.name,
        "question": selected.question,
        "overrides": list(options.overrides),
        "config_hash": config_hash(config),
        "code": source.code(selected.source_file),
        "seed": config.seed,
        "mesh": {axis: size for axis, size in program.mesh.shape.items() if size > 1},
        "data": {"fingerprint": dataset.fingerprint, "tokenizer": dataset.tokenizer.fingerprint,
                 "source": config.data.source, **mixed(config, dataset)},
        "parameters": parameters(program),
        "peak": peak._asdict() if peak else None,
    }  # fmt: skip


def mixed(config: ConfigDict, dataset: Dataset) -> dict:
    """Of a mixture: how many rows the whole run takes from each component."""
    counts = getattr(dataset.train, "counts", None)
    return {"rows": counts(config.steps * config.batch)} if counts else {}


def parameters(program: Program) -> int:
    """How many parameters the model has."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.params))


def open_boards(selected: Selected, folder: Path, first: int, options: Options, first_process: bool) -> list:
    """TensorBoard and, when asked for, a tracker; in the first process only."""
    if not first_process:
        return []
    boards = [Board(folder, first + 1)]
    if options.track:
        from lmjax.config import flatten

        boards.append(open_tracker(options.track, RunInfo(folder, selected.name, flatten(selected.config), first + 1)))
    return boards


def make_generator(program: Program, dataset: Dataset, params: Any) -> Generator:
    """A generator for the program's model."""
    model = program.model
    limit = model.max_length if model.position == "learned" else None
    return Generator(
        model.apply, model.init_cache, params, dataset.tokenizer, max_length=limit, prepare=model.for_decoding
    )


def make_sampler(program: Program, dataset: Dataset) -> Any:
    """`sampler(params) -> text` of the config's prompt and length, at temperature 0.8; None to take no samples."""
    section = program.config.eval
    if not section.sample_length:
        return None
    from lmjax.decode import options

    made: list[Generator] = []
    section_limit, needed = program.config.eval.sample_length, len(dataset.tokenizer.encode(section.prompt)) + 1
    if program.model.position == "learned":
        section_limit = min(section_limit, program.model.max_length + 1 - needed)
        if section_limit < 1:
            raise UserError(
                f"eval.prompt is {needed} tokens long with <doc>, and the model has learned {program.model.max_length} "
                "positions: shorten it, or set eval.sample_length=0"
            )

    def sample(params: Any) -> str:
        with jax.transfer_guard("allow"):
            if not made:
                made.append(make_generator(program, dataset, params))
            generator = made[0]
            generator.params = params
            chosen = generator.generate([section.prompt], new=section_limit, options=options(temperature=0.8), seed=0)
            generator.params = None
        return section.prompt + chosen[0].text

    return sample


def introduce(view: View, selected: Selected, folder: Path, program: Program, dataset: Dataset, per_token: float,
              peak: Any, first: int) -> None:  # fmt: skip
    """The header of a run: the resolved config in brief, and what it costs."""
    config, mesh = selected.config, {axis: n for axis, n in program.mesh.shape.items() if n > 1}
    m, o, devices = config.model, config.optim, list(program.mesh.devices.flat)
    tokens = config.batch * config.data.length
    stats = dataset.stats
    view.header(selected.name, selected.question, {
        "run": f"{folder}" + (f"  (from step {first})" if first else ""),
        "model": f"{m.kind}: {m.depth} layers, width {m.width}, {m.heads} heads, {m.mlp}, {m.norm}, {m.position}; "
                 f"{parameters(program):,} parameters, {count(per_token)}FLOP a token",
        "data": f"{stats['source']['name']}: {stats['train']['tokens']:,} tokens to train on, {stats['valid']['tokens']:,} "
                f"to validate; {config.data.tokenizer}, vocabulary {dataset.tokenizer.vocab_size:,}",
        "training": f"{config.steps:,} steps of {config.batch} x {config.data.length} = {tokens:,} tokens; {o.name}, "
                    f"learning rate {o.learning_rate:g} ({o.schedule.name}, {o.schedule.warmup} warm-up), seed {config.seed}",
        "devices": f"{len(devices)} {devices[0].platform} ({devices[0].device_kind})"
                   + (f", mesh {mesh}" if mesh else "") + (f"; peak {count(peak.flops)}FLOP/s" if peak else ""),
    })  # fmt: skip


def next_steps(folder: Path) -> str:
    """What to type next."""
    return (f"next:  lmjax generate {folder} --prompt='In the beginning'   |   lmjax eval {folder}   |   "
            f"tensorboard --logdir={folder}")  # fmt: skip


def load(folder: Path, *, step: int | None = None, best: bool = False) -> Loaded:
    """The model of a run directory: its newest intact checkpoint, the best one, or that of a step."""
    try:
        config = loads((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a run directory: it has no config.json") from None
    dataset = open_dataset(config.data, config.seed)
    view = View()
    check_same_data(Manifest(folder), dataset, False, view)
    try:
        program = build(config, vocab=dataset.tokenizer.vocab_size)
    except UserError:  # it was trained on more devices than there are here
        whole = {f"layout.mesh.{axis}": -1 if axis == "data" else 1 for axis in AXES}
        config = update(config, {**whole, "eval.batch": None, "batch": config.batch * len(jax.devices())})
        program = build(config, vocab=dataset.tokenizer.vocab_size)
        view.warn(f"the run's mesh does not fit the devices here: opened on {len(jax.devices())} of them")
    checkpoints = Checkpoints(folder / "checkpoints", config.every.keep, config.eval.best, config.eval.mode, view.warn)
    if best:
        if step is not None:
            raise UserError("--best and --step both choose a checkpoint: give one of them")
        ranked = checkpoints.best()
        if not ranked:
            raise UserError(f"{folder} has no checkpoint that was evaluated, so none is the best; leave out --best")
        step = ranked[0]
    name = "ema" if jax.tree.leaves(program.state.ema) else "params"
    restored = checkpoints.restore({name: program.params}, step=step, unused="ignore")
    if restored is None:
        raise UserError(
            f"{folder} has no checkpoint yet: train it first, or for longer than every.save={config.every.save}"
        )
    return Loaded(program, dataset, restored.state[name], restored.step)


def evaluate(loaded: Loaded, *, batch: int | None = None) -> dict[str, float]:
    """The validation metrics of a loaded run over the whole split, `batch` rows at a time."""
    program, dataset = loaded.program, loaded.dataset
    batch = batch or program.config.eval.batch or program.config.batch
    batch = min(batch, -(-len(dataset.valid) // program.mesh.size) * program.mesh.size)
    program.layout.sharding(program.mesh, "acts", "bt", (batch, program.config.data.length), "--batch")
    rows = program.local_rows(batch)
    make = lambda i: program.place(dataset.valid_batch(i, batch, rows), batch)  # noqa: E731
    with Prefetch(make, 0, stop=dataset.valid_batches(batch)) as batches:
        return evaluate_batches(program.compile_eval(batch), loaded.params, batches)


def generate(
    folder: Path, prompt: str, *, step: int | None, best: bool, new: int, options: Any, seed: int, n: int
) -> None:
    """Stream `n` texts after `prompt` to the terminal, one after the other."""
    if n < 1:
        raise UserError(f"--n={n}: at least 1")
    loaded, view = load(folder, step=step, best=best), View()
    generator = make_generator(loaded.program, loaded.dataset, loaded.params)
    for row in range(n):
        if n > 1:
            view.say(f"--- {row + 1} of {n}", style="dim")
        print(prompt, end="", flush=True)
        generator.generate([prompt], new=new, options=options, seed=seed, first_row=row,
                           on_text=lambda row, piece: print(piece, end="", flush=True))  # fmt: skip
        print()
