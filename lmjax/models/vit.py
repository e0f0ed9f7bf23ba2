"""Images as rows of squares through a Transformer: ViT, and the image side of CLIP."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.attentions import ATTENTIONS
from lmjax.layers.backends import choose
from lmjax.layers.mlp import MLPS, default_width
from lmjax.layers.stack import REMATS
from lmjax.layers.transformer import Shape, Transformer
from lmjax.layers.vision import STD, Seen, Squares, scaled
from lmjax.sharding import param

POOLS = ("class", "mean")


class VisionTransformer(nn.Module):
    """Images (b, s, s, 3), from 0 to 255, to `Seen`; Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.

    Every square sees every other. pool: `class`, the features of a learned token before the squares, or `mean`, theirs.
    pre_norm: a layer norm before the first block, as in CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4).

    Parameters: `patches` (kernel (i, d) of a square's rows, columns and colours, and bias), `class` (d), `position`
    (p, d) with the token's place first, `pre_norm`, `blocks` (stacked), `norm`. The norm is of all places.
    """

    tower: Transformer
    image: int  # pixels a side
    patch: int
    pool: str = "class"
    patch_bias: bool = True
    pre_norm: bool = False
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def setup(self):
        nn.share_scope(self, self.tower)

    @property
    def width(self) -> int:
        return self.tower.shape.width

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Seen:
        check_image(image, self.image)
        shape, init, first = self.tower.shape, nn.initializers.normal(STD), self.pool == "class"
        pixels = scaled(image, self.mean, self.std).astype(shape.dtype)
        x = Squares(self.patch, shape.width, self.patch_bias, name="patches")(pixels)
        x_bpd = x.reshape(x.shape[0], -1, shape.width)
        if first:
            token_d = param(self, "class", "d", (shape.width,), init).astype(shape.dtype)
            x_bpd = jnp.concatenate([jnp.broadcast_to(token_d, (x.shape[0], 1, shape.width)), x_bpd], axis=1)
        position_pd = param(self, "position", "pd", x_bpd.shape[1:], init)
        x_bpd = x_bpd + position_pd.astype(shape.dtype)
        if self.pre_norm:
            x_bpd = shape.make_norm()(name="pre_norm")(x_bpd)
        together_bp = jnp.ones(x_bpd.shape[:2], jnp.int32)
        x_bpd, _ = self.tower(x_bpd, together_bp, together_bp, train=train)
        if first:
            return Seen(x_bpd[:, 1:], x_bpd[:, 0])
        return Seen(x_bpd, jnp.mean(x_bpd.astype(jnp.float32), axis=1).astype(x_bpd.dtype))


def check_image(image: jax.Array, size: int) -> None:
    """UserError for images of another size than the model's."""
    if image.shape[1:] != (size, size, 3):
        raise UserError(
            f"an image of shape {image.shape[1:]}: the model's are {size} pixels a side, with three colours each"
        )


def vit(section: ConfigDict, *, image: int, platform: str, dtype: Any, where: str = "model.vit") -> VisionTransformer:
    """A `VisionTransformer` for images of so many pixels a side; `where` is the section's name, for messages."""
    patch = section.patch
    if patch < 1 or image % patch:
        legal = [size for size in range(1, image + 1) if image % size == 0]
        raise UserError(
            f"{where}.patch={patch}: squares of so many pixels a side do not tile images of data.image_size={image}; "
            f"legal: {', '.join(map(str, legal))}"
        )
    if section.pool not in POOLS:
        raise unknown(f"value of {where}.pool", section.pool, POOLS)
    check_colours(section, where)
    places = (image // patch) ** 2 + (section.pool == "class")
    shape = tower(section, length=places, position="none", platform=platform, dtype=dtype, where=where)
    return VisionTransformer(
        Transformer(shape), image,
        **{name: section[name] for name in ("patch", "pool", "patch_bias", "pre_norm", "mean", "std")},
    )  # fmt: skip


def tower(section: ConfigDict, *, length: int, position: str, platform: str, dtype: Any, where: str) -> Shape:
    """A pre-norm Transformer's shape for rows of `length` positions, from the leaves that both of CLIP's have."""
    for name in ("depth", "width", "heads"):
        if section[name] < 1:
            raise UserError(f"{where}.{name}={section[name]}: it must be positive")
    if section.width % section.heads:
        raise UserError(f"{where}.heads={section.heads} does not divide {where}.width={section.width}")
    for name, legal in (("mlp", MLPS), ("remat", REMATS), ("layers", ("scan", "unroll"))):
        if section[name] not in legal:
            raise unknown(f"value of {where}.{name}", section[name], legal)
    if not 0 <= section.dropout < 1:
        raise UserError(f"{where}.dropout={section.dropout}: from 0 to below 1")
    return Shape(
        kv_heads=section.heads, head=section.width // section.heads, max_length=length, norm_place="pre",
        mlp_width=section.mlp_width or default_width(section.mlp, section.width), scan=section.layers == "scan",
        attend=ATTENTIONS[choose("auto", platform=platform, length=length, bias=False)], position=position, dtype=dtype,
        **{name: section[name] for name in ("depth", "width", "heads", "mlp", "norm_eps", "dropout", "remat")},
    )  # fmt: skip


def check_colours(section: ConfigDict, where: str) -> None:
    """UserError unless `mean` and `std` have a number for each colour, and the latter is positive."""
    for name in ("mean", "std"):
        if len(section[name]) != 3 or (name == "std" and min(section[name]) <= 0):
            raise UserError(f"{where}.{name}={section[name]}: three numbers, for red, green and blue")
