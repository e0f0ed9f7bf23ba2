"""What a trained run is good for: its model from a checkpoint, evaluated, asked for text, labels or captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmjax import chain
from lmjax.asking import Question, make_generator, positions, questions
from lmjax.checkpoint import Checkpoints
from lmjax.config import loads, update
from lmjax.data import Dataset, Prefetch, examples, kinds, marks, open_dataset, tokenizers
from lmjax.decode import BeamSearch, Generator
from lmjax.errors import UserError
from lmjax.evaluate.language import evaluate as evaluate_batches
from lmjax.models.fit import MODELS
from lmjax.program import Program, build_for
from lmjax.provenance import Manifest, params_sha256
from lmjax.resume import check_same_data
from lmjax.sharding import AXES
from lmjax.view import View

SHOWN = 3  # pairs that a sample shows


class Loaded(NamedTuple):
    """A run directory, opened for reading: its program and data, and the parameters of one checkpoint."""

    program: Program
    dataset: Dataset
    params: Any
    step: int


def load(folder: Path, *, step: int | None = None, best: bool = False, rows: bool = True) -> Loaded:
    """The model of a run directory: its newest intact checkpoint, the best one, or that of a step.

    rows: whether its data are needed; without, nothing is prepared for a run whose tokenizer is in a file.
    """
    try:
        config = with_own_tokenizer(loads((folder / "config.json").read_text()), folder)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a run directory: it has no config.json") from None
    view = View()
    if rows or kinds.kind_of(config.data) != "text" or config.data.tokenizer in tokenizers.TRAINED:
        dataset = open_dataset(config.data, config.seed)
        check_same_data(Manifest(folder), dataset, False, view)
    else:
        dataset = Dataset(None, None, tokenizer_alone(folder, config), "", {})
    try:
        program = build_for(config, dataset)
    except UserError:  # it was trained on more devices than there are here
        whole = {f"layout.mesh.{axis}": -1 if axis == "data" else 1 for axis in AXES}
        config = update(config, {**whole, "eval.batch": None, "batch": config.batch * len(jax.devices())})
        program = build_for(config, dataset)
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
    if name == "params" and jax.process_count() == 1:
        chain.check_params(folder, restored.step, params_sha256(restored.state[name]))
    return Loaded(program, dataset, restored.state[name], restored.step)


def with_own_tokenizer(config: Any, folder: Path) -> Any:
    """The config with the tokenizer's file that an import has put into the run, when the run was moved since."""
    own = folder / Path(config.data.tokenizer).name
    if Path(config.data.tokenizer).expanduser().exists() or not own.is_file():
        return config
    return update(config, {"data.tokenizer": str(own.absolute())})


def tokenizer_alone(folder: Path, config: Any) -> Any:
    """The tokenizer of a run that did not train it; UserError when its file is no longer what it was."""
    tokenizer = tokenizers.make(examples.completed(config.data, examples.form(config.data)), ())
    before = Manifest(folder).facts.get("data", {}).get("tokenizer")
    if before is not None and before != tokenizer.fingerprint:
        raise UserError(f"data.tokenizer={config.data.tokenizer} is not the tokenizer that {folder} was trained with")
    return tokenizer


def evaluate(loaded: Loaded, *, batch: int | None = None) -> dict[str, float]:
    """The validation metrics of a loaded run over the whole split, `batch` rows at a time."""
    program, dataset = loaded.program, loaded.dataset
    batch = batch or program.config.eval.batch or program.config.batch
    batch = min(batch, -(-len(dataset.valid) // program.mesh.size) * program.mesh.size)
    program.layout.sharding(program.mesh, "acts", "bt", (batch, program.config.data.length), "--batch")
    rows = program.local_rows(batch)

    def make(i: int) -> dict[str, jax.Array]:
        return program.place(dataset.valid_batch(i, batch, rows), batch)

    with Prefetch(make, 0, stop=dataset.valid_batches(batch)) as batches:
        return evaluate_batches(program.compile_eval(batch, dataset.widths), loaded.params, batches)


def generate(
    folder: Path, prompt: str, image: Path | None = None, *, step: int | None, best: bool, new: int, options: Any,
    seed: int, n: int, beams: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Stream `n` texts after `prompt` to the terminal, one after the other; of a classifier, its labels for the text.

    beams: settings of `BeamSearch.search`, whose n best texts are shown in place of samples.

    Runs trained on images are asked with the file of one instead.
    """
    if n < 1:
        raise UserError(f"--n={n}: at least 1")
    loaded, view = load(folder, step=step, best=best, rows=False), View()
    check_question(loaded, prompt, image)
    if not hasattr(loaded.program.model, "init_cache"):
        config = loaded.program.config
        told = MODELS[config.model.kind].gives == "classes" if config.model.kind in MODELS else True
        if not (told and loaded.dataset.classes and "label" in kinds.fields(config.data)):
            raise UserError(f"model.kind={config.model.kind} writes no text and gives no labels: `lmjax eval` "
                            "measures what it does")  # fmt: skip
        view.shares(label_shares(loaded, prompt, image))
        return
    generator = make_generator(loaded.program, loaded.dataset, loaded.params)
    lead = prompt if kinds.kind_of(loaded.program.config.data) == "text" else ""
    images = None if image is None else [read_image(image, loaded.program.config.data.image_size)]
    if beams is not None:
        show_best(generator, prompt, lead, images, new, beams)
        return
    for row in range(n):
        if n > 1:
            view.say(f"--- {row + 1} of {n}", style="dim")
        print(lead, end="", flush=True)
        generator.generate([prompt], images=images, new=new, options=options, seed=seed, first_row=row,
                           on_text=lambda row, piece: print(piece, end="", flush=True))  # fmt: skip
        print()


def show_best(generator: Generator, prompt: str, lead: str, images: Any, new: int, settings: Mapping[str, Any]) -> None:
    """The n best texts of a beam search, with their scores where there are several."""
    found = BeamSearch(generator).search([prompt], images=images, new=new, **settings)[0]
    for number, one in enumerate(found, start=1):
        if settings["n"] > 1:
            cut = "" if one.ended == "doc" else ", not ended"
            View().say(f"--- {number} of {len(found)}, score {one.score:.4f}{cut}", style="dim")
        print(f"{lead}{one.text}")


def check_question(loaded: Loaded, prompt: str, image: Path | None) -> None:
    """UserError unless a run of images is asked with --image, and others without."""
    kind = kinds.kind_of(loaded.program.config.data)
    seen = "image" in kinds.fields(loaded.program.config.data)
    if seen and image is None:
        raise UserError(f"this run was trained with data.kind={kind}: ask it with --image=FILE")
    if image is not None and not seen:
        raise UserError(f"--image={image}: this run was trained with data.kind={kind}, without images; use --prompt")
    if prompt and kind == "image_labels":
        raise UserError(f"--prompt={prompt!r}: this run reads images, and no text beside them; leave it out")


def label_shares(loaded: Loaded, text: str, image: Path | None = None) -> dict[str, float]:
    """Every label's probability for a text or an image, the likeliest first."""
    batch = {name: field[None] for name, field in asked_row(loaded, text, image).items()}
    logits_bn = loaded.program.model.apply({"params": loaded.params}, batch, train=False)
    shares = jax.device_get(jax.nn.softmax(logits_bn[0]))
    return dict(sorted(zip(loaded.dataset.classes, shares.tolist(), strict=True), key=lambda pair: -pair[1]))


def asked_row(loaded: Loaded, text: str, image: Path | None) -> dict[str, np.ndarray]:
    """What a classifier reads of a row (`kinds.fields`): a text, cut as in training, an image file, or both."""
    data, tokenizer = loaded.program.config.data, loaded.dataset.tokenizer
    seen = {} if image is None else {"image": read_image(image, data.image_size)}
    if tokenizer is None:
        return seen
    if marks.bert(data, kinds.kind_of(data)):
        cls, sep = (tokenizer.special(name) for name in marks.SPECIAL)
        ids = np.concatenate([[cls], tokenizer.encode(text)[: data.length - 2], [sep]])
    else:
        ids = np.concatenate([[tokenizer.doc], tokenizer.encode(text)])[: data.length]
    row = {name: np.zeros(data.length, np.int32) for name in ("tokens", "segments", "positions")}
    row["tokens"][: len(ids)], row["segments"][: len(ids)], row["positions"][: len(ids)] = ids, 1, np.arange(len(ids))
    return row | seen


def read_image(path: Path, size: int) -> np.ndarray:
    """An image file as training sees it: uint8 (size, size, 3)."""
    try:
        return examples.pixels(path.read_bytes(), size)
    except OSError as error:
        raise UserError(f"--image={path}: {error.strerror or 'it is not an image that Pillow reads'}") from None


def make_sampler(program: Program, dataset: Dataset) -> Callable[[Any], str] | None:
    """`sampler(params) -> text` for an evaluation to show; None to take no samples, and for models that write none.

    Text goes on from eval.prompt at temperature 0.8. Of pairs and captioned images it is what the model answers to the
    first ones of the validation split, greedily, beside what stands there.
    """
    section, kind = program.config.eval, kinds.kind_of(program.config.data)
    if not section.sample_length or not hasattr(program.model, "init_cache"):
        return None
    from lmjax.decode import options

    asked = [Question(section.prompt)] if kind == "text" else questions(dataset, kind, SHOWN)
    length = min(room(program, dataset, question.prompt) for question in asked)
    images = [question.image for question in asked] if kind == "images" else None
    made: list[Generator] = []

    def sample(params: Any) -> str:
        with jax.transfer_guard("allow"):
            if not made:
                made.append(make_generator(program, dataset, params))
            generator = made[0]
            generator.params = params
            chosen = options(temperature=0.8 if kind == "text" else 0)
            prompts = [question.prompt for question in asked]
            answers = generator.generate(prompts, images=images, new=length, options=chosen, seed=0)
            generator.params = None
        if kind == "text":
            return section.prompt + answers[0].text
        return "\n".join(f"{question.prompt or 'an image'}  ->  {answer.text}   ({question.answer})"
                         for question, answer in zip(asked, answers, strict=True))  # fmt: skip

    return sample


def room(program: Program, dataset: Dataset, prompt: str) -> int:
    """How many tokens a sample may have after `prompt`; UserError when learned positions end before it does."""
    length, limit = program.config.eval.sample_length, positions(program.model)
    if limit is None:
        return length
    needed = len(dataset.tokenizer.encode(prompt)) + 1 + (kinds.kind_of(program.config.data) == "pairs")
    if "source" in kinds.fields(program.config.data):
        needed = 1  # in a row of its own
    length = min(length, limit + 1 - needed)
    if length < 1:
        raise UserError(
            f"eval.prompt is {needed} tokens long with <doc>, and the model has learned {limit} positions: "
            "shorten it, or set eval.sample_length=0"
        )
    return length
