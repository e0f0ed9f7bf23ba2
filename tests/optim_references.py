"""Optimizers in NumPy, each written from its paper: a generator that is sent (gradient, parameter), float64."""

import numpy as np


def moving(beta, power=1):
    """An exponential moving average of x ** power from 0, as a function that is fed x."""
    state = {"m": 0.0}

    def feed(x):
        state["m"] = beta * state["m"] + (1 - beta) * x**power
        return state["m"]

    return feed


def sgd():
    return lambda g, p, t: g


def momentum(momentum=0.9, nesterov=False):
    state = {"b": 0.0}

    def direction(g, p, t):
        state["b"] = momentum * state["b"] + g
        return g + momentum * state["b"] if nesterov else state["b"]

    return direction


def nesterov(momentum=0.9):
    return globals()["momentum"](momentum, nesterov=True)


def signum(momentum=0.9):
    m = moving(momentum)
    return lambda g, p, t: np.sign(m(g))


def adagrad(eps=1e-7):
    state = {"s": 0.1}

    def direction(g, p, t):
        state["s"] = state["s"] + g * g
        return g / np.sqrt(state["s"] + eps)

    return direction


def adadelta(b2=0.9, eps=1e-6):
    squares, moves, last = moving(b2), moving(b2, 2), {"x": 0.0}

    def direction(g, p, t):
        u = np.sqrt(last["x"] + eps) / np.sqrt(squares(g * g) + eps) * g
        last["x"] = moves(u)
        return u

    return direction


def rmsprop(b2=0.9, eps=1e-8, momentum=0.0):
    v, trace = moving(b2, 2), globals()["momentum"](momentum)
    return lambda g, p, t: trace(g / (np.sqrt(v(g)) + eps), p, t)


def adam(b1=0.9, b2=0.999, eps=1e-8):
    m, v = moving(b1), moving(b2, 2)
    return lambda g, p, t: (m(g) / (1 - b1**t)) / (np.sqrt(v(g) / (1 - b2**t)) + eps)


def nadamw(b1=0.9, b2=0.999, eps=1e-8):
    m, v = moving(b1), moving(b2, 2)

    def direction(g, p, t):
        ahead = b1 * m(g) / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        return ahead / (np.sqrt(v(g) / (1 - b2**t)) + eps)

    return direction


def amsgrad(b1=0.9, b2=0.999, eps=1e-8):
    m, v, top = moving(b1), moving(b2, 2), {"v": 0.0}

    def direction(g, p, t):
        top["v"] = np.maximum(top["v"], v(g) / (1 - b2**t))
        return m(g) / (1 - b1**t) / (np.sqrt(top["v"]) + eps)

    return direction


def adamax(b1=0.9, b2=0.999, eps=1e-8):
    m, top = moving(b1), {"u": 0.0}

    def direction(g, p, t):
        top["u"] = np.maximum(b2 * top["u"], np.abs(g) + eps)
        return m(g) / (1 - b1**t) / top["u"]

    return direction


def radam(b1=0.9, b2=0.999, eps=1e-8):
    m, v = moving(b1), moving(b2, 2)
    most = 2 / (1 - b2) - 1

    def direction(g, p, t):
        m_hat, v_hat = m(g) / (1 - b1**t), v(g) / (1 - b2**t)
        rho = most - 2 * t * b2**t / (1 - b2**t)
        if rho < 5:
            return m_hat
        r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        return r * m_hat / (np.sqrt(v_hat) + eps)

    return direction


def adabelief(b1=0.9, b2=0.999, eps=1e-16):
    m, state = moving(b1), {"s": 0.0}

    def direction(g, p, t):
        average = m(g)
        state["s"] = b2 * state["s"] + (1 - b2) * (g - average) ** 2 + eps
        return average / (1 - b1**t) / (np.sqrt(state["s"] / (1 - b2**t)) + eps)

    return direction


def adan(b1=0.98, b2=0.92, b3=0.99, eps=1e-8):
    m, v, n, last = moving(b1), moving(b2), moving(b3, 2), {}

    def direction(g, p, t):
        change = g - last.get("g", g)
        last["g"] = g
        m_hat, v_hat = m(g) / (1 - b1**t), v(change) / (1 - b2**t)
        n_hat = n(g + (1 - b2) * change) / (1 - b3**t)
        return (m_hat + (1 - b2) * v_hat) / (np.sqrt(n_hat) + eps)

    return direction


def adopt(b1=0.9, b2=0.9999, eps=1e-6):
    state = {"m": 0.0}

    def direction(g, p, t):
        if t == 1:
            state["v"] = g * g
            return np.zeros_like(g)
        limit = (t - 1) ** 0.25
        normal = np.clip(g / np.maximum(np.sqrt(state["v"]), eps), -limit, limit)
        state["m"] = b1 * state["m"] + (1 - b1) * normal
        state["v"] = b2 * state["v"] + (1 - b2) * g * g
        return state["m"]

    return direction


def lion(b1=0.9, b2=0.99):
    state = {"m": 0.0}

    def direction(g, p, t):
        u = np.sign(b1 * state["m"] + (1 - b1) * g)
        state["m"] = b2 * state["m"] + (1 - b2) * g
        return u

    return direction


def lamb(b1=0.9, b2=0.999, eps=1e-6, decay=0.0):
    inner = adam(b1, b2, eps)

    def direction(g, p, t):
        u = inner(g, p, t) + decay * p
        return u * np.linalg.norm(p) / np.linalg.norm(u)

    return direction


def adafactor(eps=1e-30, momentum=0.0):
    """Factored for a matrix of at least 128 x 128."""
    state, smooth = {"r": 0.0, "c": 0.0, "v": 0.0}, moving(momentum)

    def direction(g, p, t):
        b = 1 - float(t) ** -0.8
        if min(p.shape) >= 128:
            state["r"] = b * state["r"] + (1 - b) * (g * g + eps).mean(1)
            state["c"] = b * state["c"] + (1 - b) * (g * g + eps).mean(0)
            v = np.outer(state["r"], state["c"]) / state["r"].mean()
        else:
            v = state["v"] = b * state["v"] + (1 - b) * (g * g + eps)
        u = g / np.sqrt(v)
        u /= max(1, np.sqrt((u * u).mean()))
        return smooth(u * max(1e-3, np.sqrt((p * p).mean())))

    return direction


def newton_schulz(g):
    """Jordan 2024: five steps of X <- a X + b X X' X + c (X X')^2 X from X = G / |G|."""
    x = g / np.linalg.norm(g)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(momentum=0.95, scale=lambda n_in, n_out: 0.2 * max(n_in, n_out) ** 0.5):
    """The matrix is (in, out)."""
    buffer = moving(momentum)

    def direction(g, p, t):
        ahead = (1 - momentum) * g + momentum * buffer(g)  # g.lerp(buffer, momentum)
        return newton_schulz(ahead) * scale(*g.shape)

    return direction


def muon_jordan(momentum=0.95):
    return muon(momentum, lambda n_in, n_out: max(1, n_out / n_in) ** 0.5)


adamw = adam


def descend(direction, p, gradients, learning_rate, decay):
    """p <- p - learning_rate (direction + decay p), a step for every gradient."""
    p = p.astype(np.float64)
    for t, g in enumerate(gradients, start=1):
        p = p - learning_rate * (direction(g.astype(np.float64), p, t) + decay * p)
    return p
