"""Decoders with experts in the place of their MLPs."""

from configs import lm
from lmjax.config import extend, update


def moe() -> dict:
    return dict(
        experts=8,
        top=2,  # experts of a token
        dispatch="dropless",  # dropless capacity
        capacity=1.25,  # capacity: tokens that an expert takes of a row, as a multiple of a fair share; others are dropped
        normalize=True,  # the shares of a token's experts sum to 1
        balance=0.01,  # weight of the load-balancing loss
        importance=0.0,  # weight of the squared coefficient of variation of what experts weigh
        z=0.001,  # weight of the router z-loss
        grouped="auto",  # how dropless multiplies: auto blocks (CPU) ragged (TPU, GPU)
    )


def tiny():
    """Two layers of width 64, four experts, on bytes: for tests and for trying things."""
    return update(mixture(lm.tiny()), {"model.moe.experts": 4, "model.mlp_width": 96})


def small():
    """The quickstart with four experts of half its MLP's width, two a token: its FLOPs, and twice its MLP parameters."""
    return update(
        mixture(lm.quickstart()), {"model.moe.experts": 4, "model.mlp_width": 256, "eval.prompt": "In the beginning"}
    )


def mixtral_8x7b():
    """32 layers of width 4096, 8 experts, 46.7 thousand million parameters (Jiang et al. 2024, arXiv:2401.04088).

    The text is yours: --config.data.source=FOLDER.
    """
    return update(
        mixture(lm.llama_7b()),
        {
            "data.length": 8192,
            "model.kv_heads": 8,
            "model.mlp_width": 14_336,
            "model.rope_base": 1e6,
            "model.moe.balance": 0.02,
            "model.moe.z": 0.0,
            "layout.mesh.expert": 8,
        },
    )


def mixture(config):
    """The config with the leaves of `moe`; the devices that share the experts share the rows, too."""
    return update(extend(config, {"model.moe": moe()}), {"layout.acts.batch": ("data", "fsdp", "expert")})
