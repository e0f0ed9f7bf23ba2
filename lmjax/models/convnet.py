"""A convolutional image encoder: ConvNeXt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.attention import Context
from lmjax.layers.norms import LayerNorm
from lmjax.layers.stack import REMATS, apply_stack, init_stack
from lmjax.layers.vision import ConvBlock, Seen, Squares, convolved, scaled, shifted
from lmjax.models.vit import check_colours, check_image

ALONE = Context(keep=None)  # blocks that attend to nothing


class ConvNet(nn.Module):
    """Images (b, s, s, 3), from 0 to 255, to `Seen`; ConvNeXt, Liu et al. 2022, arXiv:2201.03545, figure 4.

    Squares of `patch` pixels, then stages of `depths[i]` blocks of `widths[i]` channels; between two stages a layer
    norm and squares of 2 x 2 places. The whole image is the mean of its places, and a layer norm of that.

    Parameters: `patches` (kernel (i, d) by row, column and colour, and bias) and `patches_norm`; of stage n `stage_n`
    (stacked) and, from the second on, `down_n` and `down_n_norm`; `norm`.
    """

    image: int  # pixels a side
    patch: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    kernel: int = 7
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    scan: bool = True
    remat: str = "none"
    depthwise: Callable[[jax.Array, jax.Array], jax.Array] = convolved
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        return self.widths[-1]

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Seen:
        check_image(image, self.image)
        linear = partial(Squares, init=nn.initializers.lecun_normal())
        norm, x = partial(LayerNorm, eps=self.norm_eps), scaled(image, self.mean, self.std).astype(self.dtype)
        for n, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if n == 0:
                x = norm(name="patches_norm")(linear(self.patch, width, name="patches")(x))
            else:
                x = linear(2, width, name=f"down_{n}")(norm(name=f"down_{n}_norm")(x))
            block = ConvBlock(self.kernel, self.layer_scale, self.drop_path, self.norm_eps, self.depthwise, parent=None)
            blocks = self.param(f"stage_{n}", init_stack, block, depth, x, ALONE)
            rng = self.make_rng("dropout") if train and self.drop_path else None
            x = apply_stack(block, blocks, depth, x, ALONE, rng=rng, train=train, scan=self.scan, remat=self.remat)
        places_bpd = x.reshape(x.shape[0], -1, x.shape[-1])
        mean_bd = jnp.mean(places_bpd.astype(jnp.float32), axis=1).astype(x.dtype)
        return Seen(places_bpd, norm(name="norm")(mean_bd))


def convnext(section: ConfigDict, *, image: int, platform: str, dtype: Any, where: str = "model.convnext") -> ConvNet:
    """A `ConvNet` for images of so many pixels a side; `where` is the section's name, for messages."""
    depths, widths = section.depths, section.widths
    if len(depths) != len(widths) or not depths or min(*depths, *widths) < 1:
        raise UserError(
            f"{where}.depths={depths} and widths={widths}: as many as there are stages, and each at least 1"
        )
    stride = section.patch * 2 ** (len(depths) - 1)
    if section.patch < 1 or image % stride:
        raise UserError(
            f"{where}.patch={section.patch} and {len(depths)} stages halve the sides of an image to a {stride}th, and "
            f"data.image_size={image} is no multiple of {stride}; {max(stride, image // stride * stride)} is"
        )
    if section.kernel < 1 or section.kernel % 2 == 0:
        raise UserError(f"{where}.kernel={section.kernel}: an odd number of places a side")
    if not 0 <= section.drop_path < 1:
        raise UserError(f"{where}.drop_path={section.drop_path}: from 0 to below 1")
    for name, legal in (("remat", REMATS), ("layers", ("scan", "unroll"))):
        if section[name] not in legal:
            raise unknown(f"value of {where}.{name}", section[name], legal)
    check_colours(section, where)
    return ConvNet(
        image=image, scan=section.layers == "scan", depthwise=shifted if platform == "cpu" else convolved, dtype=dtype,
        **{name: section[name] for name in ("patch", "depths", "widths", "kernel", "layer_scale", "drop_path",
                                            "norm_eps", "mean", "std", "remat")},
    )  # fmt: skip
