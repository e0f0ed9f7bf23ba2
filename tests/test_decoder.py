"""The decoder is the published ones: against NumPy in float64, and GPT-2, Llama and Qwen3 of `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny

from lmjax.errors import UserError

RECIPES = {
    "llama": {"model.kv_heads": 2, "model.tied": False},
    "gpt2": {"model.norm": "layernorm", "model.position": "learned", "model.mlp": "gelu_tanh", "model.bias": True},
    "vaswani": {"model.norm": "layernorm", "model.norm_place": "post", "model.position": "sinusoidal",
                "model.mlp": "relu", "model.bias": True},
    "post-norm with rms": {"model.norm_place": "post", "model.position": "none", "model.mlp": "silu"},
    "gemma 2 and qwen 3": {"model.attention_softcap": 2.0, "model.logit_softcap": 3.0, "model.qk_norm": True,
                           "model.window": 6, "model.mlp": "geglu", "model.head_width": 12, "model.kv_heads": 1},
    "alibi": {"model.position": "alibi", "model.mlp": "relu2"},
    "t5": {"model.position": "t5", "model.mlp": "reglu", "model.rope_base": 7.0},
    "gpt 3": {"model.window": 3, "model.window_layers": "alternate", "model.depth": 4, "model.norm": "layernorm",
              "model.position": "learned", "model.remat": "full"},
    "gpt 3, unrolled": {"model.window": 4, "model.window_layers": "alternate", "model.layers": "unroll"},
    "rope base": {"model.rope_base": 100.0, "model.qk_norm": True, "model.mlp": "gelu"},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_logits_equal_those_of_numpy_written_from_the_papers(name):
    changes = RECIPES[name]
    model, batch = tiny.model(changes), tiny.packed([[15, 6], [24]])
    params = tiny.parameters(model)
    expected = reference.decoder(params, batch, tiny.config(changes).model)
    real = np.asarray(batch["segments"]) > 0
    ours = tiny.logits(model, params, batch)[real]
    np.testing.assert_allclose(ours, expected[real][:, : tiny.VOCAB], atol=1e-3, rtol=1e-4)
    assert expected[real].std() > 0.3  # the numbers are not all near 0


def torch_logits(kind, tokens, **sizes):
    """Random weights and logits of a causal model of `transformers`, as NumPy."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(attn_implementation="eager", **sizes)
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # biases that are not 0, scales that are not 1
            scale = name.endswith("weight") and weight.ndim == 1
            weight.copy_(float(scale) + 0.1 * torch.randn_like(weight))
        logits = model(torch.tensor(np.array(tokens)).long()).logits.numpy()
    return {name: weight.detach().numpy() for name, weight in model.state_dict().items()}, logits


def stack(weights, pattern, reshape, depth=2):
    return jnp.asarray(np.stack([reshape(weights[pattern.format(i)]) for i in range(depth)]))


def test_gpt2_of_transformers_has_the_same_logits():
    batch = tiny.packed([[24], [24]], vocab=64)
    w, expected = torch_logits("GPT2", batch["tokens"], n_layer=2, n_embd=32, n_head=4, n_positions=24, vocab_size=64)
    heads = lambda part: lambda x: np.split(x, 3, axis=-1)[part].reshape(*x.shape[:-1], 4, 8)  # noqa: E731
    same = lambda x: x  # noqa: E731
    layer = "transformer.h.{}."
    attention = {"out": stack(w, layer + "attn.c_proj.weight", lambda x: x.reshape(4, 8, 32)),
                 "out_bias": stack(w, layer + "attn.c_proj.bias", same)}  # fmt: skip
    for part, name in enumerate(("query", "key", "value")):
        attention[name] = stack(w, layer + "attn.c_attn.weight", heads(part))
        attention[f"{name}_bias"] = stack(w, layer + "attn.c_attn.bias", heads(part))
    mlp, norms = {}, {}
    for ours, theirs in (("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
        mlp[ours], mlp[f"{ours}_bias"] = (stack(w, f"{layer}{theirs}.{end}", same) for end in ("weight", "bias"))
    for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
        norms[ours] = {a: stack(w, f"{layer}{theirs}.{b}", same) for a, b in (("scale", "weight"), ("bias", "bias"))}
    params = {
        "embed": w["transformer.wte.weight"], "position": w["transformer.wpe.weight"],
        "norm": {"scale": w["transformer.ln_f.weight"], "bias": w["transformer.ln_f.bias"]},
        "blocks": {"attention": attention, "mlp": mlp, **norms},
    }  # fmt: skip
    model = tiny.model(RECIPES["gpt2"] | {"model.mlp_width": None}, vocab=64)
    same_tree(model, params)
    np.testing.assert_allclose(tiny.logits(model, params, batch), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_llama_and_qwen3_of_transformers_have_the_same_logits(kind):
    batch = tiny.packed([[24], [24]], vocab=64)
    w, expected = torch_logits(
        kind, batch["tokens"], num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, vocab_size=64, max_position_embeddings=24, rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )  # fmt: skip
    layer = "model.layers.{}."
    projection = lambda heads: lambda x: x.T.reshape(32, heads, 8)  # noqa: E731
    attention = {
        "query": stack(w, layer + "self_attn.q_proj.weight", projection(4)),
        "key": stack(w, layer + "self_attn.k_proj.weight", projection(2)),
        "value": stack(w, layer + "self_attn.v_proj.weight", projection(2)),
        "out": stack(w, layer + "self_attn.o_proj.weight", lambda x: x.T.reshape(4, 8, 32)),
    }
    if kind == "Qwen3":
        for name in ("query", "key"):
            attention[f"{name}_scale"] = stack(w, layer + f"self_attn.{name[0]}_norm.weight", lambda x: x)
    mlp = {name: stack(w, layer + f"mlp.{name}_proj.weight", np.transpose) for name in ("gate", "up", "down")}
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    norms = {ours: {"scale": stack(w, layer + f"{theirs}.weight", lambda x: x)} for ours, theirs in norms.items()}
    params = {
        "embed": w["model.embed_tokens.weight"], "head": w["lm_head.weight"],
        "norm": {"scale": w["model.norm.weight"]}, "blocks": {"attention": attention, "mlp": mlp, **norms},
    }  # fmt: skip
    model = tiny.model(RECIPES["llama"] | {"model.qk_norm": kind == "Qwen3"}, vocab=64)
    same_tree(model, params)
    np.testing.assert_allclose(tiny.logits(model, params, batch), expected, atol=1e-4)


def same_tree(model, params):
    shapes = lambda tree: jax.tree.map(np.shape, tree)  # noqa: E731
    assert shapes(tiny.parameters(model)) == shapes(params)


def test_tied_embeddings_are_the_readout_and_learn_from_both_ends():
    batch = tiny.packed([[24]])
    tied, untied = tiny.model(), tiny.model({"model.tied": False})
    params = tiny.parameters(tied)
    assert "head" not in params and "head" in tiny.parameters(untied)
    both = params | {"head": params["embed"]}
    np.testing.assert_allclose(tiny.logits(tied, params, batch), tiny.logits(untied, both, batch), rtol=1e-5, atol=1e-5)

    def gradient(model, params):
        loss = lambda p: jnp.sum(model.apply({"params": p}, batch, train=False)[..., : tiny.VOCAB] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    one, two = gradient(tied, params), gradient(untied, both)
    np.testing.assert_allclose(one["embed"], two["embed"] + two["head"], rtol=1e-3, atol=1e-2)


def dropped(rate=0.5, key=0, *, train=True):
    model = tiny.model({"model.dropout": rate})
    params, batch = tiny.parameters(model), tiny.packed([[24]])
    run = jax.jit(lambda key: model.apply({"params": params}, batch, train=train, rngs={"dropout": key}))
    return run(jax.random.key(key))


def test_dropout_depends_on_its_key_only_and_not_on_evaluation():
    np.testing.assert_array_equal(dropped(key=1), dropped(key=1))
    assert jnp.abs(dropped(key=1) - dropped(key=2)).max() > 0.1
    np.testing.assert_array_equal(dropped(train=False), dropped(rate=0.0, train=False))
    np.testing.assert_array_equal(dropped(rate=0.0, train=True), dropped(rate=0.0, train=False))


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_every_dropout_has_a_mask_of_its_own_and_keeps_the_mean(layers):
    """Embeddings of 16 units and branches of 1, 2, 4 and 8: the features tell which of the five were kept where.

    What is kept is divided by 1 - rate (Srivastava et al. 2014, section 10). The unit is small for the last norm's eps
    to tell the size of its input: mean(y^2) = m / (m + eps), where m is the mean square of x, and y^2 (m + eps) = x^2.
    """
    rate, unit, eps = 0.25, 1e-4, 1e-6
    changes = {"model.width": 64, "model.bias": True, "model.layers": layers}
    model, batch = tiny.model(changes | {"model.dropout": rate}), tiny.packed([[24]] * 8)
    params = jax.tree.map(jnp.zeros_like, tiny.parameters(model))
    params["embed"] += 16 * unit
    params["norm"]["scale"] += 1
    params["blocks"]["attention"]["out_bias"] += unit * jnp.array([[1.0], [4.0]])
    params["blocks"]["mlp"]["down_bias"] += unit * jnp.array([[2.0], [8.0]])
    options = {"train": True, "method": "features", "rngs": {"dropout": jax.random.key(0)}}
    y = jax.jit(lambda params: model.apply({"params": params}, batch, **options)[0])(params)
    share = np.mean(np.square(np.float64(y)), axis=-1, keepdims=True)
    units = np.float64(y) * np.sqrt(eps / (1 - share)) * (1 - rate) / unit
    kept = np.rint(units).astype(int)
    np.testing.assert_allclose(units, kept, atol=0.05)
    assert set(np.unique(kept)) == set(range(32))  # each of the five independently of the others
    for bit in range(5):
        mask = (kept >> bit & 1).reshape(-1, 64)
        assert abs(mask.mean() - (1 - rate)) < 0.02 and len(np.unique(mask, axis=0)) == len(mask)


def test_bfloat16_compute_keeps_float32_parameters_logits_and_loss():
    from lmjax.config import update
    from lmjax.models import build

    section = tiny.config({"model.layers": "scan", "precision.compute": "bfloat16"})
    model, exact = (build(update(section, {"precision.compute": name}), vocab=tiny.VOCAB, platform="cpu")
                    for name in ("bfloat16", "float32"))  # fmt: skip
    params, batch = tiny.parameters(model), tiny.packed([[24], [10, 9]])
    ours, expected = tiny.logits(model, params, batch), tiny.logits(exact, params, batch)
    assert ours.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    error = float(jnp.linalg.norm(ours - expected) / jnp.linalg.norm(expected))
    assert 1e-4 < error < 0.05
    features = jax.eval_shape(lambda: model.apply({"params": params}, batch, train=False, method="features")[0])
    assert features.dtype == jnp.bfloat16
    automatic = {platform: build(update(section, {"precision.compute": "auto"}), vocab=9, platform=platform).dtype
                 for platform in ("cpu", "tpu", "gpu")}  # fmt: skip
    assert automatic == {"cpu": jnp.float32, "tpu": jnp.bfloat16, "gpu": jnp.bfloat16}


def test_initial_logits_are_small_and_residual_branches_shrink_with_depth():
    """Radford et al. 2019, section 2.3: the output of a branch starts 1 / sqrt(2 depth) smaller."""
    std = lambda depth: jax.tree.map(jnp.std, initial({"model.depth": depth})["blocks"])  # noqa: E731
    one, four = std(1), std(4)
    for part, name in (("attention", "out"), ("mlp", "down")):
        np.testing.assert_allclose(one[part][name] / four[part][name], 2.0, rtol=0.1)
        np.testing.assert_allclose(one[part][name], (1 / 2 / {"out": 32, "down": 48}[name]) ** 0.5, rtol=0.1)
    np.testing.assert_allclose(one["mlp"]["up"] / four["mlp"]["up"], 1.0, rtol=0.1)
    twice = jax.tree.map(jnp.std, initial({"model.depth": 1, "model.init_scale": 2.0})["blocks"])
    np.testing.assert_allclose(twice["mlp"]["up"] / one["mlp"]["up"], 2.0, rtol=1e-3)
    model = tiny.model()
    assert jnp.abs(tiny.logits(model, initial({}), tiny.packed([[24]]))).max() < 1


def initial(changes):
    from lmjax.sharding import unbox

    model, batch = tiny.model(changes), tiny.packed([[4]], length=4)
    return unbox(jax.jit(lambda key: model.init(key, batch, train=False)["params"])(jax.random.key(0)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.kind": "decodr"}, "model.kind 'decodr'; did you mean 'decoder'|'decodr'"),
        ({"model.heads": 5}, "model.heads=5 does not divide model.width=32; heads that do, near it: .*4, 8"),
        ({"model.kv_heads": 3}, "model.kv_heads=3 does not divide model.heads=4"),
        ({"model.mlp": "swigl"}, "model.mlp 'swigl'; did you mean 'swiglu'"),
        ({"model.position": "ropes"}, "model.position 'ropes'; did you mean 'rope'"),
        ({"model.rope_scaling": "yarn"}, "model.rope_scaling 'yarn'.*Legal: none, linear, ntk"),
        ({"model.norm": "layer_norm"}, "did you mean 'layernorm'"),
        ({"model.norm_place": "before"}, "model.norm_place 'before'.*Legal: pre, post"),
        ({"model.remat": "some"}, "model.remat 'some'.*Legal: none, full, minimal, dots"),
        ({"model.layers": "loop"}, "model.layers 'loop'.*Legal: scan, unroll"),
        ({"model.attention": "flash"}, "model.attention 'flash'"),
        ({"model.depth": 0}, "model.depth=0: it must be positive"),
        ({"model.window": 0}, "model.window=0: it must be positive"),
        ({"model.window_layers": "alternate"}, "model.window_layers=alternate: .*it is None"),
        ({"model.window_layers": "alternate", "model.window": 4, "model.depth": 3}, "model.depth=3 must be even"),
        ({"model.attention_softcap": -1.0}, "model.attention_softcap=-1.0: it must be positive"),
        ({"model.kv_heads": 0}, "model.kv_heads=0: it must be positive"),
        ({"model.dropout": 1.0}, "model.dropout=1.0: from 0 to below 1"),
        ({"model.head_width": 7}, "needs an even head width, and it is 7"),
        ({"model.head_width": 2, "model.rope_scaling": "ntk", "model.rope_factor": 2.0}, "model.rope_scaling=ntk"),
        ({"model.position": "learned", "model.max_length": 8}, "model.max_length=8 is shorter than data.length=24"),
        ({"precision.compute": "float16"}, "precision.compute 'float16'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        tiny.model(changes)
