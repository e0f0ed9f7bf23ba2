"""Two images in one, with both labels: pure functions of (images, key) on a batch.

Both give (images, partner (b,) int32, mix (b,) float32): row r is to the share mix[r] itself, and else row partner[r].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Mixed = tuple[jax.Array, jax.Array, jax.Array]


def mixup(images_bhwc: jax.Array, key: jax.Array, *, alpha: float = 0.2) -> Mixed:
    """Each image blended with another, mix drawn from Beta(alpha, alpha); Zhang et al. 2018, arXiv:1710.09412, eq. 1.

    Here every row draws a mix of its own, and mix is at least a half: the order of a pair means nothing.
    """
    partner_b, mix_b = _drawn(images_bhwc, key, alpha)
    mix_b = jnp.maximum(mix_b, 1 - mix_b)
    share_b111 = mix_b[:, None, None, None]
    return images_bhwc * share_b111 + images_bhwc[partner_b] * (1 - share_b111), partner_b, mix_b


def cutmix(images_bhwc: jax.Array, key: jax.Array, *, alpha: float = 1.0) -> Mixed:
    """A rectangle of each image replaced by that of another; Yun et al. 2019, arXiv:1905.04899, section 3.1.

    Its sides are sqrt(1 - m) of the image's for m of Beta(alpha, alpha), about a random pixel, cut off at the edges;
    mix is the share of pixels that are left.
    """
    where, key = jax.random.split(key)
    partner_b, mix_b = _drawn(images_bhwc, key, alpha)
    b, h, w, _ = images_bhwc.shape
    side_b, middle_2b = jnp.sqrt(1 - mix_b), jax.random.uniform(where, (2, b))

    def inside(size, middle_b):
        """(b, size): from the first to the last pixel of the rectangle."""
        middle_b, half_b = jnp.floor(middle_b * size), jnp.floor(side_b * size) / 2
        low_b, high_b = jnp.floor(middle_b - half_b), jnp.floor(middle_b + half_b)
        at = jnp.arange(size)
        return (at >= low_b[:, None]) & (at < high_b[:, None])

    box_bhw = inside(h, middle_2b[0])[:, :, None] & inside(w, middle_2b[1])[:, None, :]
    mix_b = 1 - jnp.mean(box_bhw.astype(jnp.float32), (1, 2))
    return jnp.where(box_bhw[..., None], images_bhwc[partner_b], images_bhwc), partner_b, mix_b


def _drawn(images_bhwc: jax.Array, key: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    partner, mix = jax.random.split(key)
    b = images_bhwc.shape[0]
    return jax.random.permutation(partner, b).astype(jnp.int32), jax.random.beta(mix, alpha, alpha, (b,))


MIX = {"mixup": mixup, "cutmix": cutmix}
