"""Flash attention of cuDNN, on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from __future__ import annotations

import jax

from lmjax.errors import UserError
from lmjax.layers.attention import Keep
from lmjax.layers.backends import refusal


def cudnn(q_bthk, k_bsgk, v_bsgk, keep: Keep, *, bias_hts=None, softcap=None) -> jax.Array:
    """`dense` in bfloat16 or float16; `q_bthk` is already scaled.

    The mask is an array (b, 1, t, s) that all heads share; a causal one without a prefix is also said to be causal, and
    a window given, so that the kernel leaves out what nobody sees.
    """
    t, s, k = q_bthk.shape[1], k_bsgk.shape[1], q_bthk.shape[3]
    asked = {"bias": bias_hts is not None, "softcap": softcap is not None, "cache": keep.over_cache(t, s), "head": k,
             "dtype": q_bthk.dtype.name}  # fmt: skip
    for length in (t, s):
        if why := refusal("cudnn", length=length, **asked):
            raise UserError(why)
    causal = keep.pattern == "causal" and keep.prefix_bs is None
    return jax.nn.dot_product_attention(
        q_bthk, k_bsgk, v_bsgk,
        bias=None if bias_hts is None else bias_hts[None].astype(q_bthk.dtype),
        mask=keep.mask(slice(0, t), slice(0, s))[:, None],
        scale=1.0, is_causal=causal, implementation="cudnn",
        local_window_size=(keep.window - 1, 0) if causal and keep.window is not None else None,
    )  # fmt: skip
