"""The classifier of an image with a text: a label is of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_contrastive import SMALL, rows

from configs import vision
from lmjax import models, objectives
from lmjax.config import update
from lmjax.data import kinds
from lmjax.errors import UserError
from lmjax.sharding import unbox


def make(changes=None):
    small = {path: value for path, value in SMALL.items() if path != "model.width"} | {"model.hidden": 12}
    made = update(vision.matches(), {**small, **(changes or {})})
    return models.build(made, vocab=tiny.VOCAB, classes=2, platform="cpu", fields=kinds.fields(made.data))


def labelled(lengths):
    """Rows of an image, a text and a label; a row without a token is padding."""
    batch = {name: x for name, x in rows(lengths).items() if name in ("image", "tokens", "segments", "positions")}
    real = np.array([float(length > 0) for length in lengths], np.float32)
    return batch | {"label": np.arange(len(lengths), dtype=np.int32) % 2, "weights": real}


def parameters(model):
    batch = labelled((4, 6))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False)["params"])
    random = np.random.RandomState(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(float(path[-1].key == "scale") + 0.3 * random.standard_normal(leaf.shape), "f"),
        unbox(boxed),
    )


@pytest.mark.parametrize("encoder", ["vit", "convnext"])
def test_a_label_is_of_its_image_and_of_its_text_together(encoder):
    """The change of the logits by another image is another beside another text: they are more than the sum of two."""
    model, batch = make({"model.encoder": encoder}), labelled((4, 6))
    params = parameters(model)
    run = jax.jit(lambda batch: model.apply({"params": params}, batch, train=False))
    image, tokens = batch["image"].copy(), batch["tokens"].copy()
    image[0, 3, 3], tokens[0, 1] = 255 - image[0, 3, 3], (tokens[0, 1] + 1) % tiny.VOCAB
    before, by_image = run(batch), run(batch | {"image": image})
    by_text, by_both = run(batch | {"tokens": tokens}), run(batch | {"image": image, "tokens": tokens})
    assert before.shape == (2, 2) and before.dtype == jnp.float32
    for after in (by_image, by_text, by_both):
        assert jnp.abs(after - before)[0].max() > 1e-4
        np.testing.assert_array_equal(after[1], before[1])
    assert jnp.abs((by_both - by_text) - (by_image - before))[0].max() > 1e-5


def test_padding_rows_weigh_nothing():
    model = make()
    params, loss = parameters(model), objectives.OBJECTIVES["classification"]
    run = jax.jit(lambda batch: loss(model.apply, params, batch, jax.random.key(0), train=False))
    padded, alone = labelled((4, 6, 2, 0, 0, 0)), labelled((4, 6, 2))
    alone["image"] = padded["image"][:3]
    alone["tokens"] = padded["tokens"][:3]
    found, expected = ({name: s.mean() for name, s in run(batch).items()} for batch in (padded, alone))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.hidden": 0}, "model.hidden=0: it must be positive"),
        ({"model.activation": "gelo"}, "model.activation 'gelo'; did you mean 'gelu'"),
        ({"data.kind": "image_labels"}, "model.kind=joint is not for it, model.kind=.*vit"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(changes)
