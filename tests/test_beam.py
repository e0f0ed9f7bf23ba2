"""Beam search: one beam is greedy, wide enough ones find the arg-max, and scores are those of full forward passes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.data.tokenizers import Bytes
from lmjax.decode import Generator
from lmjax.decode.beam import BeamSearch, continuations, length_penalty
from lmjax.decode.reorder import cache_axes, reorder, spread
from lmjax.errors import UserError

TOKENIZER = Bytes()
PROMPTS = ["In the beginning", "a", "", "é€", "one more"]


class Numbers:
    """A tokenizer of five ids, the last of them <doc>; texts are digits."""

    doc = 4

    def encode(self, text):
        return np.array([int(char) for char in text], np.int64)

    def decode(self, ids):
        return "".join(str(int(token)) for token in ids if token != self.doc)


@pytest.fixture(scope="module")
def enumerable():
    """A model over five ids whose documents end now and then."""
    module = tiny.model({"model.depth": 1, "model.vocab_multiple": 1, "model.position": "rope"}, vocab=5)
    params = jax.tree.map(lambda leaf: 2.5 * leaf, tiny.parameters(module, seed=5))
    return module, params, BeamSearch(Generator(module.apply, module.init_cache, params, Numbers(), rows=1024,
                                                prepare=module.for_decoding))  # fmt: skip


@pytest.fixture(scope="module")
def search():
    module = tiny.model({"model.depth": 2}, vocab=TOKENIZER.vocab_size)
    params = jax.tree.map(lambda leaf: 1.5 * leaf, tiny.parameters(module))
    return BeamSearch(Generator(module.apply, module.init_cache, params, TOKENIZER, prepare=module.for_decoding))


@pytest.fixture(scope="module")
def log_probs(enumerable):
    """The log-probability of each of `tokens` after <doc> and the prompt, by one full forward pass."""
    module, params, _ = enumerable

    @jax.jit
    def forward(tokens_bt):
        t = tokens_bt.shape[1]
        batch = {"tokens": tokens_bt, "segments": jnp.ones_like(tokens_bt), "positions": jnp.arange(t)[None]}
        return jax.nn.log_softmax(module.apply({"params": params}, batch, train=False))

    def of(prompt, tokens):
        row = np.concatenate([[Numbers.doc], Numbers().encode(prompt), tokens]).astype(np.int32)
        found = forward(np.pad(row, (0, 16 - len(row)))[None])[0]
        at = np.arange(len(row) - len(tokens) - 1, len(row) - 1)
        return np.asarray(found)[at, row[at + 1]]

    return of


def ended_texts(longest):
    """Every sequence of at most `longest` tokens whose last one, and no other, is <doc>."""
    for size in range(longest):
        for body in itertools.product(range(4), repeat=size):
            yield [*body, Numbers.doc]


@pytest.mark.parametrize(("prompt", "alpha"), [("", 1.5), ("203", 0.0)])
def test_wide_beams_find_the_best_of_all_sequences_in_their_order(enumerable, log_probs, prompt, alpha):
    search = enumerable[2]
    scores = {}
    for text in ended_texts(4):
        scores[tuple(text[:-1])] = log_probs(prompt, text).sum() / float(length_penalty(len(text), alpha))
    best = sorted(scores, key=scores.get, reverse=True)[:3]
    for stop in ("early", "bound"):
        made = search.search([prompt], new=4, beams=256, n=3, alpha=alpha, stop=stop)[0]
        assert [tuple(one.tokens) for one in made] == best
        assert [one.score for one in made] == pytest.approx([scores[text] for text in best], abs=1e-4)
        assert all(one.ended == "doc" and len(one.log_probs) == len(one.tokens) + 1 for one in made)


def test_a_score_is_the_sum_of_the_models_log_probabilities_over_the_length_penalty(enumerable, log_probs):
    search = enumerable[2]
    for prompts, stop in ((["12", "0", ""], "early"), (["3"], "bound")):
        for prompt, made in zip(
            prompts, search.search(prompts, new=9, beams=3, n=3, alpha=0.7, stop=stop), strict=True
        ):
            assert [one.score for one in made if one.ended == "doc"] == sorted(
                (one.score for one in made if one.ended == "doc"), reverse=True
            )
            assert len({tuple(one.tokens) + (one.ended,) for one in made}) == len(made) == 3
            for one in made:
                tokens = one.tokens + [Numbers.doc] * (one.ended == "doc")
                expected = log_probs(prompt, tokens)
                np.testing.assert_allclose(one.log_probs, expected, atol=1e-4)
                assert one.score == pytest.approx(expected.sum() / float(length_penalty(len(tokens), 0.7)), abs=1e-4)
                assert one.text == Numbers().decode(one.tokens)


def test_one_beam_is_greedy_token_by_token(search, enumerable):
    for one, prompts in ((search, PROMPTS), (enumerable[2], ["", "1", "203", "32"])):
        greedy = one.generator.generate(prompts, new=20)
        beam = one.search(prompts, new=20, beams=1, alpha=0.9)
        assert [made[0].tokens for made in beam] == [sample.tokens for sample in greedy]
        assert [made[0].ended for made in beam] == [sample.ended for sample in greedy]
        assert [made[0].text for made in beam] == [sample.text for sample in greedy]
    assert {sample.ended for sample in greedy} == {"doc", "length"}, "of both kinds"


def test_a_prompt_is_searched_the_same_alone_and_among_others(search):
    together = search.search(PROMPTS, new=12, beams=3, n=3)
    alone = [search.search([prompt], new=12, beams=3, n=3)[0] for prompt in PROMPTS]
    assert [[one.tokens for one in made] for made in alone] == [[one.tokens for one in made] for made in together]
    greedy = search.generator.generate(PROMPTS, new=12)
    better = [made[0].score * float(length_penalty(12, 0.6)) - sum(sample.log_probs)
              for made, sample in zip(together, greedy, strict=True)
              if (made[0].ended, sample.ended) == ("length", "length")]  # fmt: skip
    assert better and np.mean(better) > 0.05, "more beams find likelier texts"


def test_going_on_until_no_beam_can_overtake_finds_no_worse():
    """A model that ends early with little probability: the first texts to end are not the best."""

    def apply(variables, batch, *, train, cache):
        position = batch["positions"][..., None]
        ending = jnp.where(position < 4, jnp.log(0.3), jnp.log(0.98))
        rest = jnp.log1p(-jnp.exp(ending))
        weights = jnp.log(jnp.array([0.97, 0.01, 0.01, 0.01]))
        logits = jnp.concatenate([rest + weights, ending], axis=-1)
        return logits, {"rows": cache["rows"]}

    def made(**settings):
        search = BeamSearch(Generator(apply, lambda rows, length: {"rows": jnp.zeros((rows, 1))}, {}, Numbers()))
        return search.search([""], new=30, beams=2, n=2, **settings)[0]

    early, bound = made(alpha=2.0, stop="early"), made(alpha=2.0, stop="bound")
    assert [one.text for one in early] == ["", "0"] or [one.text for one in early] == ["0", ""]
    assert bound[0].text == "0000" and bound[0].score > early[0].score
    assert made(alpha=0.0, stop="bound")[0].text == ""


@pytest.mark.parametrize("beams", [3, 9])
def test_what_was_written_of_a_cache_is_that_of_the_parents_behind_prompts_and_images(beams):
    """9 patches of an image, 4 positions of prompts, 6 that steps have written, of a cache for 25 in all."""

    def cache_of(rows, length):
        shapes = {"layers": [(rows, 2, 9 + length, 5)], "state": [(2, rows, 5)], "index": [()], "source": [(rows, 7)]}
        return {name: [jnp.arange(np.prod(s, dtype=int)).reshape(s) for s in some] for name, some in shapes.items()}

    cache = cache_of(2, 16)
    axes = jax.tree.unflatten(jax.tree.structure(cache), cache_axes(cache_of))
    wide = spread(cache, axes, beams)
    np.testing.assert_array_equal(wide["layers"][0], np.repeat(cache["layers"][0], beams, axis=0))
    wide = jax.tree.map(lambda x: jnp.arange(x.size).reshape(x.shape), wide)
    parent = np.random.RandomState(0).randint(0, beams, (2, beams))
    rows = (np.arange(2)[:, None] * beams + parent).reshape(-1)
    found = reorder(wide, axes, jnp.asarray(parent), 16, 4, jnp.int32(5))
    written = slice(9 + 4, 9 + 4 + 6)
    np.testing.assert_array_equal(found["layers"][0][:, :, written], wide["layers"][0][rows][:, :, written])
    np.testing.assert_array_equal(found["state"][0], wide["state"][0][:, rows])
    for name in ("index", "source"):
        np.testing.assert_array_equal(found[name][0], wide[name][0])


def test_continuations_are_the_best_of_all_beams_and_tokens():
    random = np.random.RandomState(0)
    logits, sums = random.standard_normal((3, 4, 300)).astype(np.float32), -10 * random.rand(3, 4).astype(np.float32)
    sums[1, 2:] = -np.inf
    found = continuations(jnp.asarray(logits), jnp.asarray(sums), 8)
    every = sums[..., None] + np.asarray(jax.nn.log_softmax(logits))
    for row in range(3):
        order = np.argsort(-every[row].reshape(-1), kind="stable")[:8]
        assert [int(beam) * 300 + int(token) for beam, token in zip(found[2][row], found[3][row], strict=True)] == list(
            order
        )
        np.testing.assert_allclose(found[0][row], every[row].reshape(-1)[order], rtol=1e-5)
        log_probs = (every - np.where(np.isinf(sums), 0, sums)[..., None])[row].reshape(-1)
        np.testing.assert_allclose(found[1][row], log_probs[order], atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"beams": 0}, "at least 1 beam"), ({"beams": 2, "n": 3}, "from 1 to 2"), ({"stop": "erly"}, "early"),
     ({"new": 0}, "at least 1")],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(search, given, message):
    with pytest.raises(UserError, match=message):
        search.search(["a"], **{"new": 4, **given})
