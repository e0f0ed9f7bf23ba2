"""A run directory from start to end: config -> mesh, data, model, optimizer, step, loop."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from lmjax import atomic, counted, counting, flops, heap, loop, resume, source, trained
from lmjax.board import Board
from lmjax.chain import Chain
from lmjax.checkpoint import Checkpoints
from lmjax.config import config_hash, dumps
from lmjax.data import Dataset, kinds, open_dataset
from lmjax.errors import UserError, check_wanted, unknown
from lmjax.experiment import Selected
from lmjax.goodput import Account
from lmjax.history import History
from lmjax.program import Later, Program, build_for, by_length, check, compiled
from lmjax.provenance import Manifest, RunLock, environment, params_sha256, program_sha256
from lmjax.session import PREEMPTED, Diverged, Session, Sinks
from lmjax.sharding import distributed
from lmjax.trackers import RunInfo, open_tracker, require
from lmjax.view import View, count

DONE, PREEMPTED_EXIT, FAILED = 0, 75, 1


class Options(NamedTuple):
    """What `lmjax train` may be asked besides the config."""

    overrides: tuple[str, ...] = ()
    allow_config_change: bool = False
    profile: tuple[int, int] | None = None
    track: str | None = None
    until: int | None = None  # stop after this step, evaluated if that is due and saved; the next session goes on
    wanted: tuple[str, ...] = ()  # metrics that must be among those it will measure


def train(selected: Selected, folder: Path, options: Options = Options()) -> int:
    """Train `selected.config` in `folder`, from the start or from where it stopped; the exit code."""
    config, first_process, account = selected.config, jax.process_index() == 0, Account()
    if config.model.kind in counted.KINDS:
        return counting.train(selected, folder, options) if first_process else DONE
    view = View(quiet=not first_process)
    check(config)
    if options.track:
        require(options.track)
    if distributed.agree(lambda: resume.is_finished(folder, config, options.allow_config_change, view)):
        return DONE
    dataset = open_dataset(config.data, config.seed, view.say)
    dataset.check(config.steps, config.batch)
    program = build_for(config, dataset)
    with contextlib.ExitStack() as stack:
        if first_process:
            stack.callback(RunLock(folder).release)
        manifest = Manifest(folder)  # again: another process may have gone on with the run until now
        resume.check_same_data(manifest, dataset, options.allow_config_change, view)
        peak = flops.peak(list(program.mesh.devices.flat))
        facts = gather_facts(selected, options, program, dataset, peak)
        section = config.eval
        checkpoints = Checkpoints(folder / "checkpoints", config.every.keep, section.best, section.mode, view.warn,
                                  lambda step: manifest.update(saved=step))  # fmt: skip
        sampler = trained.make_sampler(program, dataset)
        lowered = {width: program.lower_step(width) for width in dataset.widths}
        facts["program"] = {str(width): program_sha256(one) for width, one in lowered.items()}
        check_metrics(config, next(iter(lowered.values())).out_info[1], options.wanted)
        compiling = Later(lambda: by_length({width: compiled(one) for width, one in lowered.items()}))
        warming = Later(checkpoints.warm_up)
        tokenizer = facts["data"]["tokenizer"]
        state, host, first = resume.start_state(program, checkpoints, manifest, view, tokenizer)
        facts |= {"start": host["start"]} if "start" in host else {}
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
            account.open(folder, first, view.warn)
        chained = Chain(folder, first) if first_process else None
        boards = open_boards(selected, folder, first, options, first_process)
        sinks = Sinks(view, checkpoints, history, boards, folder, chained, account)
        per_token = flops.training_flops(program.params, program.dims, length=config.data.length, met=program.met)
        session = Session(program, dataset, sinks, flops=per_token, peak=peak, profile=options.profile,
                          sampler=sampler, until=options.until)  # fmt: skip
        session.go_on(host, state)
        stack.callback(session.close)
        introduce(view, selected, folder, program, dataset, per_token, peak, first)
        with account("compile"):
            step = compiling()
        if facts["devices"]["platform"] == "cpu":
            heap.keep()
        return carry_out(session, manifest, step, state, first)


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
        reason = catch_up(session, state, first) or session.enough(first)
        batches = session.train_batches(first)
        ending = loop.Ending(state, first, reason)
        if not reason:
            session.account.become("step")
            ending = loop.run(step, state, batches, first=first, last=last, hooks=hooks)
        session.account.become("save")
        with jax.transfer_guard("allow"):
            result = {"step": ending.done, "metrics": session.host["latest"],
                      "params_sha256": params_sha256(ending.state.params)}  # fmt: skip
        sinks.checkpoints.close()
        if sinks.chain:
            sinks.chain.flush()
        session.account.write()
    except BaseException as error:
        sinks.view.stop()
        with contextlib.suppress(UserError, OSError):  # the first error is the one to tell
            session.account.write()
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
        cause = session.interrupts.received or f"--until={session.until}"
        finish("preempted", cause=cause, result=result)
        sinks.view.say(f"stopped by {cause} after step {ending.done}, everything saved; "
                       f"the same command goes on from there")  # fmt: skip
        tell_account(session)
        return PREEMPTED_EXIT
    finish("completed", cause=ending.reason or None, result=result)
    if ending.reason:
        sinks.view.say(f"stopped early after step {ending.done}: {ending.reason}")
    sinks.view.say(f"finished: {sinks.folder}  (params sha256 {result['params_sha256'][:12]})")
    tell_account(session)
    sinks.view.say(resume.next_steps(sinks.folder, session.config))
    return DONE


def tell_account(session: Session) -> None:
    """The line of goodput.json."""
    if session.account.whole:
        session.sinks.view.say(session.account.line())


def catch_up(session: Session, state: Any, first: int) -> str:
    """A stop is saved without its evaluation: make up for it, so that the history is that of an unbroken run."""
    every, last = session.config.every, session.config.steps
    if first and loop.due(first, every.eval, last) and session.host["evaluated"] != first:
        reason = session.evaluate(first, state)
        session.save(first, state)  # again, now with what was measured
        return reason
    return session.out_of_patience() if first else ""


def check_metrics(config: ConfigDict, measured: dict, wanted: tuple[str, ...] = ()) -> None:
    """The metric that chooses the best checkpoint must be one that an evaluation measures, and `wanted` any of a run."""
    names = [f"valid/{name}" for name in measured if name not in ("grad_norm", "learning_rate", "skipped")]
    names += ["valid/perplexity"] if "bits_per_byte" in measured else []
    if config.eval.metric not in names:
        raise unknown("metric in eval.metric", config.eval.metric, names)
    check_wanted(wanted, [*names, *(f"train/{name}" for name in measured)])


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
        "data": {"fingerprint": dataset.fingerprint,
                 "tokenizer": dataset.tokenizer and dataset.tokenizer.fingerprint,
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


def introduce(view: View, selected: Selected, folder: Path, program: Program, dataset: Dataset, per_token: float,
              peak: Any, first: int) -> None:  # fmt: skip
    """The header of a run: the resolved config in brief, and what it costs."""
    config, mesh = selected.config, {axis: n for axis, n in program.mesh.shape.items() if n > 1}
    o, devices = config.optim, list(program.mesh.devices.flat)
    view.header(selected.name, selected.question, {
        "run": f"{folder}" + (f"  (from step {first})" if first else ""),
        "model": f"{config.model.kind}: {in_brief(config.model)}{parameters(program):,} parameters, "
                 f"{count(per_token)}FLOP a token",
        "data": material(config, dataset),
        "training": f"{config.steps:,} steps of {a_batch(config)}; {o.name}, learning rate {o.learning_rate:g} "
                    f"({o.schedule.name}, {o.schedule.warmup} warm-up), seed {config.seed}",
        "devices": f"{len(devices)} {devices[0].platform} ({devices[0].device_kind})"
                   + (f", mesh {mesh}" if mesh else "") + (f"; peak {count(peak.flops)}FLOP/s" if peak else ""),
    })  # fmt: skip


def in_brief(model: ConfigDict) -> str:
    """4 layers, width 256, 4 heads, swiglu, rmsnorm, rope: what a model's section has of these; parts have their own."""
    section = model[model.kind] if model.kind in model else model
    said = {"depth": "{} layers", "width": "width {}", "heads": "{} heads", "mlp": "{}", "norm": "{}", "position": "{}"}
    words = [form.format(section[name]) for name, form in said.items() if name in section]
    return ", ".join(words) + ("; " if words else "")


def material(config: ConfigDict, dataset: Dataset) -> str:
    """What there is to train on and to validate with."""
    stats, kind, tokenizer = dataset.stats, kinds.kind_of(config.data), dataset.tokenizer
    what = {"text": "tokens", "pairs": "pairs", "labels": "texts"}.get(kind, "images" if "image" in kind else "records")
    train, valid = (stats[split]["tokens" if kind == "text" else "documents"] for split in ("train", "valid"))
    words = [f"{stats['source']['name']}: {train:,} {what} to train on, {valid:,} to validate"]
    if tokenizer:
        words.append(f"{config.data.tokenizer}, vocabulary {tokenizer.vocab_size:,}")
    if dataset.classes:
        words.append(f"{len(dataset.classes):,} labels")
    return "; ".join(words)


def a_batch(config: ConfigDict) -> str:
    """16 x 128 = 2,048 tokens; of images: 32 images of 64 x 64, and of captioned ones their texts too."""
    rows, length, fields = config.batch, config.data.length, kinds.fields(config.data)
    text = f"{rows} x {length} = {rows * length:,} tokens" if "tokens" in fields else ""
    size = config.data.image_size
    image = f"{rows} images of {size} x {size} pixels" if "image" in fields else ""
    return " and ".join(filter(None, (image, text)))
