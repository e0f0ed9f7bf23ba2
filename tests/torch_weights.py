"""Weights of PyTorch's layers as parameters of ours, and tiny models of `transformers` with random ones."""

import numpy as np
import pytest


class Weights:
    """The arrays of a state dict by name; {} in a name stands for the layer, and all layers are stacked."""

    def __init__(self, state, depth, heads):
        self.state = {name: weight.detach().numpy() for name, weight in state.items()}
        self.depth, self.heads = depth, heads

    def __getitem__(self, name):
        if "{}" not in name:
            return self.state[name]
        return np.stack([self.state[name.format(layer)] for layer in range(self.depth)])

    def attention(self, name, query, key, value, out):
        """Four linear maps as the parameters of `Attention`."""
        made = {}
        for ours, theirs in (("query", query), ("key", key), ("value", value)):
            w_lod = self[f"{name}.{theirs}.weight"]  # layers, outputs, inputs
            made[ours] = w_lod.swapaxes(1, 2).reshape(self.depth, w_lod.shape[2], self.heads, -1)
            made |= self._bias(f"{ours}_bias", f"{name}.{theirs}", (self.depth, self.heads, -1))
        w_ldo = self[f"{name}.{out}.weight"]
        made["out"] = w_ldo.swapaxes(1, 2).reshape(self.depth, self.heads, -1, w_ldo.shape[1])
        return made | self._bias("out_bias", f"{name}.{out}", (self.depth, -1))

    def mlp(self, **names):
        """up=, down= and gate= linear maps as the parameters of `Mlp`."""
        made = {}
        for ours, theirs in names.items():
            made[ours] = self[f"{theirs}.weight"].swapaxes(1, 2)
            made |= self._bias(f"{ours}_bias", theirs, (self.depth, -1))
        return made

    def norm(self, name):
        found = {"scale": self[f"{name}.weight"]}
        return found | ({"bias": self[f"{name}.bias"]} if self._has(f"{name}.bias") else {})

    def _bias(self, ours, theirs, shape):
        return {ours: self[f"{theirs}.bias"].reshape(shape)} if self._has(f"{theirs}.bias") else {}

    def _has(self, name):
        return name.format(0) in self.state


def randomised(model, seed=0):
    """The same model with biases that are not 0 and scales that are not 1, for evaluation."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(float(scale) + 0.2 * torch.randn_like(weight))
    return model.eval()


def transformers_model(kind, **sizes):
    """A random `transformers` model of a kind, such as BertForMaskedLM."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers torch: what we compare with")
    cls = getattr(transformers, kind)
    return randomised(cls(cls.config_class(attn_implementation="eager", **sizes)))
