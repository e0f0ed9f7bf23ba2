"""Checkpoints of Hugging Face transformers, in and out: the same logits, the same greedy text, and nothing lost unsaid."""

import json
import shutil

import numpy as np
import pytest
import runs
import tokenizers

from configs.base import decoder
from lmjax.__main__ import main
from lmjax.decode import Generator
from lmjax.errors import UserError
from lmjax.interop.exporting import against
from lmjax.interop.families import FAMILIES
from lmjax.interop.importing import import_run, open_hf
from lmjax.interop.leaves import resolved
from lmjax.interop.pairs import Pair
from lmjax.interop.tensors import open_tensors, write_tensors
from lmjax.trained import load

torch = pytest.importorskip("torch", reason="the reference is transformers, and it runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB = 257  # as many as the tokenizer of bytes has
SIZES = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 96}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
SHAPES = {
    "gpt2": {"vocab_size": VOCAB, "n_positions": 96, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 80},
    "llama": SIZES | {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-3},
    "mistral": SIZES | {"sliding_window": 7, "head_dim": 10, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen2": SIZES | {"tie_word_embeddings": True, "num_key_value_heads": 6},
    "qwen3": SIZES | {"head_dim": 16, "vocab_size": 300},
}  # fmt: skip


def reference(family, **changes):
    """A model of that family with random weights, biases and scales."""
    config = transformers.AutoConfig.for_model(family, **SHAPES[family] | changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_of(vocab, length=80, padded=9):
    """Random tokens, the second row padded on the left."""
    mask = np.ones((2, length), np.int32)
    mask[1, :padded] = 0
    tokens = np.random.RandomState(0).randint(0, vocab, (2, length)).astype(np.int32)
    return {"tokens": tokens, "segments": mask, "positions": np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32)}


def their_logits(model, batch):
    with torch.no_grad():
        given = {"input_ids": batch["tokens"], "attention_mask": batch["segments"], "position_ids": batch["positions"]}
        return model(**{name: torch.tensor(array).long() for name, array in given.items()}).logits.numpy()


@pytest.fixture
def folder(tmp_path):
    """A saved Llama of two layers, and its tensors by name."""
    reference("llama", num_hidden_layers=2).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("family", SHAPES)
def test_logits_and_greedy_text_are_those_of_transformers_and_so_are_they_of_what_is_exported(family, tmp_path):
    model = reference(family)
    model.save_pretrained(tmp_path / "hf", max_shard_size="60KB")
    vocab = model.config.vocab_size
    imported = import_run(open_hf(tmp_path / "hf"), tmp_path / "run", ["data.tokenizer=bytes"])
    run, params, batch = imported.program.model, imported.params, batch_of(vocab)
    ours, theirs = np.asarray(run.apply({"params": params}, batch, train=False)), their_logits(model, batch)
    seen = batch["segments"] > 0
    assert np.abs(ours[..., :vocab] - theirs)[seen].max() < 1e-4 and theirs.std() > 0.3
    assert imported.report.loaded and not imported.report.missing and not imported.report.unexpected

    assert main(["export", "hf", str(tmp_path / "run"), f"--out={tmp_path / 'back'}"]) == 0
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert type(back) is type(model)
    np.testing.assert_array_equal(their_logits(back, batch), theirs)
    if family in ("gpt2", "llama", "mistral"):  # learned positions, a cache of rotated keys, a window
        loaded = load(tmp_path / "run", rows=False)
        generator = Generator(
            run.apply, run.init_cache, params, loaded.dataset.tokenizer, prepare=run.for_decoding, rows=1
        )
        made = generator.generate(["In the beginning"], new=24)[0].tokens
        ids = torch.tensor([[256, *b"In the beginning"]])
        greedy = model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=256, pad_token_id=256)
        assert made == greedy[0, ids.shape[1] :].tolist()[: len(made)] and len(made) > 5


def test_a_leaf_that_a_checkpoint_has_no_word_for_is_refused_when_it_is_on(folder, tmp_path):
    program = import_run(open_hf(folder), tmp_path / "run", ["data.tokenizer=bytes"]).program
    leaves = resolved(program.config, VOCAB)
    assert not against(FAMILIES["llama"], leaves)
    free = {"dropout", "layers", "remat", "attention", "init_scale", "vocab_multiple", "pool"}
    numbers = {
        "depth",
        "width",
        "heads",
        "kv_heads",
        "head_width",
        "mlp_width",
        "vocab",
        "max_length",
        "norm_eps",
        "bias",
    }
    rope = {"rope_base", "rope_factor", "rope_trained", "rope_low", "rope_high", "rope_scaling", "tied"}
    for name in set(decoder()) - free - numbers - rope:
        assert against(FAMILIES["llama"], leaves | {f"model.{name}": "another"}), name
    assert main(["export", "hf", str(tmp_path / "run"), f"--out={tmp_path / 'out'}", "--family=gpt2"]) == 2


def test_a_pair_takes_tensors_apart_and_puts_them_together_again():
    random = np.random.RandomState(0)
    for pair, shape in ((Pair(("a", "b", "c"), "x.{l}", "dhk", "d mhk"), (1, 6, 2, 5)), (Pair("a", "x", "vd", "v d"), (16, 3)),
                        (Pair("a", "x", "td", "t d", skip=2), (8, 3))):  # fmt: skip
        sizes = pair.sizes(shape, 11)
        tensor = random.randn(*pair.their_shape(sizes)).astype(np.float32)
        tensor[: pair.skip] = 0
        ours = pair.to_ours(tensor, sizes)
        assert len(ours) == len(pair.paths)
        np.testing.assert_array_equal(pair.to_theirs(ours, sizes), tensor)
    head = Pair(("q", "k", "v"), "x.{l}", "dhk", "d mhk")
    tensor = random.randn(6, 30)
    np.testing.assert_array_equal(head.to_ours(tensor, head.sizes((1, 6, 2, 5), 0))[1][:, 1, 2], tensor[:, 10 + 5 + 2])


def test_what_is_missing_or_left_over_is_an_error_until_it_is_meant(folder, tmp_path):
    tensors = {name: tensor.read() for name, tensor in open_tensors(folder).items()}
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["score.weight"] = np.zeros((2, 48), np.float32)
    write_tensors(folder, {name: array.shape for name, array in tensors.items()}, tensors.items())
    with pytest.raises(UserError) as error:
        import_run(open_hf(folder), tmp_path / "run", ["data.tokenizer=bytes"])
    for word in (
        "model.norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "score.weight",
        "--drop",
        "--missing",
        str(folder),
    ):
        assert word in str(error.value)
    assert not (tmp_path / "run").exists()
    flags = ["--drop=score.*", "--missing=init", "--config.data.tokenizer=bytes"]
    assert main(["import", "hf", str(folder), f"--workdir={tmp_path / 'run'}", *flags]) == 0
    report = json.loads((tmp_path / "run" / "import.json").read_text())
    assert report["dropped"] == ["score.weight"] and set(report["missing"]) == {
        "model.norm.weight", "model.layers.1.mlp.up_proj.weight"}  # fmt: skip
    params = load(tmp_path / "run", rows=False).params
    assert (np.asarray(params["norm"]["scale"]) == 1).all() and np.asarray(params["blocks"]["mlp"]["up"]).std() > 0.05


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def headless(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def changed(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


FAULTS = {
    "truncated": (truncated, ("model.safetensors", "header promises")),
    "headless": (headless, ("model.safetensors", "its header alone")),
    "family": (lambda folder: changed(folder, model_type="falcon"), ("config.json", "falcon", "llama")),
    "another's tensors": (lambda folder: changed(folder, hidden_size=60), ("expected", "[257, 60]", "embed_tokens")),
    "no tensors": (lambda folder: (folder / "model.safetensors").unlink(), ("model.safetensors", "hf")),
    "no config": (lambda folder: (folder / "config.json").unlink(), ("config.json is missing",)),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), ("config.json is not JSON",)),
    "rope": (lambda folder: changed(folder, rope_parameters={"rope_type": "yarn"}), ("config.json", "yarn", "llama3")),
    "activation": (lambda folder: changed(folder, hidden_act="tanh"), ("config.json", "hidden_act", "silu")),
    "small vocabulary": (lambda folder: changed(folder, vocab_size=100), ("257 ids", "vocab_size=100")),
    "tied": (lambda folder: changed(folder, tie_word_embeddings=True), ("lm_head.weight differs", "tied")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_cannot_be_read_is_named_with_what_was_expected(fault, folder, tmp_path, capfd):
    breaks, words = FAULTS[fault]
    breaks(folder)
    assert main(["import", "hf", str(folder), f"--workdir={tmp_path / 'run'}", "--config.data.tokenizer=bytes"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("lmjax: ") and all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_a_part_of_a_gguf_file_is_named(tmp_path, capfd):
    pytest.importorskip("gguf", reason="it reads GGUF files")
    (tmp_path / "part.gguf").write_bytes(b"GGUF" + bytes(range(40)))
    for name in ("part.gguf", "none.gguf"):
        assert main(["import", "gguf", str(tmp_path / name), f"--workdir={tmp_path / 'run'}"]) == 2
        assert name in capfd.readouterr().err


def test_a_shard_that_is_not_there_is_named(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "hf", max_shard_size="60KB")
    lost = sorted((tmp_path / "hf").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost.name} is missing"):
        open_hf(tmp_path / "hf")


def test_an_import_is_a_run_that_evaluates_writes_text_and_is_gone_on_from(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "cache"))
    text = runs.write_text(tmp_path / "text")
    run = tmp_path / "run"
    words = ["import", "hf", str(folder), f"--workdir={run}", "--config.data.tokenizer=bytes"]
    assert (
        main([*words, f"--config.data.source={text}", "--config.data.length=32", "--config.data.valid_fraction=0.2"])
        == 0
    )
    assert main(["generate", str(run), "--prompt=the", "--length=4"]) == 0
    assert main(["eval", str(run), "--batch=4"]) == 0
    assert "nll" in capfd.readouterr().out
    assert main(words) == 2 and "not empty" in capfd.readouterr().err
    assert main(["import", "hf", str(folder), f"--workdir={tmp_path / 'other'}"]) == 2
    assert "tokenizer.json" in capfd.readouterr().err


def test_an_import_that_is_moved_finds_its_tokenizer(folder, tmp_path, capfd):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({chr(i): i for i in range(256)}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    assert main(["import", "hf", str(folder), f"--workdir={tmp_path / 'run'}"]) == 0
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "run")
    loaded = load(tmp_path / "moved", rows=False)
    assert loaded.dataset.tokenizer.vocab_size == 257 and loaded.dataset.tokenizer.specials["doc"] == 256
    tokenizer.add_special_tokens([f"<{i}>" for i in range(9)])
    tokenizer.save(str(tmp_path / "moved" / "tokenizer.json"))
    with pytest.raises(UserError, match="is not the tokenizer that"):
        load(tmp_path / "moved", rows=False)
