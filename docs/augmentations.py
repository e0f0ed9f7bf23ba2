"""Draws docs/augmentations.png: what data.augment makes of images, a row for each change, untouched on the left.

python docs/augmentations.py --source=emoji --out=docs/augmentations.png
"""

from __future__ import annotations

import argparse
import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lmjax.augment.images import IMAGE
from lmjax.augment.mixing import MIX
from lmjax.data import corpora

GAP, MARGIN = 4, 112  # pixels between pictures, and for the names


def pictures(source: str, count: int, side: int) -> np.ndarray:
    """(count, side, side, 3) uint8: pictures of a packaged corpus, from all over it."""
    found = list(corpora.records(source))
    chosen = [found[i * len(found) // count] for i in range(count)]
    opened = [Image.open(io.BytesIO(record["image"])).convert("RGB").resize((side, side)) for record in chosen]
    return np.stack([np.asarray(image) for image in opened])


def sheet(images_bhwc: np.ndarray, of: int, draws: int, seed: int) -> Image.Image:
    """Of each change: picture `of` as it is, then `draws` random ones; mixing has another picture in every column."""
    side = images_bhwc.shape[1]
    x_bhwc, key = jnp.asarray(images_bhwc, jnp.float32), jax.random.key(seed)
    rows = {}
    for number, (name, change) in enumerate(IMAGE.items()):
        keys = jax.random.split(jax.random.fold_in(key, number), draws)
        made = jax.jit(jax.vmap(change, (None, 0)))(x_bhwc[of], keys)
        rows[name] = np.concatenate([x_bhwc[of][None], made])
    for name, mix in MIX.items():
        made, _, share = jax.jit(lambda x, key, mix=mix: mix(x, key, alpha=1.0))(x_bhwc, key)
        rows[f"{name} {float(share.min()):.2f}-{float(share.max()):.2f}"] = np.asarray(made)[: draws + 1]
    step = side + GAP
    paper = Image.new("RGB", (MARGIN + (draws + 1) * step, GAP + len(rows) * step), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for i, (name, row) in enumerate(rows.items()):
        draw.text((6, GAP + i * step + side / 2), name, "black", font, anchor="lm")
        for j, image in enumerate(np.clip(np.round(row), 0, 255).astype(np.uint8)):
            paper.paste(Image.fromarray(image), (MARGIN + j * step, GAP + i * step))
    return paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="emoji", help="a packaged corpus of images")
    parser.add_argument("--out", default="augmentations.png")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--of", type=int, default=4, help="the picture that is changed, of draws + 1")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    images = pictures(given.source, given.draws + 1, given.side)
    sheet(images, given.of, given.draws, given.seed).quantize(128).save(given.out, optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
