"""Position encodings are the published ones: rotary with scaling, sinusoids, ALiBi slopes, T5 buckets."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny
from apart import apart

from lmjax.layers.positions import alibi_bias, alibi_slopes, rotary_angles, rotate, sinusoids, t5_buckets


def test_sinusoids_equal_the_published_formula():
    positions = jnp.array([[0, 1, 2, 511, 4000]])
    for width in (16, 17):
        expected = [[reference.sinusoid(int(p), i, width) for i in range(width)] for p in positions[0]]
        np.testing.assert_allclose(sinusoids(positions, width)[0], expected, atol=5e-4)  # float32 of an angle of 4000
        np.testing.assert_allclose(sinusoids(positions, width)[0, :3], expected[:3], atol=1e-6)


def test_alibi_slopes_are_the_published_ones():
    """Press et al. 2022, section 3: 1/2, 1/4, .. for 8 heads; for 12 the four after come from 16 heads, every other."""
    eight = [2.0**-i for i in range(1, 9)]
    np.testing.assert_allclose(alibi_slopes(8), eight, rtol=1e-6)
    np.testing.assert_allclose(alibi_slopes(12), [*eight, *(2.0**-i for i in (0.5, 1.5, 2.5, 3.5))], rtol=1e-6)
    for heads in range(1, 41):
        np.testing.assert_allclose(alibi_slopes(heads), reference.alibi_slopes(heads), rtol=1e-6)


def test_alibi_biases_fall_with_the_distance():
    distance = jnp.arange(5)[:, None] - jnp.arange(7)
    bias_hts = alibi_bias(distance, 3)
    assert bias_hts.shape == (3, 5, 7)
    for head, slope in enumerate(reference.alibi_slopes(3)):
        np.testing.assert_allclose(bias_hts[head], -slope * distance, rtol=1e-6)


@pytest.mark.parametrize("buckets, furthest", [(32, 128), (16, 50), (8, 8000)])
def test_t5_buckets_equal_the_published_function(buckets, furthest):
    distances = np.arange(-40, 2 * furthest if furthest < 1000 else 9000)
    expected = [reference.t5_bucket(int(d), buckets, furthest) for d in distances]
    ours = np.asarray(t5_buckets(jnp.asarray(distances), buckets, furthest))
    # A boundary that is a whole number (64 = 16 * 8^(2/3) ..) may fall on either side of float32's logarithm.
    differ = np.flatnonzero(ours != expected)
    assert len(differ) <= 2 and all(ours[i + 1] == expected[i + 1] for i in differ)
    assert set(ours) == set(range(buckets)) and (np.diff(ours) >= 0).all()
    near = distances <= buckets // 2
    np.testing.assert_array_equal(ours[near], np.maximum(distances, 0)[near])


def test_t5_buckets_equal_those_of_transformers():
    torch = pytest.importorskip("torch")
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    distances = np.arange(-20, 500)
    theirs = attention._relative_position_bucket(torch.as_tensor(-distances), bidirectional=False)
    np.testing.assert_array_equal(t5_buckets(jnp.asarray(distances)), theirs.numpy())


def scores(q, k, query, key, **options):
    """Of one rotated query at one position and one rotated key at another."""
    turn = lambda x, at: rotate(x[None, None, None], rotary_angles(jnp.array([[at]]), x.shape[-1], 10_000.0, **options))  # noqa: E731
    return float(jnp.sum(turn(q, query) * turn(k, key)))


def test_rotary_scores_depend_on_the_distance_only_and_do_depend_on_it():
    q, k = jnp.asarray(np.random.RandomState(0).standard_normal((2, 16)), jnp.float32)
    near = scores(q, k, 9, 4)
    np.testing.assert_allclose([scores(q, k, at + 5, at) for at in (0, 77, 300)], near, rtol=1e-4, atol=1e-4)
    assert abs(scores(q, k, 10, 4) - near) > 1e-2
    np.testing.assert_allclose(scores(q, k, 3, 3), q @ k, rtol=1e-5)


def rates(head, base, **options):
    """What each pair turns by from one position to the next, read off the cosine and sine of position 1."""
    cos, sin = rotary_angles(jnp.array([[1]]), head, base, **options)
    return np.arctan2(sin, cos)[0, 0]


def test_rotary_pairs_turn_at_the_published_rates():
    """Su et al. 2021, section 3.2.2: theta_i = base^(-2 (i - 1) / d)."""
    np.testing.assert_allclose(rates(8, 10_000.0), [1, 0.1, 0.01, 0.001], rtol=1e-5)
    np.testing.assert_allclose(rates(4, 500_000.0), [1, 500_000.0**-0.5], rtol=1e-5)
    positions = np.array([[0, 3, 200]])
    x = jnp.asarray(np.random.RandomState(0).standard_normal((1, 3, 2, 8)), jnp.float32)
    expected = reference.rotary(np.float64(x), positions, np.array([1, 0.1, 0.01, 0.001]))
    np.testing.assert_allclose(rotate(x, rotary_angles(jnp.asarray(positions), 8, 10_000.0)), expected, atol=1e-4)


def test_linear_scaling_divides_positions():
    """Chen et al. 2023, eq. 4: position m of a context 4 times longer looks like position m / 4."""
    scaled = rotary_angles(jnp.array([[0, 4, 8, 400]]), 8, 10_000.0, "linear", 4.0)
    plain = rotary_angles(jnp.array([[0, 1, 2, 100]]), 8, 10_000.0)
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


def test_ntk_scaling_leaves_the_fastest_pair_alone_and_slows_the_slowest_by_the_factor():
    plain, scaled = rates(16, 10_000.0), rates(16, 10_000.0, scaling="ntk", factor=4.0)
    ratio = plain / scaled
    np.testing.assert_allclose([ratio[0], ratio[-1]], [1.0, 4.0], rtol=1e-4)
    np.testing.assert_allclose(ratio, 4.0 ** (np.arange(8) / 7), rtol=1e-4)  # geometric in between


def test_scaling_by_one_changes_nothing():
    for scaling in ("linear", "ntk"):
        np.testing.assert_allclose(rates(16, 10_000.0, scaling=scaling, factor=1.0), rates(16, 10_000.0), rtol=1e-6)


@pytest.mark.parametrize("scaling", ["linear", "ntk"])
def test_a_model_reads_its_rope_scaling_and_base(scaling):
    batch = tiny.packed([[24]])
    plain = tiny.model()
    params = tiny.parameters(plain)
    for changes in ({"model.rope_scaling": scaling, "model.rope_factor": 8.0}, {"model.rope_base": 100.0}):
        other = tiny.logits(tiny.model(changes), params, batch)
        assert jnp.abs(other - tiny.logits(plain, params, batch)).max() > 1e-2


@pytest.mark.parametrize("position", apart(["rope", "sinusoidal", "learned", "alibi", "t5"], "rope", "t5", "learned"))
def test_order_matters_to_every_encoding_and_to_none_only_through_the_mask(position):
    """Swapping the first two tokens changes the last logits; without positions one layer cannot tell."""
    batch = tiny.packed([[24]])
    swapped = batch | {"tokens": batch["tokens"].at[:, :2].set(batch["tokens"][:, 1::-1])}

    def change(position):
        model = tiny.model({"model.position": position, "model.depth": 1})
        params = tiny.parameters(model)
        return jnp.abs(tiny.logits(model, params, batch) - tiny.logits(model, params, swapped))[:, 2:].max()

    assert change(position) > 1e-3
    assert change("none") < 1e-5
