"""Encoders are BERT and RoBERTa, their heads read what they say, and masked words are scored where they stood."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch_weights

from configs import encoders
from lmjax import models
from lmjax.config import update
from lmjax.data.kinds import fields
from lmjax.errors import UserError
from lmjax.models.build import MODELS
from lmjax.objectives.masked import masked, sentences
from lmjax.sharding import unbox

SMALL = tiny.SMALL | {"data.corruption.kind": "masked", "objective.kind": "masked", "model.types": 2}


def make(changes=None, *, classes=3):
    config = update(encoders.of_model(encoders.encoder()), {**SMALL, **(changes or {})})
    return models.build(config, vocab=tiny.VOCAB, classes=classes, platform="cpu", fields=fields(config.data))


def head(name, changes=None):
    """An encoder with a head; of the data that it is for, only the fields of a text matter here."""
    labels = {"data.corruption.kind": "none", "data.kind": "labels", "objective.kind": "classification"}
    section = update(encoders.of_model(encoders.encoder()), {**SMALL, **labels, **(changes or {})}).model
    given = {"vocab": tiny.VOCAB, "classes": 3, "length": 24, "platform": "cpu", "dtype": jnp.float32}
    return MODELS[name](section, **given)


def parameters(model, batch):
    """Random parameters, as `tiny.parameters` has them."""
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False)["params"])
    random = np.random.RandomState(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(float("scale" in path[-1].key) + 0.2 * random.standard_normal(leaf.shape), "f"),
        unbox(boxed),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    return model.apply({"params": params}, batch, train=False)


def rows(lengths=((24,), (10,)), seed=0):
    """Rows of text whose second half is of another type, with the places of every third token to be told."""
    batch = tiny.packed(lengths, seed=seed)
    chosen = (jnp.arange(tiny.LENGTH) % 3 == 1) & (batch["segments"] > 0)
    batch["originals"] = batch.pop("targets")
    return batch | {"weights": chosen.astype(jnp.float32), "types": (batch["positions"] > 7).astype(jnp.int32)}


# --- the same numbers as transformers -------------------------------------------------------------------------------

BERT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 24, "hidden_act": "gelu"}  # fmt: skip


def of_bert(w, name="bert"):
    """The parameters of `Encoder` without its readout."""
    layer = name + ".encoder.layer.{}."
    blocks = {
        "attention": w.attention(f"{layer}attention", "self.query", "self.key", "self.value", "output.dense"),
        "attention_norm": w.norm(f"{layer}attention.output.LayerNorm"),
        "mlp": w.mlp(up=f"{layer}intermediate.dense", down=f"{layer}output.dense"),
        "mlp_norm": w.norm(f"{layer}output.LayerNorm"),
    }
    return {
        "embed": w[f"{name}.embeddings.word_embeddings.weight"], "types": w[f"{name}.embeddings.token_type_embeddings.weight"],
        "position": w[f"{name}.embeddings.position_embeddings.weight"], "blocks": blocks,
        "embed_norm": w.norm(f"{name}.embeddings.LayerNorm"),
    }  # fmt: skip


def asked(batch):
    """A batch in the words of transformers."""
    import torch

    inputs = {"input_ids": batch["tokens"], "attention_mask": batch["segments"] > 0, "token_type_ids": batch["types"]}
    return {name: torch.tensor(np.asarray(value)).long() for name, value in inputs.items()}


def test_bert_of_transformers_has_the_same_logits_of_masked_words_and_of_pairs_of_sentences():
    theirs = torch_weights.transformers_model("BertForPreTraining", **BERT)
    w, told = torch_weights.Weights(theirs.state_dict(), 2, 4), "cls.predictions."
    params = of_bert(w) | {
        "transform": w[f"{told}transform.dense.weight"].T, "transform_bias": w[f"{told}transform.dense.bias"],
        "transform_norm": w.norm(f"{told}transform.LayerNorm"), "head_bias": w[f"{told}bias"],
    }  # fmt: skip
    pair = {"pooler": w["bert.pooler.dense.weight"].T, "pooler_bias": w["bert.pooler.dense.bias"],
            "order": w["cls.seq_relationship.weight"], "order_bias": w["cls.seq_relationship.bias"]}  # fmt: skip
    batch, model, pretrainer = rows(), make(), head("encoder_sentences")
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, parameters(model, batch))
    expected = theirs(**asked(batch))
    real = np.asarray(batch["segments"] > 0)
    found = run(model, params, batch)[..., : tiny.VOCAB]
    np.testing.assert_allclose(
        found[real], expected.prediction_logits.detach().numpy()[real][..., : tiny.VOCAB], atol=1e-4
    )
    (told_btd, readout), logits_bn = run(pretrainer, params | pair, batch)
    np.testing.assert_allclose(logits_bn, expected.seq_relationship_logits.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(readout.logits(told_btd)[..., : tiny.VOCAB], found, atol=1e-4)


def test_roberta_of_transformers_has_the_same_classes():
    """Positions count from 2 there and there is one type; its head is a pooler and a linear map."""
    theirs = torch_weights.transformers_model(
        "RobertaForSequenceClassification", **BERT | {"max_position_embeddings": 26}, type_vocab_size=1, num_labels=3,
        pad_token_id=1,
    )  # fmt: skip
    w = torch_weights.Weights(theirs.state_dict(), 2, 4)
    params = of_bert(w, "roberta") | {
        "pooler": w["classifier.dense.weight"].T, "pooler_bias": w["classifier.dense.bias"],
        "head": w["classifier.out_proj.weight"], "head_bias": w["classifier.out_proj.bias"],
    }  # fmt: skip
    params["position"] = params["position"][2:]
    model, batch = head("encoder_classifier", {"model.types": 1}), rows()
    batch["types"], batch["tokens"] = batch["types"] * 0, jnp.where(batch["segments"] > 0, batch["tokens"] | 2, 1)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, parameters(model, batch))
    expected = theirs(**asked(batch)).logits.detach().numpy()
    np.testing.assert_allclose(run(model, params, batch), expected, atol=1e-4)


# --- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shape", [
    ("encoder_classifier", (2, 3)), ("encoder_regressor", (2,)), ("encoder_tagger", (2, 24, 3)),
    ("encoder_spans", (2, 24, 2)),
])  # fmt: skip
def test_a_head_reads_every_token_of_its_text_and_no_padding(name, shape):
    model, batch = head(name, {"model.pool": "mean", "model.depth": 1}), rows()
    params = parameters(model, batch)
    before = run(model, params, batch)
    assert before.shape == shape and before.dtype == jnp.float32
    real = (batch["segments"] > 0) if len(shape) == 3 else slice(None)
    for at in (0, 9):  # of the row of 10 tokens
        after = run(model, params, batch | {"tokens": batch["tokens"].at[1, at].add(1)})
        moved = jnp.abs(after - before).reshape(2, -1, shape[-1] if len(shape) == 3 else 1)
        assert (moved[1, : 10 if len(shape) == 3 else None].max(-1) > 1e-4).all() and moved[0].max() == 0
    after = run(model, params, batch | {"tokens": batch["tokens"].at[1, 10].add(1)})
    np.testing.assert_array_equal(after[real], before[real])
    if name == "encoder_spans":
        assert jax.nn.softmax(before, axis=1)[1, 10:].max() == 0


def test_a_chooser_gives_each_text_the_logit_that_it_has_alone():
    model, batch = head("encoder_chooser"), rows([(24,), (10,), (15,), (3,)])
    texts = {name: x.reshape(2, 2, -1) for name, x in batch.items()}
    params = parameters(model, texts)
    found = run(model, params, texts)
    assert found.shape == (2, 2)
    one = run(head("encoder_regressor"), params, batch)
    np.testing.assert_allclose(found.reshape(-1), one, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="rows of several texts"):
        run(model, params, batch)
    with pytest.raises(UserError, match="model.kind=encoder_chooser"):
        run(head("encoder_regressor"), params, texts)


def test_the_parameters_of_a_pretrained_encoder_fit_under_every_head():
    batch = rows()
    pretrained = parameters(make(), batch)
    for name in ("encoder_classifier", "encoder_regressor", "encoder_tagger", "encoder_spans"):
        fine = parameters(head(name), batch)
        own = {"head", "head_bias", "pooler", "pooler_bias"}
        assert {k: jax.tree.map(np.shape, v) for k, v in fine.items() if k not in own} == {
            k: jax.tree.map(np.shape, v)
            for k, v in pretrained.items()
            if k not in own and not k.startswith("transform")
        }


def test_documents_of_one_row_do_not_see_each_other():
    model, packed, apart = make({"model.depth": 1}), rows([(9, 15)]), rows([(9,)])
    params = parameters(model, packed)
    apart = apart | {name: packed[name] * (apart["segments"] > 0) for name in ("tokens", "types")}
    np.testing.assert_allclose(
        run(model, params, packed)[0, :9], run(model, params, apart)[0, :9], rtol=1e-4, atol=1e-5
    )


# --- masked words ---------------------------------------------------------------------------------------------------


def test_masked_words_are_scored_where_they_stood_and_only_they_need_go_through_the_vocabulary():
    model, batch = make({"model.depth": 1}), rows()
    params = parameters(model, batch)

    @jax.jit
    def scores(params):
        loss = functools.partial(masked, model.apply, params, batch, jax.random.key(0), train=False)
        return loss(), loss(predictions=8), loss(predictions=6), model.apply({"params": params}, batch, train=False)

    found, all_chosen, too_few, logits_btv = scores(params)
    log_p = np.asarray(jax.nn.log_softmax(logits_btv, axis=-1), np.float64)
    chosen = np.argwhere(np.asarray(batch["weights"]))
    told = [log_p[b, t, batch["originals"][b, t]] for b, t in chosen]
    assert float(found["nll"].weight) == len(chosen) == 8 + 3
    np.testing.assert_allclose(found["nll"].mean(), -np.mean(told), rtol=1e-5)
    right = [logits_btv[b, t].argmax() == batch["originals"][b, t] for b, t in chosen]
    assert found["accuracy"].mean() == pytest.approx(np.mean(right))
    for name, value in found.items():
        np.testing.assert_allclose(all_chosen[name].total, value.total, rtol=1e-5)
        assert all_chosen[name].weight == value.weight
    assert all_chosen["left_out"].mean() == 0
    assert float(too_few["left_out"].total) == 2 and float(too_few["nll"].weight) == 9  # of the first row's 8


def test_the_loss_of_two_tasks_adds_a_label_as_so_many_tokens():
    model, batch = head("encoder_sentences", {"model.depth": 1}), rows()
    batch |= {"label": jnp.array([1, 0]), "label_weights": jnp.array([1.0, 0.0])}
    params = parameters(model, batch)
    loss = functools.partial(sentences, model.apply, batch=batch, rng=jax.random.key(0), train=False, label_tokens=5.0)
    found, (_, logits_bn) = jax.jit(lambda params: (loss(params), run(model, params, batch)))(params)
    nll = -jax.nn.log_softmax(logits_bn[0])[1]
    np.testing.assert_allclose([found["label_nll"].total, found["label_nll"].weight], [nll, 1.0], rtol=1e-5)
    np.testing.assert_allclose(found["loss"].total, found["nll"].total + 5 * nll, rtol=1e-5)
    assert float(found["loss"].weight) == 11
