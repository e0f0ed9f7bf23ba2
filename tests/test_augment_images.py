"""Augmentation of images: each operation is Pillow's, and chance stays within its limits and in its key."""

import colorsys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageEnhance, ImageOps

from lmjax.augment import affine, colour, images, mixing

SIDE = 40


@pytest.fixture(scope="module")
def photo():
    """A real picture (OpenMoji's, of the documentation), 40 x 40, whose channels do not reach 0 or 255."""
    sheet = Image.open(Path(__file__).parents[1] / "docs" / "augmentations.png").convert("RGB")
    picture = sheet.crop((120, 0, 260, 140)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return Image.fromarray((np.asarray(picture) * 0.8 + 20).astype(np.uint8))


def array(picture):
    return jnp.asarray(np.asarray(picture), jnp.float32)


def moved(picture, coefficients):
    """Pillow's own affine map, grey outside."""
    return picture.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR,
                             fillcolor=(128, 128, 128))  # fmt: skip


def assert_alike(ours, picture, most=1.01):
    """Levels differ by rounding alone."""
    difference = np.abs(np.asarray(ours) - np.asarray(picture).astype(float))
    assert difference.max() <= most, (difference.max(), np.argwhere(difference > most)[:5])


SIZE = (SIDE, SIDE)
MAPS = {
    "turned": (affine.rotation(SIZE, 27.0), lambda p: p.rotate(27, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)),
    "moved": (affine.shift(3.0, -5.0), lambda p: moved(p, (1, 0, -3, 0, 1, 5))),
    "moved by parts": (affine.shift(3.25, -5.5), lambda p: moved(p, (1, 0, -3.25, 0, 1, 5.5))),
    "larger": (affine.scaling(SIZE, 1.6), lambda p: p.resize(SIZE, Image.Resampling.BILINEAR, (7.5, 7.5, 32.5, 32.5))),
    "smaller": (affine.scaling(SIZE, 0.5), lambda p: moved(p, (2, 0, -20, 0, 2, -20))),
    "sheared": (affine.shear(SIZE, 0.3, -0.1), lambda p: moved(p, (1, 0.3, -6, -0.1, 1, 2))),
    "cut out": (affine.window(SIZE, 5.0, 9.0, 20.0, 30.0),
                lambda p: p.resize(SIZE, Image.Resampling.BILINEAR, (5, 9, 25, 39))),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_that_of_pillow(photo, name):
    matrix, reference = MAPS[name]
    assert_alike(jax.jit(affine.warp)(array(photo), matrix), reference(photo))


def test_no_move_is_the_image_itself(photo):
    for still in (affine.shift(0.0, 0.0), affine.rotation(SIZE, 0.0), affine.scaling(SIZE, 1.0)):
        np.testing.assert_array_equal(affine.warp(array(photo), still), array(photo))


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("ours, name", [("brightness", "Brightness"), ("contrast", "Contrast"),
                                        ("saturation", "Color"), ("sharpness", "Sharpness")])  # fmt: skip
def test_factors_are_those_of_image_enhance(photo, ours, name, factor):
    reference = getattr(ImageEnhance, name)(photo).enhance(factor)
    assert_alike(getattr(colour, ours)(array(photo), factor), reference, 1.6)  # Pillow rounds grey before it blends


@pytest.mark.parametrize("ours, reference", [
    (colour.autocontrast, ImageOps.autocontrast),
    (colour.equalize, ImageOps.equalize),
    (colour.invert, ImageChops.invert),
    (partial(colour.solarize, threshold=100), partial(ImageOps.solarize, threshold=100)),
    (partial(colour.posterize, bits=3), partial(ImageOps.posterize, bits=3)),
])  # fmt: skip
def test_operations_on_levels_are_those_of_image_ops(photo, ours, reference):
    assert_alike(jax.jit(ours)(array(photo)), reference(photo))


def test_a_flat_image_stays_as_it_is_where_nothing_can_be_stretched():
    flat = jnp.full((8, 8, 3), 77.0)
    for change in (colour.autocontrast, colour.equalize, partial(colour.hue, turn=0.3)):
        np.testing.assert_allclose(jax.jit(change)(flat), flat, atol=1e-4)


def test_hue_turns_as_in_hsv(photo):
    turned = jax.jit(colour.hue)
    ours = np.asarray(turned(array(photo), 0.2))
    for i, j in ((0, 0), (3, 17), (20, 20), (39, 5), (31, 30)):
        h, s, v = colorsys.rgb_to_hsv(*(np.asarray(photo)[i, j] / 255))
        np.testing.assert_allclose(ours[i, j] / 255, colorsys.hsv_to_rgb((h + 0.2) % 1, s, v), atol=1e-5)
    np.testing.assert_allclose(turned(array(photo), 1.0), array(photo), atol=1e-3)


@pytest.mark.parametrize("name", images.IMAGE)
def test_a_change_follows_its_key_in_a_batch_as_alone(photo, name):
    change, keys = images.IMAGE[name], jax.random.split(jax.random.key(0), 6)
    many = jax.jit(jax.vmap(change, (None, 0)))(array(photo), keys)
    again = jax.jit(change)(array(photo), keys[3])
    np.testing.assert_allclose(many[3], again, atol=1e-3)
    assert many.dtype == jnp.float32 and many.shape == (6, SIDE, SIDE, 3)
    assert many.min() >= 0 and many.max() <= 255.001
    assert len({many[i].tobytes() for i in range(6)}) >= (2 if name == "flip" else 5)
    assert np.abs(np.asarray(many) - np.asarray(photo)).mean() > 0.5


@pytest.mark.parametrize("name, options", [
    ("crop", {"area": 1.0}), ("rotate", {"degrees": 0.0}), ("scale", {"zoom": 0.0}), ("translate", {"shift": 0.0}),
    ("brightness", {"jitter": 0.0}), ("contrast", {"jitter": 0.0}), ("saturation", {"jitter": 0.0}),
    ("hue", {"turn": 0.0}), ("rand_augment", {"operations": 0}),
])  # fmt: skip
def test_no_strength_is_no_change(photo, name, options):
    change = jax.jit(partial(images.IMAGE[name], **options))
    for seed in range(2):
        np.testing.assert_allclose(change(array(photo), jax.random.key(seed)), array(photo), atol=1e-3)


def test_a_crop_shows_only_what_is_in_the_image_and_at_least_its_area():
    ramp = jnp.stack(jnp.meshgrid(jnp.arange(64.0), jnp.arange(64.0), indexing="ij"), -1)  # a pixel's own place
    ramp = jnp.concatenate([ramp, jnp.zeros((64, 64, 1))], -1)
    many = jax.jit(jax.vmap(partial(images.crop, area=0.3), (None, 0)))
    crops = many(ramp, jax.random.split(jax.random.key(0), 100))
    sides = np.asarray(crops[:, 40, 40, :2] - crops[:, 24, 24, :2]) / 16  # of the rectangle, as a share
    area = sides.prod(-1)
    assert 0.2999 < area.min() < 0.35 and 0.95 < area.max() <= 1.001
    assert np.all(sides < 1.001) and np.ptp(sides[:, 0] / sides[:, 1]) > 0.45
    assert float(crops[..., :2].max()) <= 63 and float(crops[..., :2].min()) >= 0


def test_an_operation_of_rand_augment_is_that_of_its_name_and_does_more_the_stronger_it_is(photo):
    image, apply = array(photo), jax.jit(images.operation)
    references = {
        "autocontrast": ImageOps.autocontrast(photo),
        "equalize": ImageOps.equalize(photo),
        "posterize": ImageOps.posterize(photo, 4),
        "solarize": ImageOps.solarize(photo, 26),
        "saturation": ImageEnhance.Color(photo).enhance(1.81),
        "contrast": ImageEnhance.Contrast(photo).enhance(1.81),
        "brightness": ImageEnhance.Brightness(photo).enhance(1.81),
        "sharpness": ImageEnhance.Sharpness(photo).enhance(1.81),
        "rotate": photo.rotate(27, Image.Resampling.BILINEAR, fillcolor=(128,) * 3),
        "shear_x": moved(photo, (1, 0.27, -5.4, 0, 1, 0)),
        "shear_y": moved(photo, (1, 0, 0, 0.27, 1, -5.4)),
        "translate_x": moved(photo, (1, 0, -16.2, 0, 1, 0)),
        "translate_y": moved(photo, (1, 0, 0, 0, 1, -16.2)),
    }
    assert set(references) == set(images.OPERATIONS) - {"identity"}
    for number, name in enumerate(images.OPERATIONS):
        weak, strong = apply(image, number, 0.2), apply(image, number, 0.9)
        changes = [float(jnp.abs(made - image).mean()) for made in (weak, strong)]
        assert changes[1] >= changes[0] and (changes[1] > 0) == (name != "identity"), name
        assert_alike(strong, references.get(name, photo), 1.9)


def test_rand_augment_draws_every_operation_about_as_often(photo):
    image = array(photo.resize((24, 24)))
    made = jax.jit(jax.vmap(partial(images.rand_augment, operations=1), (None, 0)))(
        image, jax.random.split(jax.random.key(1), 280)
    )
    numbers, signs = jnp.repeat(jnp.arange(len(images.OPERATIONS)), 2), jnp.tile(jnp.array([0.9, -0.9]), 14)
    kinds = jax.jit(jax.vmap(images.operation, (None, 0, 0)))(image, numbers, signs)
    nearest = jnp.abs(made[:, None] - kinds[None]).mean((2, 3, 4)).argmin(1) // 2
    counts = np.bincount(np.asarray(nearest), minlength=len(images.OPERATIONS))
    assert counts.sum() == 280 and counts.min() > 7 and counts.max() < 36  # 20 expected


@pytest.fixture(scope="module")
def coloured():
    """(b, 16, 16, 3): row r is all of level 10 r, so that what is mixed can be read off."""
    return jnp.broadcast_to(10.0 * jnp.arange(24)[:, None, None, None], (24, 16, 16, 3))


def test_mixup_is_the_blend_that_it_says(coloured):
    mixed, partner, mix = jax.jit(partial(mixing.mixup, alpha=0.5))(coloured, jax.random.key(0))
    assert sorted(partner.tolist()) == list(range(24)) and partner.dtype == jnp.int32
    own = 10.0 * np.arange(24)
    expected = np.asarray(mix) * own + (1 - np.asarray(mix)) * own[np.asarray(partner)]
    np.testing.assert_allclose(mixed, np.broadcast_to(expected[:, None, None, None], mixed.shape), rtol=1e-5)
    assert mix.min() >= 0.5 and mix.max() <= 1 and np.ptp(mix) > 0.2


def test_cutmix_takes_one_rectangle_and_counts_its_pixels(coloured):
    mixed, partner, mix = jax.jit(mixing.cutmix)(coloured, jax.random.key(2))
    own = 10.0 * np.arange(24)
    for r, picture in enumerate(np.asarray(mixed)[..., 0]):
        other = own[int(partner[r])]
        assert set(picture.ravel()) <= {own[r], other}
        if other != own[r]:
            taken = picture == other
            assert mix[r] == pytest.approx(1 - taken.mean(), abs=1e-6)
            i, j = np.where(taken)
            assert not taken.any() or taken[i.min() : i.max() + 1, j.min() : j.max() + 1].all()
    assert 0.2 < float(mix.mean()) < 0.9 and np.ptp(mix) > 0.5
