"""A decoder Transformer in NumPy float64, written from the papers with loops, to compare the layers with."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),  # Hendrycks & Gimpel 2016, section 2
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, section 2
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,  # So et al. 2021, section 3
    "silu": lambda x: x * sigmoid(x),
}
GATES = {"geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu", "reglu": "relu"}  # Shazeer 2020, eq. 6


def rms_norm(x, scale, eps=1e-6):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * scale


def layer_norm(x, scale, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


def mlp(kind, p, x):
    up = x @ p["up"] + p.get("up_bias", 0)
    if kind in GATES:
        up = ACTIVATIONS[GATES[kind]](x @ p["gate"] + p.get("gate_bias", 0)) * up
    else:
        up = ACTIVATIONS[kind](up)
    return up @ p["down"] + p.get("down_bias", 0)


def sinusoid(position, i, width):
    """Vaswani et al. 2017, section 3.5: one number."""
    angle = position / 10000 ** (2 * (i // 2) / width)
    return math.sin(angle) if i % 2 == 0 else math.cos(angle)


def rotary(x, positions, rates):
    """Pair i of a head, as the complex number x[i] + j x[i + half], turns by position * rates[i]."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * positions[:, :, None, None] * rates)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def alibi_slopes(heads):
    """The recursion of the code that Press et al. published (ofirpress/attention_with_linear_biases)."""
    start = 2 ** (-(2 ** -(math.log2(heads) - 3))) if math.log2(heads).is_integer() else None
    if start is not None:
        return [start * start**i for i in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(closest) + alibi_slopes(2 * closest)[0::2][: heads - closest]


def t5_bucket(distance, buckets=32, furthest=128):
    """One number, of Raffel et al. 2020's published code, for a query that sees only what is behind it."""
    if distance < 0:
        return 0
    if distance < buckets // 2:
        return distance
    far = math.log(distance / (buckets // 2)) / math.log(furthest / (buckets // 2)) * (buckets - buckets // 2)
    return min(buckets // 2 + int(far), buckets - 1)


def attention(q, k, v, segments, *, window=None, softcap=None, bias=None):
    """One query at a time: Vaswani et al. 2017, eq. 1. q (b, t, h, k), k and v (b, t, g, k), bias(head, distance)."""
    out = np.zeros(q.shape)
    rows, length, heads, width = q.shape
    group = heads // k.shape[2]
    for b, t, h in np.ndindex(rows, length, heads):
        seen = [
            s for s in range(t + 1)
            if segments[b, s] == segments[b, t] != 0 and (window is None or t - s < window)
        ]  # fmt: skip
        if not seen:
            continue  # padding
        weights = np.array([q[b, t, h] @ k[b, s, h // group] / math.sqrt(width) for s in seen])
        if softcap is not None:
            weights = softcap * np.tanh(weights / softcap)
        if bias is not None:
            weights += [bias(h, t - s) for s in seen]
        weights = np.exp(weights - weights.max())
        out[b, t, h] = sum(w * v[b, s, h // group] for w, s in zip(weights / weights.sum(), seen, strict=True))
    return out


def decoder(params, batch, section):
    """Logits (b, t, vocabulary with its padding) of the model that a config's `model` section describes."""
    p = _float64(params)
    tokens, positions, segments = (np.asarray(batch[name]) for name in ("tokens", "positions", "segments"))
    x = p["embed"][tokens]
    width = x.shape[-1]
    if section.position == "learned":
        x = x + p["position"][positions]
    if section.position == "sinusoidal":
        table = [[sinusoid(position, i, width) for i in range(width)] for position in range(positions.max() + 1)]
        x = x * math.sqrt(width) + np.array(table)[positions]
    for layer in range(section.depth):
        blocks = _layer(p["blocks"], layer)
        far = section.window_layers == "alternate" and layer % 2 == 0
        mask = {"segments": segments, "window": None if far else section.window}

        def attend(x, p=blocks["attention"], mask=mask):
            return self_attention(p, x, positions, mask, section, _bias(section, params))

        def feed(x, p=blocks["mlp"]):
            return mlp(section.mlp, p, x)

        for name, part in (("attention_norm", attend), ("mlp_norm", feed)):
            if section.norm_place == "pre":
                x = x + part(norm(section.norm, blocks[name], x))
            else:
                x = norm(section.norm, blocks[name], x + part(x))
    if section.norm_place == "pre":
        x = norm(section.norm, p["norm"], x)
    logits = x @ (p["embed"] if section.tied else p["head"]).T
    return section.logit_softcap * np.tanh(logits / section.logit_softcap) if section.logit_softcap else logits


def norm(kind, p, x):
    return rms_norm(x, p["scale"]) if kind == "rmsnorm" else layer_norm(x, p["scale"], p.get("bias", 0))


def self_attention(p, x, positions, mask, section, bias):
    q, k, v = (np.einsum("btd,dhk->bthk", x, p[name]) + p.get(f"{name}_bias", 0) for name in ("query", "key", "value"))
    if section.qk_norm:
        q, k = rms_norm(q, p["query_scale"]), rms_norm(k, p["key_scale"])
    if section.position == "rope":
        rates = section.rope_base ** (-np.arange(0, q.shape[-1], 2) / q.shape[-1])
        q, k = rotary(q, positions, rates), rotary(k, positions, rates)
    o = attention(q, k, v, **mask, softcap=section.attention_softcap, bias=bias)
    return np.einsum("bthk,hkd->btd", o, p["out"]) + p.get("out_bias", 0)


def _bias(section, params):
    if section.position == "alibi":
        slopes = alibi_slopes(section.heads)
        return lambda head, distance: -slopes[head] * distance
    if section.position == "t5":
        table = np.asarray(params["position"], np.float64)
        return lambda head, distance: table[t5_bucket(distance), head]
    return None


def _float64(tree):
    return {k: _float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}


def _layer(tree, layer):
    return {k: _layer(v, layer) if isinstance(v, dict) else v[layer] for k, v in tree.items()}
