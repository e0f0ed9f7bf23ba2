"""Optimizers by name: each a direction, from Optax, that the learning rate and the weight decay are no part of.

A step is  p <- p - learning_rate * rate * (direction + weight_decay * decay * p),  for every optimizer: weight decay
is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101), scaled by the learning rate as in PyTorch and Optax. So
"adam" with weight decay is "adamw". LAMB decays inside its trust ratio, as its paper does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import UserError, unknown
from lmjax.optim import compact
from lmjax.optim.axes import Axes, norm, rms


class Tree(NamedTuple):
    """What a direction may ask about the parameters: pytrees like them, None where a parameter is frozen."""

    axes: Any  # of Axes
    decay: Any  # of floats: optim.weight_decay times the rule's


class Spec(NamedTuple):
    make: Callable[[dict[str, float], Tree], optax.GradientTransformation]
    takes: dict[str, float]  # hyper-parameters and what they are when the config leaves them None
    decays: bool = False  # the direction has weight decay in it already
    muon: bool = False  # hidden matrices are orthogonalised, everything else goes to AdamW ...
    rest_rate: float = 1.0  # ... at this multiple of the learning rate


def _lamb(h, tree: Tree) -> optax.GradientTransformation:
    """You et al. 2020, arXiv:1904.00962, algorithm 2 with phi(x) = x; layers in a stack each have their own ratio."""

    def trust(u, p, a: Axes):
        u_norm, p_norm = norm(u, a), norm(p, a)
        return u * jnp.where((u_norm > 0) & (p_norm > 0), p_norm / jnp.where(u_norm > 0, u_norm, 1), 1)

    def update(updates, params):
        decayed = jax.tree.map(lambda u, p, decay: u + decay * p, updates, params, tree.decay)
        return jax.tree.map(trust, decayed, params, tree.axes)

    return optax.chain(optax.scale_by_adam(h["b1"], h["b2"], h["eps"]), optax.stateless(update))


def _adafactor(h, tree: Tree) -> optax.GradientTransformation:
    """Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4, with optional momentum and no warm-up of its own.

    Factored over the two longest axes where both have 128 entries or more. The direction is relative to the
    parameter's own RMS, so the learning rate is a fraction: 1e-2 is the paper's.
    """

    def relative(updates, params):
        clipped = jax.tree.map(lambda u, a: u / jnp.maximum(1, rms(u, a)), updates, tree.axes)
        return jax.tree.map(lambda u, p, a: u * jnp.maximum(rms(p, a), 1e-3), clipped, params, tree.axes)

    steps = [optax.scale_by_factored_rms(epsilon=h["eps"]), optax.stateless(relative)]
    return optax.chain(*steps, *([optax.ema(h["momentum"], debias=False)] if h["momentum"] else []))


def orthogonalize(axes: Any, scale: Callable[[int, int], float]) -> optax.GradientTransformation:
    """Each matrix of each stack to a nearly orthogonal one (five Newton-Schulz iterations), times scale(in, out)."""

    def one(update, a: Axes):
        if isinstance(update, optax.MaskedNode):  # AdamW's
            return update
        dims = optax.contrib.MuonDimensionNumbers(a.inputs, a.outputs)  # all other axes are a batch
        muon = optax.contrib.scale_by_muon(beta=0.0, eps=1e-7, nesterov=False, weight_dimension_numbers=dims)
        orthogonal, _ = muon.update(update, muon.init(update))  # without momentum it keeps nothing
        return orthogonal * scale(*(math.prod(update.shape[i] for i in side) for side in (a.inputs, a.outputs)))

    return optax.stateless(
        lambda updates, _: jax.tree.map(one, updates, axes, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    )


def _muon(scale: Callable[[int, int], float]) -> Callable[[dict, Tree], optax.GradientTransformation]:
    """Jordan 2024, kellerjordan.github.io/posts/muon: Nesterov momentum, orthogonalised. Vectors and tables: Adam."""

    def make(h, tree: Tree) -> optax.GradientTransformation:
        labels = jax.tree.map(
            lambda a: "muon" if a.matrix else "adamw", tree.axes, is_leaf=lambda x: isinstance(x, Axes)
        )
        matrices = optax.chain(optax.trace(h["momentum"], nesterov=True), orthogonalize(tree.axes, scale))
        return optax.partition({"muon": matrices, "adamw": optax.scale_by_adam(h["b1"], h["b2"], h["eps"])}, labels)

    return make


def _adam(**options) -> Callable[[dict, Tree], optax.GradientTransformation]:
    return lambda h, tree: optax.scale_by_adam(h["b1"], h["b2"], h["eps"], **options)


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
MUON = {"momentum": 0.95, "b1": 0.9, "b2": 0.95, "eps": 1e-8}

OPTIMIZERS: dict[str, Spec] = {
    "sgd": Spec(lambda h, tree: optax.identity(), {}),
    "momentum": Spec(lambda h, tree: optax.trace(h["momentum"]), {"momentum": 0.9}),
    "nesterov": Spec(lambda h, tree: optax.trace(h["momentum"], nesterov=True), {"momentum": 0.9}),
    "signum": Spec(  # arXiv:1802.04434
        lambda h, tree: optax.chain(optax.ema(h["momentum"], debias=False), optax.scale_by_sign()), {"momentum": 0.9}
    ),
    "adagrad": Spec(lambda h, tree: optax.scale_by_rss(0.1, h["eps"]), {"eps": 1e-7}),  # squares start at 0.1
    "adadelta": Spec(  # arXiv:1212.5701
        lambda h, tree: optax.scale_by_adadelta(h["b2"], h["eps"]), {"b2": 0.9, "eps": 1e-6}
    ),
    "rmsprop": Spec(  # Tieleman & Hinton 2012; eps outside the root and momentum after it, as in PyTorch
        lambda h, tree: optax.chain(
            optax.scale_by_rms(h["b2"], h["eps"], eps_in_sqrt=False),
            *([optax.trace(h["momentum"])] if h["momentum"] else []),
        ),
        {"b2": 0.9, "eps": 1e-8, "momentum": 0.0},
    ),
    "adam": Spec(_adam(), ADAM),  # arXiv:1412.6980
    "adamw": Spec(_adam(), ADAM),  # arXiv:1711.05101
    "nadamw": Spec(_adam(nesterov=True), ADAM),  # Dozat 2016, with a constant b1
    "amsgrad": Spec(  # Reddi et al. 2018, arXiv:1904.09237, both moments bias-corrected
        lambda h, tree: optax.scale_by_amsgrad(h["b1"], h["b2"], h["eps"]), ADAM
    ),
    "adamax": Spec(  # arXiv:1412.6980, algorithm 2
        lambda h, tree: optax.scale_by_adamax(h["b1"], h["b2"], h["eps"]), ADAM
    ),
    "radam": Spec(  # arXiv:1908.03265
        lambda h, tree: optax.scale_by_radam(h["b1"], h["b2"], h["eps"]), ADAM
    ),
    "adabelief": Spec(  # arXiv:2010.07468
        lambda h, tree: optax.scale_by_belief(h["b1"], h["b2"], h["eps"], h["eps"]), {**ADAM, "eps": 1e-16}
    ),
    "adan": Spec(  # arXiv:2208.06677, algorithm 1, with b = 1 - the paper's beta
        lambda h, tree: optax.scale_by_adan(h["b1"], h["b2"], h["b3"], h["eps"]),
        {"b1": 0.98, "b2": 0.92, "b3": 0.99, "eps": 1e-8},
    ),
    "adopt": Spec(  # arXiv:2411.02853, algorithm 2: gradients clipped to t^(1/4)
        lambda h, tree: optax.contrib.scale_by_adopt(h["b1"], h["b2"], h["eps"]),
        {"b1": 0.9, "b2": 0.9999, "eps": 1e-6},
    ),
    "lion": Spec(  # arXiv:2302.06675
        lambda h, tree: optax.scale_by_lion(h["b1"], h["b2"]), {"b1": 0.9, "b2": 0.99}
    ),
    "lamb": Spec(_lamb, {**ADAM, "eps": 1e-6}, decays=True),
    "adafactor": Spec(_adafactor, {"eps": 1e-30, "momentum": 0.0}),
    # RMS 0.2 as Adam's directions have, so that AdamW's learning rate and decay serve both; arXiv:2502.16982, eq. 4
    "muon": Spec(_muon(lambda n_in, n_out: 0.2 * math.sqrt(max(n_in, n_out))), MUON, muon=True),
    # Jordan's own scale, for learning rates near 0.02; AdamW's part at 3e-4 / 0.02 of it, as he publishes
    "muon_jordan": Spec(_muon(lambda n_in, n_out: math.sqrt(max(1, n_out / n_in))), MUON, muon=True, rest_rate=0.015),
}
HYPER = ("b1", "b2", "b3", "eps", "momentum")


def choose(section) -> tuple[Spec, dict[str, float]]:
    """The optimizer that optim.name names and its hyper-parameters; UserError for one that it does not take."""
    if section.name not in OPTIMIZERS:
        raise unknown("optimizer (optim.name)", section.name, OPTIMIZERS)
    compact.moments(section)
    spec = OPTIMIZERS[section.name]
    given = {name: section[name] for name in HYPER if name in section and section[name] is not None}
    for name, value in given.items():
        if name not in spec.takes:
            raise UserError(
                f"optim.{name} is set, but the optimizer {section.name!r} does not take it; "
                f"it takes {', '.join(spec.takes) or 'no hyper-parameters'}. Set it to none."
            )
        if not (value >= 0 if name == "eps" else 0 <= value < 1):
            raise UserError(f"optim.{name}={value}: must be {'0 or more' if name == 'eps' else 'in [0, 1)'}")
    return spec, {**spec.takes, **given}
