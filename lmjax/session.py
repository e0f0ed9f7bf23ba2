"""One session of a training run: what is measured, logged, evaluated and saved around the steps of the loop."""

from __future__ import annotations

import functools
import math
import signal
import time
from collections import deque
from typing import Any, NamedTuple

import jax

from lmjax import chain
from lmjax import metrics as sums
from lmjax.board import Board
from lmjax.checkpoint import Checkpoints
from lmjax.data import Dataset, Loading, Prefetch, kinds
from lmjax.evaluate.language import evaluate
from lmjax.flops import Peak
from lmjax.goodput import Account
from lmjax.history import History
from lmjax.loop import due
from lmjax.metrics import Sum
from lmjax.program import Later, Program
from lmjax.provenance import params_sha256
from lmjax.sharding import placed
from lmjax.sharding.distributed import whole
from lmjax.step import make_gradients
from lmjax.view import View

PREEMPTED = "preempted"


class Diverged(RuntimeError):
    """Too many steps in a row were skipped for the run to go on."""


class Sinks(NamedTuple):
    """Where a session writes. In a process other than the first of several, `history` and `boards` are empty."""

    view: View
    checkpoints: Checkpoints
    history: History | None
    boards: list[Board]  # TensorBoard and trackers, alike
    folder: Any  # the run directory
    chain: chain.Chain | None = None  # in the first process only, as the history
    account: Account | None = None


class Interrupts:
    """SIGTERM and SIGINT ask the run to stop after the current step, saved; a second one ends it at once.

    With several processes SIGTERM is left to JAX, which tells all of them to stop after the same step.
    """

    def __init__(self):
        self.received = ""
        caught = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._old = {number: signal.signal(number, self._handle) for number in caught}

    def _handle(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Session:
    """The hooks of the loop and the host's part of the train state, `host`: JSON that every checkpoint carries."""

    def __init__(self, program: Program, dataset: Dataset, sinks: Sinks, *, flops: float, peak: Peak | None,
                 sampler: Any = None, profile: tuple[int, int] | None = None, until: int | None = None):  # fmt: skip
        self.program, self.dataset, self.sinks, self.config = program, dataset, sinks, program.config
        self.sampler, self.profile, self.until = sampler, profile, until
        self.flops, self.peak = flops, peak
        self.account = sinks.account or Account()
        self.host = {"window": {}, "best": None, "top": [], "since_best": 0, "evaluated": 0, "latest": {}}
        self.interrupts = Interrupts()
        self.stopped = ""
        self.batches: Prefetch | None = None
        self._digests: deque[str] = deque()  # of the batches made and not yet recorded
        self._evaluate = None
        self._gradients = None
        self._tracing, self._in_row, self._among_best, self._accounted = False, 0, 0, 0.0
        self.loading = Loading(dataset, self.config.data, self.config.seed)
        self._unit = "examples" if "label" in kinds.fields(self.config.data) else "tokens"
        self._restart_clock()

    def go_on(self, host: dict, state: Any) -> None:
        """Take up what a checkpoint carries besides the arrays."""
        self.host |= host
        self._in_row = int(jax.device_get(state.guard["skipped_in_row"]))

    # --- data -------------------------------------------------------------------------------------------------------

    def train_batches(self, first: int) -> Prefetch:
        """The batches from step `first` on, placed on the devices ahead of time."""
        batch, rows = self.config.batch, self.program.local_rows(self.config.batch)
        place = functools.partial(self.program.place, rows=batch)
        if self.sinks.chain:
            self._digests.clear()
            place = chain.noting(place, self._digests.append)
        self.batches = self.loading.train(batch, rows, place, first=first, stop=self.config.steps)
        return self.batches

    def valid_batches(self) -> Prefetch:
        """The validation split, or its first `eval.batches` batches."""
        batch = self.config.eval.batch or self.config.batch
        number = self.dataset.valid_batches(batch)
        number = min(number, self.config.eval.batches or number)
        place = functools.partial(self.program.place, rows=batch)
        return self.loading.valid(batch, self.program.local_rows(batch), place, number)

    # --- hooks ------------------------------------------------------------------------------------------------------

    def before(self, done: int) -> None:
        """Start and stop the profiler around the steps asked for."""
        if self.profile and self.profile[0] <= done < self.profile[1] and not self._tracing:
            jax.profiler.start_trace(str(self.sinks.folder / "profile"), create_perfetto_trace=True)
            self._tracing = True
        elif self._tracing and done == self.profile[1]:
            self.stop_profile()

    def record(self, done: int, metrics: dict[str, Sum]) -> None:
        """Add a step's sums to the window since the last log line; write the line when it is due."""
        window = {name: Sum(*pair) for name, pair in self.host["window"].items()}
        window = sums.merge(window, {name: Sum(float(s.total), float(s.weight)) for name, s in metrics.items()})
        self.host["window"] = {name: [s.total, s.weight] for name, s in window.items()}
        if self.sinks.chain:
            self.sinks.chain.step(
                done, self._digests.popleft(), chain.bits(metrics["loss"].total, metrics["loss"].weight)
            )
        self._tokens += float(metrics["loss"].weight)
        self._steps += 1
        self.account.steps += 1
        self.sinks.view.step(done)
        skipped = window["skipped"].total
        self._in_row = self._in_row + 1 if metrics["skipped"].total else 0
        if due(done, self.config.every.log, self.config.steps):
            self.host["window"] = {}
            self._log(done, window, skipped)
        if self._in_row >= self.config.optim.skip.stop_after:
            raise Diverged(
                f"{self._in_row} steps in a row, up to step {done}, were skipped because their loss or gradient was "
                "not finite or spiked: a lower optim.learning_rate or a longer optim.schedule.warmup may help"
            )

    def pauses(self, done: int) -> bool:
        """Whether `pause` is needed after this step; with several processes they all agree."""
        every, last = self.config.every, self.config.steps
        if self._interrupted(done):
            self.stopped = PREEMPTED
        histograms = every.histograms and done % every.histograms == 0
        stop = self.stopped or self.enough(done)
        return bool(stop or histograms or due(done, every.eval, last) or due(done, every.save, last))

    def pause(self, done: int, state: Any) -> str:
        """Histograms, evaluation, saving, each when due. A stop is saved first: the resumed run evaluates."""
        began, every, last = time.monotonic(), self.config.every, self.config.steps
        reason = self.stopped
        with self.account("other"):
            if due(done, every.eval, last) or due(done, every.save, last):
                self._chain_params(done, state)
            if every.histograms and done % every.histograms == 0:
                self._histograms(done, state)
        if not reason and due(done, every.eval, last):
            reason = self.evaluate(done, state)
        reason = reason or self.enough(done)
        if reason or self._among_best == done or due(done, every.save, last):
            self.save(done, state)
        self._paused += time.monotonic() - began
        return reason

    def enough(self, done: int) -> str:
        """PREEMPTED when this session was asked to go no further, or ""; after the last step nothing is left to go on."""
        return PREEMPTED if self.until is not None and self.until <= done < self.config.steps else ""

    # --- parts of a pause -------------------------------------------------------------------------------------------

    def evaluate(self, done: int, state: Any) -> str:
        """Measure the validation split, write the line and a sample, and say whether patience is at its end."""
        with self.account("evaluation"):
            return self._evaluation(done, state)

    def _evaluation(self, done: int, state: Any) -> str:
        params = state.ema if jax.tree.leaves(state.ema) else state.params
        if self._evaluate is None:
            rows, widths = self.config.eval.batch or self.config.batch, self.dataset.widths
            self._evaluate = Later(lambda: self.program.compile_eval(rows, widths))
        with self.valid_batches() as batches:
            with self.account("compile"):
                run = self._evaluate()
            means = evaluate(run, params, batches)
        values = {f"valid/{name}": value for name, value in means.items()}
        self.host |= {"evaluated": done, "latest": self.host["latest"] | values}
        self._write(done, values)
        self.sinks.view.evaluation(done, values)
        if self.sampler is not None:
            text = self.sampler(params)
            self.sinks.view.sample(done, text)
            self._write_sample(done, text)
        return self._judge(done, values)

    def save(self, done: int, state: Any) -> None:
        """Checkpoint the state with everything that the host knows; the writing goes on in the background."""
        metric = self.host["latest"].get(self.config.eval.metric) if self.host["evaluated"] == done else None
        if self.sinks.history:
            self.sinks.history.sync()
        if self.sinks.chain:
            self.sinks.chain.sync()
        with jax.transfer_guard("allow"), self.account("save"):
            self.sinks.checkpoints.save(done, state, self.host, metric)
        self._account(now=True)

    def _chain_params(self, done: int, state: Any) -> None:
        """The parameters' hash goes into the chain; several processes gather them only after the last step."""
        if jax.process_count() == 1 or done == self.config.steps:
            sha = params_sha256(state.params)
            if self.sinks.chain:
                self.sinks.chain.params(sha)

    def _judge(self, done: int, values: dict[str, float]) -> str:
        section = self.config.eval
        value, best = values[section.metric], self.host["best"]
        sign = 1 if section.mode == "min" else -1
        if not math.isnan(value):
            self.host["top"] = sorted([*self.host["top"], sign * value])[: section.best]
            if sign * value in self.host["top"]:
                self._among_best = done  # and so it is saved, whatever every.save says
        if not math.isnan(value) and (best is None or sign * value < sign * best):
            self.host |= {"best": value, "since_best": 0}
            return ""
        self.host["since_best"] += 1
        return self.out_of_patience()

    def out_of_patience(self) -> str:
        """Why to stop early, or ""."""
        section, count = self.config.eval, self.host["since_best"]
        if section.patience is None or count < section.patience:
            return ""
        return f"{section.metric} has not improved on {self.host['best']} for {count} evaluations"

    def _log(self, done: int, window: dict[str, Sum], skipped: float) -> None:
        seconds = max(time.monotonic() - self._began - self._paused, 1e-9)
        speed = self._tokens / seconds
        values = {f"train/{name}": total.mean() for name, total in window.items() if name != "skipped"}
        values["train/skipped"] = skipped
        values |= {
            f"perf/{self._unit}_per_second": speed,
            "perf/step_seconds": seconds / max(self._steps, 1),
            "perf/wait_share": (self.batches.waited - self._waited) / seconds,
        }
        if self.peak and kinds.kind_of(self.config.data) == "text":  # elsewhere the weights count a part of the work
            values["perf/mfu"] = speed * self.flops / self.peak.flops
        self.host["latest"] = self.host["latest"] | values
        self._write(done, values)
        self.sinks.view.log(done, values)
        self._account(now=False)
        self._restart_clock()

    def _account(self, *, now: bool) -> None:
        waited = self.batches.waited if self.batches else 0.0
        self.account.waited(waited - self._accounted)
        self._accounted = waited
        self.account.write(now=now)

    def _restart_clock(self) -> None:
        self._began, self._paused, self._tokens, self._steps = time.monotonic(), 0.0, 0.0, 0
        self._waited = self.batches.waited if self.batches else 0.0

    def _write(self, done: int, values: dict[str, float]) -> None:
        if self.sinks.history:
            self.sinks.history.append({"step": done, **values})
        for board in self.sinks.boards:
            board.scalars(done, values)

    def _write_sample(self, done: int, text: str) -> None:
        if self.sinks.history:
            folder = self.sinks.folder / "samples"
            folder.mkdir(exist_ok=True)
            (folder / f"{done:08d}.txt").write_text(text, encoding="utf-8", errors="replace")
        for board in self.sinks.boards:
            board.text(done, "sample", text)

    def _histograms(self, done: int, state: Any) -> None:
        """Histograms of the parameters and of their gradients on the next batch."""
        p = self.program
        if self._gradients is None:
            self._gradients = jax.jit(make_gradients(p.model.apply, p.objective, p.optimizer, seed=self.config.seed,
                                                     microbatches=self.config.optim.microbatches))  # fmt: skip
        rows = p.local_rows(self.config.batch)
        batch = p.place(self.dataset.train_batch(done, self.config.batch, rows), self.config.batch)
        with placed(p.layout, p.mesh):
            gradients = self._gradients(state.params, batch, state.step)[0]
        trees = {"gradients": gradients, "parameters": state.params}
        with jax.transfer_guard("allow"):
            arrays = {f"{kind}/{'/'.join(key.key for key in path)}": whole(leaf)
                      for kind, tree in trees.items() for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip
        for board in self.sinks.boards:
            board.histograms(done, arrays)

    def _interrupted(self, done: int) -> bool:
        if jax.process_count() == 1:
            return bool(self.interrupts.received)
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(done):
            self.interrupts.received = "SIGTERM"
        return bool(self.interrupts.received)

    def stop_profile(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            self.sinks.view.say(f"profile in {self.sinks.folder / 'profile'}: open it with XProf or ui.perfetto.dev")

    def close(self) -> None:
        """Let go of threads and signal handlers."""
        self.stop_profile()
        if self.batches:
            self.batches.close()
        self.loading.close()
        if self.sinks.chain:
            self.sinks.chain.close()
        self.interrupts.restore()
