import jax
import jax.numpy as jnp
import numpy as np
import optim_references as references
import pytest
from optim_cases import DIMS, arrays, section

from lmjax import optim
from lmjax.errors import UserError
from lmjax.optim.axes import axes

STEPS, RATE, DECAY = 8, 0.03, 0.1


def descend(optimizer, params, gradients):
    """The parameters and the state after one update for each gradient, as NumPy arrays."""

    @jax.jit
    def update(grads, state, params, step):
        part = optim.trainable(grads, optimizer.frozen)
        return optimizer.update(part, state, params, step=step, loss=1.0, norm=1.0)

    state = jax.jit(optimizer.init)(params)
    for step, grads in enumerate(gradients):
        params, state = update(grads, state, params, np.int32(step))
    return jax.device_get((params, state))


def built(values=None, rules=None, params=None, dims=DIMS, steps=STEPS):
    return optim.build(section(values, rules), steps, arrays(dims) if params is None else params, dims)


HYPER = {"b1": 0.7, "b2": 0.8, "b3": 0.6, "eps": 0.05, "momentum": 0.6}  # nobody's default


@pytest.mark.parametrize("hyper", ["default", "set"])
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_an_optimizer_follows_its_paper_and_stacked_layers_move_as_if_each_had_its_own_array(name, hyper):
    shape = (130, 128) if name == "adafactor" else (4, 6)
    rng = np.random.default_rng(1)
    draw = lambda: rng.normal(size=(2, *shape)).astype(np.float32)  # noqa: E731
    stack, gradients = draw(), [draw() for _ in range(STEPS)]
    as_tree = lambda x: {"stack": x, "first": x[0], "second": x[1]}  # noqa: E731
    takes = {leaf: HYPER[leaf] for leaf in optim.OPTIMIZERS[name].takes} if hyper == "set" else {}
    values = {"name": name, "learning_rate": RATE, "weight_decay": DECAY, **takes}
    optimizer = built(values, params=as_tree(stack), dims={"stack": "ldf", "first": "df", "second": "df"})
    found, _ = descend(optimizer, as_tree(stack), [as_tree(g) for g in gradients])

    inside = {"decay": DECAY} if name == "lamb" else {}
    if name.startswith("muon"):  # b1, b2 and eps are for what is not a matrix
        takes = {leaf: value for leaf, value in takes.items() if leaf == "momentum"}
    reference = getattr(references, name)(**takes, **inside)
    layer = [g[0] for g in gradients]
    expected = references.descend(reference, stack[0], layer, RATE, 0.0 if inside else DECAY)
    moved = np.abs(expected - stack[0]).max()
    np.testing.assert_allclose(found["first"], expected, atol=1e-4 * moved, rtol=0)
    assert moved > 1e-3
    np.testing.assert_allclose(found["stack"][0], found["first"], atol=1e-5 * moved, rtol=0)
    np.testing.assert_allclose(found["stack"][1], found["second"], atol=1e-5 * moved, rtol=0)


TORCH = {
    "sgd": ("SGD", {}, {}),
    "momentum": ("SGD", {"momentum": 0.7}, {"momentum": 0.7}),
    "nesterov": ("SGD", {"momentum": 0.7, "nesterov": True}, {"momentum": 0.7}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 0.1}, {"eps": 0.0}),
    "adadelta": ("Adadelta", {"rho": 0.8, "eps": 1e-5}, {"b2": 0.8, "eps": 1e-5}),
    "rmsprop": (
        "RMSprop",
        {"alpha": 0.8, "eps": 1e-3, "momentum": 0.7},
        {"b2": 0.8, "eps": 1e-3, "momentum": 0.7},
    ),
    "adam": ("Adam", {"betas": (0.8, 0.9), "eps": 1e-3}, {"b1": 0.8, "b2": 0.9, "eps": 1e-3}),
    "adamw": ("AdamW", {"betas": (0.8, 0.9), "weight_decay": DECAY}, {"b1": 0.8, "b2": 0.9, "weight_decay": DECAY}),
    "adamax": ("Adamax", {"betas": (0.8, 0.9)}, {"b1": 0.8, "b2": 0.9}),
    "radam": ("RAdam", {"betas": (0.8, 0.9)}, {"b1": 0.8, "b2": 0.9}),
}


@pytest.mark.parametrize("name", TORCH)
def test_an_optimizer_and_its_hyper_parameters_agree_with_pytorch(name):
    torch = pytest.importorskip("torch")
    cls, options, values = TORCH[name]
    rng = np.random.default_rng(2)
    start, *gradients = rng.normal(size=(STEPS + 1, 4, 6)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = getattr(torch.optim, cls)([weight], lr=RATE, **options)
    for g in gradients:
        weight.grad = torch.tensor(g)
        theirs.step()
    optimizer = built({"name": name, "learning_rate": RATE, **values}, params={"w": start}, dims={"w": "df"})
    found, _ = descend(optimizer, {"w": start}, [{"w": g} for g in gradients])
    np.testing.assert_allclose(found["w"], weight.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["muon", "muon_jordan"])
def test_muon_orthogonalises_hidden_matrices_by_their_letters_and_leaves_the_rest_to_adam(name):
    params, gradients = arrays(), [arrays(seed=seed) for seed in range(1, 4)]
    adam = {"b1": 0.8, "b2": 0.9, "eps": 0.01}
    optimizer = built({"name": name, "learning_rate": RATE, "weight_decay": DECAY, **adam}, params=params)
    found, state = descend(optimizer, params, gradients)
    direction = getattr(references, name)
    for parameter, matrix in (("query", (6, 6)), ("out", (6, 6)), ("up", (6, 8))):
        for layer in range(2):
            start = params["blocks"][parameter][layer].reshape(matrix)
            layers = [g["blocks"][parameter][layer].reshape(matrix) for g in gradients]
            expected = references.descend(direction(), start, layers, RATE, DECAY)
            got = found["blocks"][parameter][layer].reshape(matrix)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    share = 0.015 if name == "muon_jordan" else 1.0
    embeds = [g["embed"] for g in gradients]
    expected = references.descend(references.adam(**adam), params["embed"], embeds, RATE * share, DECAY)
    np.testing.assert_allclose(found["embed"], expected, rtol=1e-4, atol=1e-5)
    assert {row.path for row in optimizer.table if row.optimizer == name} == {
        "blocks/query", "blocks/out", "blocks/up"}  # fmt: skip
    assert all(row.rate == share for row in optimizer.table if row.optimizer == "adamw")
    matrices = sum(leaf.size for leaf in jax.tree.leaves(state.direction.inner_states["muon"]))
    assert matrices == sum(params["blocks"][n].size for n in ("query", "out", "up"))  # a momentum and nothing else


def test_muons_directions_are_nearly_orthogonal():
    start = {"w": np.zeros((12, 8), np.float32)}
    rng = np.random.default_rng(0)
    found, _ = descend(
        built({"name": "muon_jordan", "learning_rate": 1.0}, params=start, dims={"w": "df"}),
        start,
        [{"w": rng.normal(size=(12, 8)).astype(np.float32)}],
    )
    singular = np.linalg.svd(found["w"], compute_uv=False)
    assert 0.5 < singular.min() and singular.max() < 1.3


@pytest.mark.parametrize(
    "letters, stack, inputs, outputs, matrix",
    [
        ("ldhk", (0,), (1,), (2, 3), True),
        ("ldgk", (0,), (1,), (2, 3), True),
        ("lhkd", (0,), (1, 2), (3,), True),
        ("hkd", (), (0, 1), (2,), True),
        ("ledf", (0, 1), (2,), (3,), True),
        ("ldf", (0,), (1,), (2,), True),
        ("lde", (0,), (1,), (2,), True),  # a router: e is its output
        ("lhk", (0,), (1, 2), (), False),  # a bias
        ("ld", (0,), (1,), (), False),
        ("d", (), (0,), (), False),
        ("l", (), (0,), (), False),
        ("", (), (), (), False),
        ("vd", (), (0,), (1,), False),
        ("td", (), (0,), (1,), False),
        ("ch", (), (0,), (1,), False),
        ("pd", (), (0,), (1,), False),
    ],
)
def test_letters_say_what_is_stacked_and_what_is_a_matrix(letters, stack, inputs, outputs, matrix):
    assert axes(letters) == (stack, inputs, outputs, matrix)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor", "lamb"])
def test_rules_scale_decay_and_rate_and_a_frozen_parameter_has_no_state_and_does_not_move(name):
    dims = {"embed": "vd", "query": "dhk", "scale": "d", "up": "df"}
    rules = {
        "frozen": {"match": "embed", "freeze": True},
        "vectors": {"match": "scale", "decay": 0.0},
        "slow": {"match": "query", "rate": 0.5},
        "rest": {"match": "rest"},
    }
    params, gradients = arrays(dims), [arrays(dims, seed=1)]
    values = {"name": name, "learning_rate": RATE, "weight_decay": DECAY}
    found, state = descend(built(values, rules, params, dims), params, gradients)
    whole, _ = descend(built(values, None, params, dims), params, gradients)
    bare, _ = descend(built({**values, "weight_decay": 0.0}, None, params, dims), params, gradients)

    np.testing.assert_array_equal(found["embed"], params["embed"])
    assert np.abs(whole["embed"] - params["embed"]).max() > 1e-4
    paths = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    assert paths and not any("embed" in path for path in paths)
    # other programs, so the last bit may differ; the decay that must not be there is 1000 times that
    np.testing.assert_allclose(found["scale"], bare["scale"], rtol=1e-6, atol=1e-7)
    assert np.abs(whole["scale"] - bare["scale"]).max() > 1e-5
    np.testing.assert_allclose(found["up"], whole["up"], rtol=1e-6, atol=1e-7)
    half, full = found["query"] - params["query"], whole["query"] - params["query"]
    np.testing.assert_allclose(half, full / 2, rtol=1e-4, atol=1e-6)


def test_the_state_is_float32_whatever_the_parameters_are():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), arrays())
    found, state = descend(built({"name": "adamw"}, params=params), params, [arrays(seed=1)])
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_state_of_a_parameters_shape_is_laid_out_like_that_parameter_and_the_rest_is_replicated(name):
    params = {**arrays(), "big": np.zeros((128, 130), np.float32)}
    rules = {"frozen": {"match": "final/scale", "freeze": True}, "rest": {"match": "rest"}}
    optimizer = built({"name": name}, rules, params, {**DIMS, "big": "df"})
    paths = jax.tree_util.tree_map_with_path(lambda keys, _: jax.tree_util.keystr(keys), params)
    places = optim.opt_state_shardings(optimizer, params, paths, "replicated")
    state = jax.eval_shape(optimizer.init, params)
    shapes = dict(zip(jax.tree.leaves(paths), [np.shape(p) for p in jax.tree.leaves(params)], strict=True))
    found = jax.tree_util.tree_flatten_with_path(state)[0]
    for (keys, leaf), place in zip(found, jax.tree.leaves(places), strict=True):
        owner = max((path for path in shapes if jax.tree_util.keystr(keys).endswith(path)), key=len, default=None)
        expected = owner if owner and shapes[owner] == leaf.shape else "replicated"
        assert place == expected, jax.tree_util.keystr(keys)
    if name not in ("sgd", "adafactor"):
        assert {"['big']", "['blocks']['query']"} <= set(jax.tree.leaves(places))


@pytest.mark.parametrize(
    "values, says",
    [
        ({"name": "adamm"}, "'adamm'.*did you mean 'adam"),
        ({"name": "sgd", "b1": 0.9}, "optim.b1.*'sgd' does not take it; it takes no hyper-parameters"),
        ({"name": "lion", "eps": 1e-8}, "optim.eps.*'lion' does not take it; it takes b1, b2"),
        ({"name": "adamw", "b2": 1.0}, r"optim.b2=1.0.*\[0, 1\)"),
        ({"learning_rate": -1.0}, "optim.learning_rate=-1.0"),
        ({"weight_decay": -0.1}, "optim.weight_decay=-0.1"),
        ({"microbatches": 0}, "optim.microbatches=0"),
        ({"ema": 1.0}, "optim.ema=1.0"),
        ({"skip.spike": 0.5}, "optim.skip.spike=0.5"),
        ({"skip.stop_after": 0}, "optim.skip.stop_after=0"),
    ],
)
def test_what_an_optimizer_cannot_take_is_said_before_anything_is_compiled(values, says):
    with pytest.raises(UserError, match=says):
        built(values)
