"""Encoder-decoders are the original Transformer, T5 and BART, and what they write with a cache is what they learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch_weights
from test_encoder import parameters
from test_sharding import on_8_devices

from configs import encdec, encoders
from lmjax import models, program
from lmjax.config import update
from lmjax.data.kinds import fields
from lmjax.errors import UserError
from lmjax.sharding import placed

SOURCE, LENGTH = 20, tiny.LENGTH
SMALL = tiny.SMALL | {"data.kind": "pairs", "data.packing": "none", "data.source_length": SOURCE, "model.dropout": 0.0}


def config(recipe=encdec.seq2seq, changes=None):
    return update(encdec.of_model(recipe()), {**SMALL, **(changes or {})})


def make(recipe=encdec.seq2seq, changes=None, *, vocab=tiny.VOCAB):
    chosen = config(recipe, changes)
    return models.build(chosen, vocab=vocab, platform="cpu", fields=fields(chosen.data))


def rows(lengths=((24, 20), (10, 7)), seed=0, vocab=tiny.VOCAB):
    """Targets and sources of these lengths, one pair a row."""
    batch = tiny.packed([[target] for target, _ in lengths], seed=seed, vocab=vocab)
    source = tiny.packed([[source] for _, source in lengths], length=SOURCE, seed=seed + 1, vocab=vocab)
    names = {"source": "tokens", "source_segments": "segments", "source_positions": "positions"}
    return batch | {ours: source[theirs] for ours, theirs in names.items()}


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    return model.apply({"params": params}, batch, train=False)


# --- the same numbers as others -------------------------------------------------------------------------------------


def compare(model, params, batch, expected):
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, parameters(model, batch))
    real = batch["segments"] > 0
    np.testing.assert_allclose(run(model, params, batch)[real], expected[real], atol=1e-4)


def asked(batch):
    import torch

    inputs = {"input_ids": batch["source"], "attention_mask": batch["source_segments"] > 0,
              "decoder_input_ids": batch["tokens"]}  # fmt: skip
    return {name: torch.tensor(np.asarray(value)).long() for name, value in inputs.items()}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_t5_of_transformers_has_the_same_logits(version):
    """1.0: ReLU, and the embeddings as a scaled readout. Both with padded sources and buckets that are far apart."""
    new = version == "1.1"
    theirs = torch_weights.transformers_model(
        "T5ForConditionalGeneration", vocab_size=64, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, tie_word_embeddings=not new,
        feed_forward_proj="gated-gelu" if new else "relu",
    )  # fmt: skip
    w = torch_weights.Weights(theirs.state_dict(), 2, 4)

    def side(name, mlp):
        layer, wi = name + ".block.{}.layer.", {"gate": "wi_0", "up": "wi_1"} if new else {"up": "wi"}
        parts = {ours: f"{layer}{mlp}.DenseReluDense.{theirs}" for ours, theirs in (wi | {"down": "wo"}).items()}
        blocks = {"attention": w.attention(f"{layer}0.SelfAttention", "q", "k", "v", "o"), "mlp": w.mlp(**parts),
                  "attention_norm": w.norm(f"{layer}0.layer_norm"), "mlp_norm": w.norm(f"{layer}{mlp}.layer_norm")}  # fmt: skip
        if mlp == 2:
            blocks["cross"] = w.attention(f"{layer}1.EncDecAttention", "q", "k", "v", "o")
            blocks["cross_norm"] = w.norm(f"{layer}1.layer_norm")
        bias = w[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return {"position": bias, "blocks": blocks, "norm": w.norm(f"{name}.final_layer_norm")}

    params = {"embed": w["shared.weight"], "encoder": side("encoder", 1), "decoder": side("decoder", 2)}
    params |= {"head": w["lm_head.weight"]} if new else {}
    changes = {"model.head_width": 6, "model.buckets": 8, "model.furthest": 12, "model.attention": "blocked"}
    if not new:
        changes |= {"model.mlp": "relu", "model.tied": True, "model.readout_scale": True}
    batch = rows(vocab=64)
    compare(make(encdec.t5, changes, vocab=64), params, batch, theirs(**asked(batch)).logits.detach().numpy())


def test_bart_of_transformers_has_the_same_logits():
    """Positions count from 2 there."""
    sides = {f"{side}_{name}": size for side in ("encoder", "decoder")
             for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()}  # fmt: skip
    theirs = torch_weights.transformers_model(
        "BartForConditionalGeneration", vocab_size=64, d_model=32, max_position_embeddings=24, **sides
    )
    w = torch_weights.Weights(theirs.state_dict(), 2, 4)

    def side(name):
        layer = f"model.{name}.layers.{{}}."
        projections = ("q_proj", "k_proj", "v_proj", "out_proj")
        blocks = {"attention": w.attention(f"{layer}self_attn", *projections), "mlp_norm": w.norm(f"{layer}final_layer_norm"),
                  "attention_norm": w.norm(f"{layer}self_attn_layer_norm"),
                  "mlp": w.mlp(up=f"{layer}fc1", down=f"{layer}fc2")}  # fmt: skip
        if name == "decoder":
            blocks["cross"] = w.attention(f"{layer}encoder_attn", *projections)
            blocks["cross_norm"] = w.norm(f"{layer}encoder_attn_layer_norm")
        return {"position": w[f"model.{name}.embed_positions.weight"][2:], "blocks": blocks,
                "embed_norm": w.norm(f"model.{name}.layernorm_embedding")}  # fmt: skip

    params = {"embed": w["model.shared.weight"], "encoder": side("encoder"), "decoder": side("decoder")}
    batch = rows(vocab=64)
    compare(make(encdec.bart, vocab=64), params, batch, theirs(**asked(batch)).logits.detach().numpy())


@pytest.mark.parametrize("place", ["post", "pre"])
def test_the_original_transformer_is_that_of_pytorch(place):
    torch = pytest.importorskip("torch", reason="pip install torch: what we compare with")
    torch.manual_seed(0)
    options = {"dim_feedforward": 48, "dropout": 0.0, "batch_first": True, "norm_first": place == "pre"}
    layers = [torch.nn.TransformerEncoderLayer(32, 4, **options), torch.nn.TransformerDecoderLayer(32, 4, **options)]
    last = [torch.nn.LayerNorm(32) if place == "pre" else None for _ in layers]
    encoder = functools.partial(torch.nn.TransformerEncoder, enable_nested_tensor=False)
    kinds = (encoder, torch.nn.TransformerDecoder)
    sides = [
        torch_weights.randomised(kind(layer, 2, norm)) for kind, layer, norm in zip(kinds, layers, last, strict=True)
    ]

    def parts(side):
        state = side.state_dict()
        for name in [name for name in state if "in_proj" in name]:
            head, end = name.split("in_proj_")
            state |= {f"{head}{part}.{end}": x for part, x in zip("qkv", state.pop(name).chunk(3), strict=True)}
        w, layer, cross = torch_weights.Weights(state, 2, 4), "layers.{}.", "layers.0.multihead_attn.q.weight" in state
        norms = ["attention_norm", *["cross_norm"] * cross, "mlp_norm"]
        blocks = {name: w.norm(f"{layer}norm{i}") for i, name in enumerate(norms, start=1)}
        blocks |= {"attention": w.attention(f"{layer}self_attn", "q", "k", "v", "out_proj"),
                   "mlp": w.mlp(up=f"{layer}linear1", down=f"{layer}linear2")}  # fmt: skip
        if cross:
            blocks["cross"] = w.attention(f"{layer}multihead_attn", "q", "k", "v", "out_proj")
        return {"blocks": blocks} | ({"norm": w.norm("norm")} if place == "pre" else {})

    model, batch = make(changes={"model.position": "none", "model.norm_place": place}), rows()
    params = {"embed": parameters(model, batch)["embed"], "encoder": parts(sides[0]), "decoder": parts(sides[1])}
    embedded = [torch.tensor(np.asarray(params["embed"][batch[name]])) for name in ("source", "tokens")]
    padding = torch.tensor(np.asarray(batch["source_segments"] == 0))
    memory = sides[0](embedded[0], src_key_padding_mask=padding)
    future = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
    x_btd = sides[1](embedded[1], memory, tgt_mask=future, memory_key_padding_mask=padding).detach().numpy()
    expected = x_btd @ np.asarray(params["embed"]).T
    found = run(model, params, batch)[..., : tiny.VOCAB]
    real = batch["segments"] > 0
    np.testing.assert_allclose(found[real], expected[real][..., : tiny.VOCAB], atol=2e-4)


# --- who sees whom --------------------------------------------------------------------------------------------------


def test_a_target_sees_all_of_its_source_its_own_past_and_nothing_else():
    model, batch = make(encdec.t5, {"model.depth": 1}), rows()
    params = parameters(model, batch)
    before = run(model, params, batch)

    def moved(name, at):
        after = run(model, params, batch | {name: batch[name].at[1, at].add(1)})
        np.testing.assert_array_equal(after[0], before[0])
        return jnp.abs(after - before)[1].max(-1)

    for at in (0, 6):  # the first and the last token of a source of 7
        assert (moved("source", at)[:10] > 1e-4).all()
    assert moved("source", 7)[:10].max() == 0  # padding
    assert moved("tokens", 4)[:4].max() == 0 and (moved("tokens", 4)[4:10] > 1e-4).all()


@pytest.mark.parametrize("recipe, rows_", [(encdec.t5, 2), (encdec.bart, 1)], ids=["t5", "bart, one row"])
def test_writing_with_a_cache_is_the_whole_forward_pass(recipe, rows_):
    """Targets padded on the left, as prompts are: a part of them with the source, then one token after the other."""
    model, batch = make(recipe), rows([(24, 20), (10, 7)][:rows_])
    params = parameters(model, batch)
    expected, pads = run(model, params, batch), [0, 14][:rows_]
    left = {name: jnp.stack([jnp.roll(x, pad) for x, pad in zip(batch[name], pads, strict=True)])
            for name in ("tokens", "segments", "positions")}  # fmt: skip
    source = {name: batch[name] for name in ("source", "source_segments", "source_positions")}

    @jax.jit
    def write(params):
        params, found = model.for_decoding(params), []
        cache = model.init_cache(rows_, 30)
        for first, last in ((0, 20), (20, 21), (21, 24)):
            part = {name: x[:, first:last] for name, x in left.items()} | (source if first == 0 else {})
            logits_btv, cache = model.apply({"params": params}, part, train=False, cache=cache)
            found.append(logits_btv)
        return jnp.concatenate(found, axis=1)

    found = write(params)
    for row, pad in enumerate(pads):
        np.testing.assert_allclose(found[row, pad:], expected[row, : LENGTH - pad], atol=1e-4)


def test_without_a_source_there_is_nothing_to_write():
    model, batch = make(), rows()
    params = parameters(model, batch)
    prompt = {name: batch[name] for name in ("tokens", "segments", "positions")}
    with pytest.raises(UserError, match="model.kind=seq2seq writes what belongs to a source"):
        model.apply({"params": params}, prompt, train=False, cache=model.init_cache(2, 24))
    with pytest.raises(UserError, match="data.kind=pairs, rows of tokens: model.kind=seq2seq is not for it"):
        make(changes={"data.source_length": None})


@pytest.mark.parametrize("changes, message", [
    ({"model.heads": 5}, "model.heads=5 does not divide model.width=32"),
    ({"model.decoder_depth": 0}, "model.decoder_depth=0: it must be positive"),
    ({"model.position": "t5", "model.buckets": 6}, "model.buckets=6: a multiple of 4"),
    ({"model.position": "learned", "model.max_length": 22}, "model.max_length=22 is shorter than rows of 24 tokens"),
    ({"model.mlp": "relo"}, "model.mlp 'relo'; did you mean 'relu'"),
    ({"model.position": "t5", "model.attention": "splash"}, "model.attention=splash: it adds no bias"),
])  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        make(changes=changes)


# --- training -------------------------------------------------------------------------------------------------------


def test_scanned_and_recomputed_blocks_have_the_gradients_of_unrolled_ones():
    batch, found = rows([(24, 20)]), []
    for changes in ({"model.layers": "unroll", "model.remat": "none"}, {"model.layers": "scan", "model.remat": "full"}):
        model = make(encdec.t5, changes | {"model.depth": 1, "model.decoder_depth": 2})
        params = parameters(model, batch)

        def loss(params, model=model):
            return jnp.sum(jax.nn.softmax(run(model, params, batch)) ** 2)

        found.append(jax.jit(jax.grad(loss))(params))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), *found)


MESH = {"layout.mesh.data": 1, "layout.mesh.fsdp": 4, "layout.mesh.tensor": 2}


def gradients():
    """Loss and gradients of an encoder-decoder and of an encoder, on one device and on eight."""
    from test_encoder import rows as masked_rows

    words = {"data.corruption.kind": "masked", "objective.kind": "masked", "objective.predictions": 10,
             "model.dropout": 0.0, "model.depth": 1}  # fmt: skip
    cases = (
        (config(encdec.t5, {"model.depth": 1}), rows([(24, 20), (9, 7)] * 4)),
        (update(encoders.of_model(encoders.encoder()), tiny.SMALL | words), masked_rows([(24,), (9,)] * 4)),
    )
    every = []
    for chosen, batch in cases:
        found = []
        for changes, devices in (({}, 1), (MESH, 8)):
            made = program.build(update(chosen, changes), vocab=tiny.VOCAB, devices=jax.devices()[:devices])
            shardings = jax.tree.map(lambda leaf: leaf.sharding, made.params)
            params = jax.device_put(parameters(made.model, batch), shardings)
            placed_batch = made.place({name: np.asarray(batch[name]) for name in made.rows}, 8)

            def loss(params, batch, made=made):
                total = made.objective(made.model.apply, params, batch, jax.random.key(0), train=True)["loss"]
                return total.total / total.weight

            with placed(made.layout, made.mesh):
                out = jax.jit(jax.value_and_grad(loss))(params, placed_batch)
            assert len(jax.tree.leaves(out)[1].sharding.device_set) == devices
            found.append(jax.device_get(out))
        every.append(found)
    return every


@pytest.mark.slow
def test_a_mesh_has_the_gradients_of_one_device(tmp_path):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    for one, eight in on_8_devices(tmp_path, "gradients()", "test_seq2seq"):
        jax.tree.map(close, eight, one)


@pytest.mark.parametrize("recipe", [encdec.seq2seq, encdec.t5, encdec.bart], ids=["sinusoidal", "t5", "bart"])
def test_a_cache_may_begin_with_the_source_and_no_token(recipe):
    """As generation does, whose first token is fed by its loop."""
    model, batch = make(recipe, {"model.depth": 1}), rows()
    none = batch | {name: batch[name][:, :0] for name in ("tokens", "segments", "positions")}
    params = jax.eval_shape(lambda: parameters(model, batch))
    begin = lambda params: model.apply({"params": params}, none, train=False, cache=model.init_cache(2, 8))  # noqa: E731
    logits_btv, cache = jax.eval_shape(begin, params)
    assert logits_btv.shape == (2, 0, 64) and cache["source"]["segments"].shape == (2, SOURCE)
