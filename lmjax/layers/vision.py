"""Parts of image encoders: pixels, squares of them, and the blocks of a convolutional network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.layers.linear import project
from lmjax.layers.mlp import ACTIVATIONS
from lmjax.layers.norms import LayerNorm
from lmjax.sharding import constrain, param

STD = 0.02  # of truncated normal weights; Dosovitskiy et al. 2021's published code


class Seen(NamedTuple):
    """What an image encoder gives: features of every place, in raster order, and one vector for the whole image."""

    places_bpd: jax.Array
    pooled_bd: jax.Array


def scaled(image: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Images (b, h, w, 3) from 0 to 255, integers or not, as float32 (image / 255 - mean) / std, by colour."""
    return (image.astype(jnp.float32) / 255 - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def squares(x: jax.Array, size: int) -> jax.Array:
    """(b, h, w, c) cut into squares: (b, h / size, w / size, size * size * c), each by row, column, channel."""
    b, height, width, channels = x.shape
    if height % size or width % size:
        raise ValueError(f"squares of {size} x {size} do not tile {height} x {width}")
    x = x.reshape(b, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(b, height // size, width // size, size * size * channels)


class Squares(nn.Module):
    """Squares of `size` places a side through one linear map: a convolution whose stride is its kernel's side.

    (b, h, w, c) to (b, h / size, w / size, d). Parameters: `kernel` (size * size * c, d) and, if `bias`, `bias`.
    """

    size: int
    width: int
    bias: bool = True
    init: Callable = nn.initializers.truncated_normal(STD)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = squares(x, self.size)
        b, rows, columns, inner = x.shape
        kernel_id = param(self, "kernel", "id", (inner, self.width), self.init)
        y_bpd = project("bpi,id->bpd", x.reshape(b, rows * columns, inner), kernel_id)
        if self.bias:
            y_bpd += param(self, "bias", "d", (self.width,), nn.initializers.zeros).astype(y_bpd.dtype)
        return constrain(y_bpd, "bpd").reshape(b, rows, columns, self.width)


def convolved(x: jax.Array, kernel_id: jax.Array) -> jax.Array:
    """Every channel with its own square kernel (k * k, d), k odd, over (b, h, w, d) padded with zeros to the same size."""
    side = _side(kernel_id)
    weight = kernel_id.astype(x.dtype).reshape(side, side, 1, -1)
    return jax.lax.conv_general_dilated(
        x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


@jax.custom_vjp
def shifted(x: jax.Array, kernel_id: jax.Array) -> jax.Array:
    """`convolved` as a sum of shifted images, for XLA:CPU, which computes convolutions by channel one number at a time.

    Forward and backward together take a fifth of the time (64 images of 14 x 14, 64 channels, kernel 7, 2 cores).
    """
    side = _side(kernel_id)
    weight, (height, width), around = kernel_id.astype(x.dtype), x.shape[1:3], _around(x, side)
    return sum(
        around[:, i : i + height, j : j + width] * weight[side * i + j] for i in range(side) for j in range(side)
    )


def _shifted_forward(x, kernel_id):
    return shifted(x, kernel_id), (x, kernel_id)


def _shifted_backward(saved, dy):
    x, kernel_id = saved
    side, (height, width) = _side(kernel_id), x.shape[1:3]
    around, dy32 = _around(x, side), dy.astype(jnp.float32)

    def row(_, i):
        below = jax.lax.dynamic_slice_in_dim(around, i, height, axis=1)
        parts = [jnp.sum(below[:, :, j : j + width] * dy32, axis=(0, 1, 2)) for j in range(side)]
        return None, jnp.stack(parts)

    dkernel = jax.lax.scan(row, None, jnp.arange(side))[1].reshape(kernel_id.shape)
    return shifted(dy, kernel_id[::-1]), dkernel.astype(kernel_id.dtype)


shifted.defvjp(_shifted_forward, _shifted_backward)


def _side(kernel_id: jax.Array) -> int:
    return round(kernel_id.shape[0] ** 0.5)


def _around(x: jax.Array, side: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))


class ConvBlock(nn.Module):
    """x + drop(scale * down(gelu(up(norm(depthwise(x)))))): a block of ConvNeXt; Liu et al. 2022, arXiv:2201.03545, 2.6.

    (b, h, w, d) to the same; takes and gives what the blocks of `layers/stack.py` do. `layer_scale`: the first value
    of the learned scale (Touvron et al. 2021, arXiv:2103.17239), 0: none; `drop_path`: the chance that a row is left
    as it is (Huang et al. 2016, arXiv:1603.09382). Weights begin with a variance of 1 / fan-in: the paper's 0.02 is too
    little for the few channels of a small network.
    """

    kernel: int
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    depthwise: Callable[[jax.Array, jax.Array], jax.Array] = convolved

    @nn.compact
    def __call__(self, x: jax.Array, context: Any = None, cache: Any = None, *, train: bool) -> tuple[jax.Array, Any]:
        b, height, width, d = x.shape
        init, f = nn.initializers.lecun_normal(), 4 * d
        parameter, dtype = partial(param, self), x.dtype
        kernel_id = parameter("kernel", "id", (self.kernel**2, d), init)
        y = self.depthwise(x, kernel_id) + parameter("kernel_bias", "d", (d,), nn.initializers.zeros).astype(dtype)
        y_bpd = LayerNorm(eps=self.norm_eps, name="norm")(y).reshape(b, height * width, d)
        h_bpf = project("bpd,df->bpf", y_bpd, parameter("up", "df", (d, f), init))
        h_bpf = ACTIVATIONS["gelu"](h_bpf + parameter("up_bias", "f", (f,), nn.initializers.zeros).astype(dtype))
        y_bpd = project("bpf,fd->bpd", constrain(h_bpf, "bpf"), parameter("down", "fd", (f, d), init))
        y_bpd += parameter("down_bias", "d", (d,), nn.initializers.zeros).astype(dtype)
        if self.layer_scale:
            scale = nn.initializers.constant(self.layer_scale)
            y_bpd *= parameter("scale", "d", (d,), scale).astype(dtype)
        y_bpd = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y_bpd)
        return x + constrain(y_bpd, "bpd").reshape(x.shape), cache
