"""Images augmented within the compiled train step: an objective like the one given, on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.augment import settings
from lmjax.augment.images import IMAGE
from lmjax.augment.mixing import MIX

STREAM = 0xA46  # folded into the step's key, so that dropout draws other numbers


def augmented(objective: Callable, data: Any) -> Callable:
    """The objective on images changed as config.data.augment says, in training only; itself when that says nothing.

    batch["image"] (b, h, w, 3) becomes float32 from 0 to 255: the changes of `image`, each row's by its own key,
    `fold_in(rng, row)`, then one of `mix` for the batch, which adds label_mix int32 (b,) and mix float32 (b,): the
    loss is mix * loss(label) + (1 - mix) * loss(label_mix). UserError for a section that does not fit the data.
    """
    found = settings.section(data)
    if found is None or not (found.image or found.mix):
        return objective
    changes, mixes = settings.bound(IMAGE, found.image, found), settings.bound(MIX, found.mix, found)

    def on_augmented(apply, params, batch, rng, *, train):
        if train:
            batch = changed(batch, jax.random.fold_in(rng, STREAM), changes, mixes)
        return objective(apply, params, batch, rng, train=train)

    return on_augmented


def changed(
    batch: Mapping[str, jax.Array], rng: jax.Array, changes: list[Callable], mixes: list[Callable]
) -> dict[str, jax.Array]:
    """The batch with its images changed, one after the other of `changes(image, key)`, and mixed by one of `mixes`."""
    images_bhwc = batch["image"].astype(jnp.float32)
    b = images_bhwc.shape[0]

    def alone(image_hwc, row):
        key = jax.random.fold_in(rng, row)
        for number, change in enumerate(changes):
            image_hwc = change(image_hwc, jax.random.fold_in(key, number))
        return image_hwc

    if changes:
        images_bhwc = jax.vmap(alone)(images_bhwc, jnp.arange(b))
    batch = {**batch, "image": images_bhwc}
    if mixes:
        which, key = jax.random.split(jax.random.fold_in(rng, b))
        images_bhwc, partner_b, mix_b = jax.lax.switch(
            jax.random.randint(which, (), 0, len(mixes)), mixes, images_bhwc, key
        )
        batch |= {"image": images_bhwc, "label_mix": batch["label"][partner_b], "mix": mix_b}
    return batch
