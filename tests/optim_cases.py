"""An optim section with every leaf, and small parameters, for the tests of optimizers and the step."""

import numpy as np

from lmjax.config import config, optional, update

DIMS = {
    "blocks": {"query": "ldhk", "out": "lhkd", "up": "ldf", "up_bias": "lf", "scale": "ld"},
    "embed": "vd",
    "final": {"scale": "d"},
}
SIZES = {"l": 2, "d": 6, "h": 2, "k": 3, "f": 8, "v": 10}


def section(values=None, rules=None):
    """The optim section with constant rate, no clipping, no decay and no guard, unless `values` says otherwise."""
    records = {name: {"decay": 1.0, "rate": 1.0, "freeze": False, **rule} for name, rule in (rules or {}).items()}
    whole = config(
        optim=dict(
            name="adamw",
            learning_rate=0.1,
            schedule=dict(
                name="constant",
                warmup=0,
                end=0.1,
                decay=optional(float),
                factor=optional(float),
                patience=optional(int),
                window=optional(int),
            ),
            weight_decay=0.0,
            clip=dict(by="none", at=1.0),
            b1=optional(float),
            b2=optional(float),
            b3=optional(float),
            eps=optional(float),
            momentum=optional(float),
            microbatches=1,
            ema=optional(float),
            layer_decay=optional(float),
            unfreeze=optional(int),
            moments="float32",
            skip=dict(nonfinite=False, spike=optional(float), stop_after=20),
            rules=records,
        )
    )
    return update(whole, {f"optim.{path}": value for path, value in (values or {}).items()}).optim


def arrays(dims=DIMS, seed=0):
    """Normal numbers, float32, of the shapes that the letters say."""
    rng = np.random.default_rng(seed)

    def draw(node):
        if isinstance(node, dict):
            return {name: draw(child) for name, child in node.items()}
        return rng.normal(size=[SIZES[letter] for letter in node]).astype(np.float32)

    return draw(dims)
