"""The recipes of encoders and encoder-decoders are the shapes that they name."""

import inspect

import jax
import pytest

from configs import encdec, encoders
from lmjax import models, program
from lmjax.config import config
from lmjax.data import kinds
from lmjax.sharding import unbox

# As counted where the weights are published. RoBERTa and BART have two rows of positions more there, which are not used.
PUBLISHED = {
    "bert_base": 110_106_428, "bert_large": 336_226_108, "roberta_base": 124_697_433 - 2 * 768,
    "t5_small": 60_506_624, "t5_base": 222_903_552, "t5_1_1_small": 76_961_152, "bart_base": 139_420_416 - 4 * 768,
}  # fmt: skip
SECTIONS = ("encoder", "seq2seq", "t5", "bart", "of_model")  # these are of a model alone
RECIPES = {
    name: function
    for module in (encoders, encdec)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and name[0] != "_" and name not in SECTIONS
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_shape_that_it_names(name):
    recipe = RECIPES[name]()
    fields = kinds.fields(recipe.data)
    model = models.build(recipe, vocab=recipe.data.vocab, classes=8, platform="tpu", fields=fields)
    example = program.example(recipe)
    boxed = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch, train=False)["params"], example)
    total = sum(leaf.size for leaf in jax.tree.leaves(unbox(boxed)))
    more = model.padded_vocab() - recipe.data.vocab
    of_ids = recipe.model.width * (1 if recipe.model.tied else 2) + recipe.model.kind.startswith("encoder")
    if name in PUBLISHED:
        assert total - more * of_ids == PUBLISHED[name]
    elif name.startswith("transformer"):
        assert total / 1e6 == pytest.approx({"base": 65, "big": 213}[name.split("_")[1]], rel=0.03)  # table 3
    else:
        assert 1e6 < total < 6e6, "for two cores"


def test_sections_have_no_leaf_that_nothing_reads():
    """A model's section is made of leaves that the builders know, in both files the same where they mean the same."""
    encoder, seq2seq = config(**encoders.encoder()), config(**encdec.seq2seq())
    own = {"encoder": {"types", "pool", "pooler"}, "seq2seq": {"decoder_depth", "readout_scale", "scaled"}}
    assert set(encoder) - own["encoder"] == set(seq2seq) - own["seq2seq"]
