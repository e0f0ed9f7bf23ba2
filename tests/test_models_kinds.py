"""Models of other kinds of data than text: images before a text, and one label a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from apart import apart
from test_sharding import on_8_devices

from lmjax import models, program
from lmjax.data import kinds
from lmjax.data.tokenizers import Bytes
from lmjax.decode import Generator
from lmjax.errors import UserError
from lmjax.experiment import find
from lmjax.layers import blocked
from lmjax.layers.attention import dense
from lmjax.layers.patches import Patches
from lmjax.layers.positions import POSITIONS
from lmjax.layers.splash import splash
from lmjax.models.fit import RECIPES
from lmjax.sharding import dims_of, unbox

TOKENIZER = Bytes()
SIZE, PATCH, PATCHES, CLASSES = 12, 4, 9, 5
CHANGES = {
    "labels": {"model.kind": "classifier", "objective.kind": "classification"},
    "images": {"model.patch": PATCH},
    "image_labels": {"model.kind": "classifier", "objective.kind": "classification", "model.patch": PATCH},
    "image_text_labels": {"model.kind": "classifier", "objective.kind": "classification", "model.patch": PATCH},
}


def config(kind, changes=None):
    return tiny.config({"data.kind": kind, "data.image_size": SIZE, **CHANGES.get(kind, {}), **(changes or {})})


def make(kind, changes=None):
    made = config(kind, changes)
    return models.build(made, vocab=tiny.VOCAB, classes=CLASSES, platform="cpu", fields=kinds.fields(made.data))


def rows(kind, lengths=((24,), (10,)), seed=0):
    """A batch with the fields of the kind."""
    random, b = np.random.RandomState(seed), len(lengths)
    batch = tiny.packed(lengths, seed=seed) if kind != "image_labels" else {}
    fields = kinds.fields(config(kind).data)
    if "image" in fields:
        batch["image"] = jnp.asarray(random.randint(0, 256, (b, SIZE, SIZE, 3)).astype(np.uint8))
    if "label" in fields:
        batch |= {"label": jnp.asarray(random.randint(0, CLASSES, b), jnp.int32), "weights": jnp.ones(b, jnp.float32)}
    batch = {name: batch[name] for name in fields}
    assert {name: (x.shape[1:], x.dtype) for name, x in batch.items()} == {
        name: (field.shape, jnp.dtype(field.dtype)) for name, field in fields.items()
    }
    return batch


def parameters(model, kind):
    """Random parameters, as `tiny.parameters` has them, from a batch of the kind."""
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), rows(kind), train=False)["params"])
    random = np.random.RandomState(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(float("scale" in path[-1].key) + 0.2 * random.standard_normal(leaf.shape), "f"),
        unbox(boxed),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    return model.apply({"params": params}, batch, train=False)


# --- a label a row --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_label_depends_on_every_token_of_its_text_and_on_no_padding(pool):
    model, batch = make("labels", {"model.pool": pool}), rows("labels")
    params = parameters(model, "labels")
    before = run(model, params, batch)
    assert before.shape == (2, CLASSES) and before.dtype == jnp.float32
    for at in (0, 4, 9):  # of the row of 10 tokens
        after = run(model, params, batch | {"tokens": batch["tokens"].at[1, at].add(1)})
        assert jnp.abs(after - before)[1].max() > 1e-3
        np.testing.assert_array_equal(after[0], before[0])
    for at in (10, 23):
        after = run(model, params, batch | {"tokens": batch["tokens"].at[1, at].add(1)})
        np.testing.assert_array_equal(after, before)


def test_a_classifier_is_the_decoder_with_another_head():
    """By the same names: a language model's parameters fit in. Its features are those of the last token, or their mean."""
    decoder, batch = make("text"), rows("labels")
    params = parameters(decoder, "text") | {"head": 0.3 * jax.random.normal(jax.random.key(1), (CLASSES, 32))}
    x_btd, _ = decoder.apply({"params": params}, batch, train=False, method="features")
    expected = {"last": jnp.stack([x_btd[0, 23], x_btd[1, 9]]),
                "mean": jnp.stack([x_btd[0].mean(0), x_btd[1, :10].mean(0)])}  # fmt: skip
    for pool, x_bd in expected.items():
        model = make("labels", {"model.pool": pool})
        assert jax.tree.map(np.shape, parameters(model, "labels")) == jax.tree.map(np.shape, params)
        np.testing.assert_allclose(run(model, params, batch), x_bd @ params["head"].T, rtol=1e-4, atol=1e-4)


def test_every_patch_of_an_image_is_in_its_label():
    model, batch = make("image_labels"), rows("image_labels", [(), ()])
    params = parameters(model, "image_labels")
    assert params.keys() == {"patches", "blocks", "norm", "head"}, "no tokens, no table of them"
    before = run(model, params, batch)
    for y, x in np.ndindex(3, 3):
        image = batch["image"].at[1, PATCH * y + 1, PATCH * x + 2, 1].add(100)
        after = run(model, params, batch | {"image": image})
        assert jnp.abs(after - before)[1].max() > 1e-4
        np.testing.assert_array_equal(after[0], before[0])
    exact = run(model, params, batch | {"image": batch["image"].astype(jnp.float32)})
    np.testing.assert_array_equal(exact, before)  # bytes, or the same as floats


def test_patches_are_those_of_the_image_in_raster_order():
    """In NumPy: one square and one channel after the other."""
    model, batch = make("image_labels", {"model.depth": 1}), rows("image_labels", [(), ()])
    p = parameters(model, "image_labels")["patches"]
    found = Patches(PATCH, 32).apply({"params": p}, batch["image"])
    for b, y, x in np.ndindex(2, 3, 3):
        square = np.asarray(batch["image"])[b, PATCH * y : PATCH * (y + 1), PATCH * x : PATCH * (x + 1)]
        colours = [float(colour) / 255 * 2 - 1 for row in square for pixel in row for colour in pixel]
        expected = np.array(colours) @ p["kernel"] + p["row"][y] + p["column"][x]
        np.testing.assert_allclose(found[b, 3 * y + x], expected, atol=1e-4)


# --- an image before a text -----------------------------------------------------------------------------------------


def test_a_text_sees_its_whole_image_and_no_token_that_comes_later():
    model, batch = make("images"), rows("images")
    params = parameters(model, "images")
    before = run(model, params, batch)
    assert before.shape == (2, 24, 64), "the text's positions only"
    for y, x in np.ndindex(3, 3):
        image = batch["image"].at[0, PATCH * y, PATCH * x].add(100)
        after = run(model, params, batch | {"image": image})
        assert (jnp.abs(after - before)[0].max(-1) > 1e-5).all()
        np.testing.assert_array_equal(after[1], before[1])
    after = run(model, params, batch | {"tokens": batch["tokens"].at[:, 7].add(1)})
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert (jnp.abs(after - before)[0, 7:].max(-1) > 1e-5).all()


def test_patches_that_see_both_ways_are_a_prefix_and_no_more_than_the_image(monkeypatch):
    """The first patch changes with the last, no token with a later one; and cut into blocks it is the same."""
    monkeypatch.setattr(blocked, "QUERY_BLOCK", 7)
    both, batch = {"model.patch_pattern": "bidirectional"}, rows("images")
    model = make("images", both)
    params = parameters(model, "images")
    trunk = jax.jit(lambda model, batch: model.apply({"params": params}, batch, train=False, method="trunk")[0],
                    static_argnums=0)  # fmt: skip
    before = trunk(model, batch)
    last = batch | {"image": batch["image"].at[:, SIZE - 1, SIZE - 1].add(100)}
    assert jnp.abs(trunk(model, last) - before)[:, 0].max(-1).min() > 1e-5
    np.testing.assert_array_equal(trunk(make("images"), last)[:, 0], trunk(make("images"), batch)[:, 0])
    after = trunk(model, batch | {"tokens": batch["tokens"].at[:, 7].add(1)})
    np.testing.assert_array_equal(after[:, : PATCHES + 7], before[:, : PATCHES + 7])
    expected = trunk(make("images", both | {"model.attention": "dense"}), batch)
    np.testing.assert_allclose(before[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_patches_are_to_a_text_what_tokens_before_it_would_be(position):
    """A table whose first nine rows are what the places of the patches are, and images that are grey."""
    images, text = (make(kind, {"model.position": position}) for kind in ("images", "text"))
    params = parameters(images, "images")
    row_pd, column_pd = (params["patches"][name] for name in ("row", "column"))
    params["embed"] = params["embed"].at[:PATCHES].set((row_pd[:, None] + column_pd[None]).reshape(PATCHES, -1))
    batch = rows("images", [(15,), (15,)])
    found = run(images, params, batch | {"image": jnp.full((2, SIZE, SIZE, 3), 127.5)})
    plain = tiny.packed([(24,), (24,)])
    before = jnp.broadcast_to(jnp.arange(PATCHES), (2, PATCHES))
    plain["tokens"] = jnp.concatenate([before, batch["tokens"][:, :15]], axis=1)
    expected = run(text, {name: x for name, x in params.items() if name != "patches"}, plain)
    np.testing.assert_allclose(found[:, :15], expected[:, PATCHES:], atol=1e-4)


def test_a_model_of_images_without_one_is_the_model_of_the_text():
    images, text, batch = make("images"), make("text"), rows("images")
    params = parameters(images, "images")
    no_image = {name: x for name, x in batch.items() if name != "image"}
    plain = {name: x for name, x in params.items() if name != "patches"}
    np.testing.assert_array_equal(run(images, params, no_image), run(text, plain, no_image))


def test_every_attention_gives_the_same_text_after_an_image(monkeypatch):
    monkeypatch.setattr(blocked, "QUERY_BLOCK", 7)  # of 33 positions: blocks within the image, the text, and across
    batch, window = rows("images"), {"model.window": 6}
    params = parameters(make("images"), "images")
    expected = run(make("images", window | {"model.attention": "dense"}), params, batch)
    found = run(make("images", window | {"model.attention": "blocked", "model.layers": "unroll"}), params, batch)
    for row, length in enumerate((24, 10)):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-4)


@pytest.mark.parametrize("position", apart(POSITIONS, "rope", "t5"))
def test_cached_decoding_after_an_image_is_the_full_forward_pass(position):
    """Ragged prompts, padded on the left, with an image each; then one token after the other. One row, and three.

    Of the row of 3 tokens none is in the first part: its image comes after nothing but padding.
    """
    changes = {"model.position": position, "model.depth": 2 if position == "rope" else 1}
    if position in ("sinusoidal", "none"):
        changes["model.patch_pattern"] = "bidirectional"
    if position in ("none", "alibi"):
        changes["model.window"] = 5
    model = make("images", changes)
    params = parameters(model, "images")
    lengths = (11, 6, 3)
    whole = rows("images", [(n,) for n in lengths])
    expected = run(model, params, whole)
    for chosen in ((0, 1, 2), (2,)):
        shifted = {name: np.zeros((len(chosen), 11), np.int32) for name in ("tokens", "segments", "positions")}
        for name, field in shifted.items():
            for row, i in enumerate(chosen):
                field[row, 11 - lengths[i] :] = np.asarray(whole[name])[i, : lengths[i]]
        cache, parts = model.init_cache(len(chosen), 11), []

        @jax.jit
        def apply(cache, batch):
            return model.apply({"params": params}, batch, train=False, cache=cache)

        for part in (slice(0, 8), *(slice(at, at + 1) for at in range(8, 11))):
            batch = {name: jnp.asarray(field[:, part]) for name, field in shifted.items()}
            if part.start == 0:
                batch["image"] = whole["image"][jnp.array(chosen)]
            logits, cache = apply(cache, batch)
            parts.append(logits)
        found = jnp.concatenate(parts, axis=1)
        assert found.shape[1] == 11 and int(cache["index"]) == 11 + PATCHES
        for row, i in enumerate(chosen):
            ours, theirs = found[row, 11 - lengths[i] :], expected[i, : lengths[i]]
            np.testing.assert_allclose(ours[:, : tiny.VOCAB], theirs[:, : tiny.VOCAB], rtol=2e-4, atol=2e-4)


def captioner(**settings):
    made = config("images", {"model.depth": 1})
    model = models.build(made, vocab=TOKENIZER.vocab_size, platform="cpu", fields=kinds.fields(made.data))
    params = parameters(model, "images")
    return (
        model,
        params,
        Generator(model.apply, model.init_cache, params, TOKENIZER, prepare=model.for_decoding, **settings),
    )


def test_a_caption_is_the_likeliest_after_its_image_whatever_else_is_in_the_batch():
    model, params, generator = captioner(chunk=4)
    images = np.asarray(rows("images", [(1,)] * 3)["image"])
    samples = generator.generate(["", "ab", ""], new=6, images=images)
    assert samples[0].tokens != samples[2].tokens, "another image, another text"
    for prompt, image, sample in zip(["", "ab", ""], images, samples, strict=True):
        tokens = [TOKENIZER.doc, *TOKENIZER.encode(prompt)]
        whole = tiny.packed([(len(tokens) + 6,)], length=24)
        whole["tokens"] = whole["tokens"].at[0, : len(tokens) + 6].set(jnp.array([*tokens, *sample.tokens]))
        guesses = run(model, params, whole | {"image": image[None]}).argmax(-1)[0]
        assert sample.tokens == guesses[len(tokens) - 1 : len(tokens) + 5].tolist()
        assert generator.generate([prompt], new=6, images=[image])[0].tokens == sample.tokens


def test_images_that_do_not_fit_are_refused():
    _, _, generator = captioner()
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(UserError, match="1 images for 2 prompts"):
        generator.generate(["", ""], new=4, images=[image])
    with pytest.raises(UserError, match=r"an image of shape \(8, 8, 3\): the model's are 12 pixels a side"):
        generator.generate([""], new=4, images=[image[:8, :8]])
    text = make("text")
    with pytest.raises(UserError, match="images for a model without them"):
        text.apply({"params": parameters(text, "text")}, rows("images"), train=False)


# --- meshes ---------------------------------------------------------------------------------------------------------


def one_step(kind):
    """The parameters after a step, and its loss, on one device and on eight."""
    found = []
    for mesh in ({"data": 1}, {"data": 1, "fsdp": 4, "tensor": 2}):
        changes = {f"layout.mesh.{axis}": size for axis, size in mesh.items()}
        chosen = config(kind, changes | {"model.depth": 1, "optim.eps": 1e-3})
        made = program.build(
            chosen, vocab=tiny.VOCAB, classes=CLASSES, devices=jax.devices()[: 8 if len(mesh) > 1 else 1]
        )
        state, step = made.compile_init()(), made.lower_step().compile()
        local = {name: np.asarray(field) for name, field in rows(kind, [(24,), (9,)] * 4).items()}
        state, metrics = step(state, made.place(local, 8))
        found.append((jax.device_get(state.params), metrics["loss"].mean()))
    return found


@pytest.mark.slow
def test_a_mesh_trains_as_one_device_does(tmp_path):
    one, eight = on_8_devices(tmp_path, "one_step('images')", "test_models_kinds")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), eight, one)


# --- what fits what -------------------------------------------------------------------------------------------------


def test_every_trainable_kind_has_a_model_and_every_parameter_a_layout():
    assert set(RECIPES) == set(kinds.TRAINABLE)
    for kind in ("text", "pairs", *CHANGES):  # those of decoders; encoders have tests of their own
        model = make(kind)
        boxed = jax.eval_shape(lambda m=model, k=kind: m.init(jax.random.key(0), rows(k), train=False)["params"])
        letters = dims_of(boxed)
        shapes = jax.tree.map(lambda leaf: len(leaf.shape), unbox(boxed))
        assert jax.tree.map(len, letters) == shapes


@pytest.mark.parametrize("kind", RECIPES)
def test_the_recipe_that_is_named_for_a_kind_is_one(kind):
    recipe = find(RECIPES[kind]).config
    assert recipe.data.kind == kind
    fields = kinds.fields(recipe.data)
    model = models.build(recipe, vocab=recipe.data.vocab or 257, classes=CLASSES, platform="cpu", fields=fields)
    example = program.example(recipe)
    shapes = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch, train=False)["params"], example)
    assert 50_000 < sum(leaf.size for leaf in jax.tree.leaves(unbox(shapes))) < 5_000_000


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (
            "labels",
            {"model.kind": "decoder"},
            "data.kind=labels, rows of tokens: model.kind=decoder gives next tokens and objective.kind=classification is of "
            "classes, objective.kind=next_token is",
        ),
        ("labels", {"objective.kind": "next_token"}, "objective.kind=next_token is not for it.*configs/labels.py"),
        ("labels", {"model.patch": 4}, "it has no images, so model.patch=4 must be none"),
        ("text", CHANGES["labels"], "objective.kind=classification is not for it, objective.kind=next_token"),
        (
            "pairs",
            {"objective.kind": "classification"},
            "data.kind=pairs, rows of tokens: objective.kind=classification is not for it",
        ),
        ("images", {"model.patch": None}, "model.patch must say into squares"),
        ("images", {"model.patch": 5}, "model.patch=5: .* data.image_size=12; legal: 1, 2, 3, 4, 6, 12"),
        ("image_labels", {"model.pool": "first"}, "model.pool 'first'.*Legal: last, mean"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(kind, changes, message):
    with pytest.raises(UserError, match=message):
        make(kind, changes)


def test_an_attention_that_is_chosen_is_one_for_every_width_of_the_batches():
    def attend(**changes):
        chosen = {name.replace("_", ".", 1): value for name, value in changes.items()}
        return models.build(config("pairs", {"data.length": 128, **chosen}), vocab=9, platform="tpu").attend

    assert attend() is splash and attend(data_buckets=4) is dense
    with pytest.raises(UserError, match="model.attention=splash: it needs a length that is a multiple of 128"):
        attend(data_buckets=4, model_attention="splash")


def test_one_class_is_nothing_to_tell_apart():
    with pytest.raises(UserError, match="the training data has 1 class"):
        models.build(config("labels"), vocab=9, classes=1, platform="cpu", fields=("tokens", "label"))
