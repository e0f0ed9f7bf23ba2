"""Decoding with a cache is the whole forward pass; generation is repeatable, by row, and streams whole characters."""

import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from apart import apart

from lmjax.asking import make_generator
from lmjax.data.tokenizers import Bytes
from lmjax.decode import Generator, options
from lmjax.decode.generate import Prompt, bucket
from lmjax.decode.text import Stream
from lmjax.errors import UserError
from lmjax.program import build

POSITIONS = ("rope", "sinusoidal", "learned", "alibi", "t5", "none")
KV_HEADS = (4, 2, 1)
TOKENIZER = Bytes()
GREEDY = options(temperature=0)
SAMPLED = options(top_p=0.95, repetition_penalty=1.1)
PROMPTS = ["In the beginning", "a", "", "é€"]


def batch_of(rows, before):
    """Rows of tokens, padded on the left to `before` of them."""
    shape = (len(rows), before)
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    for i, tokens in enumerate(rows):
        n = len(tokens)
        batch["tokens"][i, before - n :] = tokens
        batch["segments"][i, before - n :] = 1
        batch["positions"][i, before - n :] = np.arange(n)
    return batch


def columns(batch, start, stop):
    return {name: value[:, start:stop] for name, value in batch.items()}


def cached_logits(module, params, batch, prefill, length):
    """Logits (b, t, v): the first `prefill` columns in one call, then one column a call, compiled together."""

    @jax.jit
    def run(params, batch):
        apply = lambda part, cache: module.apply({"params": params}, part, train=False, cache=cache)  # noqa: E731
        first, cache = apply(columns(batch, 0, prefill), module.init_cache(batch["tokens"].shape[0], length))
        rest = {name: jnp.moveaxis(value[:, prefill:, None], 1, 0) for name, value in batch.items()}

        def one(cache, part):
            logits, cache = apply(part, cache)
            return cache, logits[:, 0]

        _, later = jax.lax.scan(one, cache, rest)
        return jnp.concatenate([first, jnp.moveaxis(later, 0, 1)], axis=1)

    return run(params, batch)


# Window and soft cap in turn, so that each position encoding meets every combination with some number of heads.
CASES = [
    (position, kv_heads, (None, 3)[(i + j) % 2], (None, 2.0)[(i + j // 2) % 2])
    for (i, position), (j, kv_heads) in itertools.product(enumerate(POSITIONS), enumerate(KV_HEADS))
]


@pytest.mark.parametrize(("position", "kv_heads", "window", "softcap"), apart(CASES, *CASES[::2]))
def test_cached_decoding_is_the_full_forward_for_ragged_rows(position, kv_heads, window, softcap):
    module = tiny.model({
        "model.position": position, "model.kv_heads": kv_heads, "model.window": window,
        "model.attention_softcap": softcap, "model.qk_norm": kv_heads == 2, "model.bias": kv_heads == 4,
        "model.norm_place": "post" if kv_heads == 1 else "pre", "model.tied": kv_heads != 2,
        "model.depth": 2 if position == "rope" else 1,
    })  # fmt: skip
    params = tiny.parameters(module)
    rows = [np.random.RandomState(n).randint(0, tiny.VOCAB, n) for n in (11, 5, 3)]
    prepared = module.for_decoding(params)
    found = cached_logits(module, prepared, batch_of(rows, 11), prefill=8, length=20)
    whole = tiny.packed([[11], [11], [11]], length=11)
    for i, tokens in enumerate(rows):
        whole["tokens"] = whole["tokens"].at[i, : len(tokens)].set(tokens)
    expected = tiny.logits(module, params, whole)
    for i, tokens in enumerate(rows):
        n = len(tokens)
        np.testing.assert_allclose(found[i, 11 - n :, : tiny.VOCAB], expected[i, :n], rtol=2e-4, atol=2e-4)


def text_model(changes=None):
    module = tiny.model({"model.depth": 1, **(changes or {})}, vocab=TOKENIZER.vocab_size)
    return module, tiny.parameters(module)


def make(module, params, **settings):
    return Generator(module.apply, module.init_cache, params, TOKENIZER, prepare=module.for_decoding, **settings)


@pytest.fixture(scope="module")
def generator():
    return make(*text_model())


def test_greedy_is_the_argmax_of_full_forwards(generator):
    module, params = text_model()
    forward = jax.jit(lambda batch: jax.nn.log_softmax(module.apply({"params": params}, batch, train=False)))
    samples = generator.generate(PROMPTS, new=20, options=GREEDY)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        tokens, log_probs = [TOKENIZER.doc, *TOKENIZER.encode(prompt)], []
        for _ in range(20):
            batch = batch_of([tokens + [0] * (48 - len(tokens))], 48)
            row = forward(batch)[0, len(tokens) - 1]
            tokens.append(int(row.argmax()))
            log_probs.append(float(row.max()))
            if tokens[-1] == TOKENIZER.doc:
                break
        made = len(sample.tokens)
        assert sample.tokens == [token for token in tokens[len(tokens) - len(log_probs) :] if token != TOKENIZER.doc]
        assert sample.ended == ("doc" if tokens[-1] == TOKENIZER.doc else "length")
        np.testing.assert_allclose(sample.log_probs, log_probs[:made], atol=1e-4)
        assert sample.text == TOKENIZER.decode(sample.tokens) and sample.prompt == prompt


def test_log_probs_are_the_models_own_whatever_is_filtered(generator):
    chosen = options(temperature=1.7, top_k=3, repetition_penalty=1.5)
    sample = generator.generate(["ab"], new=9, options=chosen, seed=4)[0]
    module, params = text_model()
    tokens = [TOKENIZER.doc, *TOKENIZER.encode("ab"), *sample.tokens]
    logits = module.apply({"params": params}, batch_of([tokens], len(tokens)), train=False)
    expected = jax.nn.log_softmax(logits)[0, np.arange(2, len(tokens) - 1), tokens[3:]]
    assert len(sample.tokens) == 9
    np.testing.assert_allclose(sample.log_probs, expected, atol=1e-4)


def test_a_row_depends_on_nothing_else_in_its_batch(generator):
    """Not on other prompts, the number of rows, the padding of its prompt or of its batch."""
    long = "x" * (bucket(1) + 10)
    prompts = ["ab", long, "", "ab"]
    together = generator.generate(prompts, new=20, options=SAMPLED, seed=3)
    alone = [generator.generate([p], new=20, options=SAMPLED, seed=3, first_row=i)[0] for i, p in enumerate(prompts)]
    assert [s.tokens for s in together] == [s.tokens for s in alone]
    assert together[0].tokens != together[3].tokens, "rows of one prompt are different samples"
    by_three = make(*text_model(), rows=3, chunk=7)
    assert [s.tokens for s in by_three.generate(prompts, new=20, options=SAMPLED, seed=3)] == [s.tokens for s in alone]
    shorter = generator.generate(prompts, new=11, options=SAMPLED, seed=3)
    assert [s.tokens for s in shorter] == [s.tokens[:11] for s in together]


def test_a_seed_is_a_text_and_n_samples_are_n_rows(generator):
    def texts(prompts, seed, n):
        return [s.tokens for s in generator.generate(prompts, new=20, options=SAMPLED, seed=seed, n=n)]

    first = texts(["ab", "cd"], 1, 2)
    assert len(first) == 4 and first == texts(["ab", "cd"], 1, 2) != texts(["ab", "cd"], 2, 2)
    assert texts(["ab"], 1, 4)[:2] == first[:2], "rows are numbered in the order of the result"


def test_a_second_prompt_of_the_same_bucket_compiles_nothing():
    generator = make(*text_model(), chunk=4)

    def programs():
        return generator.prefill._cache_size(), generator.decode._cache_size()

    generator.generate(["ab"], new=10, options=options(temperature=0.5, top_p=0.9))
    assert programs() == (1, 1)
    generator.generate(["another one"], new=9, options=options(temperature=1.5, top_p=0.5), seed=2**40 - 1)
    generator.params = text_model()[1]
    generator.generate(["third"], new=10, options=options(temperature=0.5, top_p=0.9), first_row=7)
    assert programs() == (1, 1)
    generator.generate(["x" * 40], new=10, options=options(temperature=0.5, top_p=0.9))
    assert programs() == (2, 2)


@pytest.mark.parametrize(("rows", "shape"), [(1, "f32[4,64,8]"), (2, "f32[2,4,64,8]")])
def test_the_loop_updates_its_caches_in_place_and_takes_layers_apart_once(rows, shape):
    generator = make(*text_model({"model.depth": 3}))
    ids = [Prompt("", np.array([TOKENIZER.doc, 1, 2]), {})]
    state = generator.start(ids, rows, 16, np.uint32(0), np.zeros(rows, np.uint32), GREEDY)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
    compiled = generator.decode.lower(generator.params, state, GREEDY, np.zeros(rows, bool), 16).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= size, "the state is donated"
    text = compiled.as_text()
    assert shape in text, "the caches of this model"
    assert not re.search(r"f32\[([12],)?4,64,8\]\S* (copy|transpose)\(", text)
    assert "f32[4,8,64]" not in text and f"f32[{rows},4,8,64]" not in text, "heads, head, keys: another order"
    assert "f32[3," not in text, "a stack of three layers"


def test_preparing_changes_no_bit_in_bfloat16():
    module, params = text_model({"precision.compute": "bfloat16", "model.position": "t5"})
    batch = batch_of([[256, 65, 66, 67]], 4)
    plain = cached_logits(module, params, batch, prefill=3, length=8)
    prepared = module.for_decoding(params)
    assert np.array_equal(cached_logits(module, prepared, batch, prefill=3, length=8), plain)
    assert prepared["embed"].dtype == jnp.bfloat16 and params["embed"].dtype == jnp.float32


def test_learned_positions_limit_prompt_and_new_tokens():
    generator = make(*text_model({"model.position": "learned"}), max_length=24)
    assert len(generator.generate(["abcd"], new=20, options=options(temperature=2.0))[0].prompt) == 4
    with pytest.raises(UserError, match=r"5 tokens .* 21 new tokens need 25 .* learned 24.*at most 20 .* to 4 tokens"):
        generator.generate(["abcd"], new=21)


@pytest.mark.parametrize(("given", "message"), [({"new": 0}, "0 new tokens"), ({"new": 4, "n": 0}, "0 samples")])
def test_at_least_one_token_and_sample(generator, given, message):
    with pytest.raises(UserError, match=message):
        generator.generate(["a"], **given)


def test_a_prompt_that_is_not_text_is_refused(generator):
    with pytest.raises(UserError, match="invalid character at 1"):
        generator.generate(["a\udcff"], new=4)


def scripts(*texts, chunk=5):
    """A generator over a "model" that says a fixed text to each prompt, by the prompt's first byte and the position."""
    ids = [np.append(TOKENIZER.encode(text), TOKENIZER.doc) for text in texts]
    table = np.full((len(texts), max(map(len, ids))), TOKENIZER.doc)
    for row, tokens in zip(table, ids, strict=True):
        row[: len(tokens)] = tokens

    def apply(variables, batch, *, train, cache):
        starting = jnp.where(batch["positions"] == 1, batch["tokens"], 0).max(axis=1)
        script = jnp.maximum(cache["script"], starting)
        position = jnp.clip(batch["positions"] - 1, 0, table.shape[1] - 1)
        token = variables["params"]["table"][script[:, None] - ord("0"), position]
        return 50.0 * jax.nn.one_hot(token, TOKENIZER.vocab_size), {"script": script, "calls": cache["calls"] + 1}

    def init_cache(rows, length):
        return {"script": jnp.zeros(rows, jnp.int32), "calls": jnp.int32(0)}

    return Generator(apply, init_cache, {"table": jnp.array(table)}, TOKENIZER, chunk=chunk)


def streamed(generator, prompts, **settings):
    """The samples, and the pieces of each row."""
    pieces = [[] for _ in prompts]
    samples = generator.generate(prompts, on_text=lambda row, piece: pieces[row].append(piece), **settings)
    return samples, pieces


def test_pieces_joined_are_the_text_and_no_character_is_broken():
    texts = ["naïve €uro 🎉🎉 – fin", "aé" * 20, ""]
    samples, pieces = streamed(scripts(*texts, chunk=3), ["0", "1", "2"], new=200)
    assert [s.text for s in samples] == texts
    assert ["".join(row) for row in pieces] == texts
    assert not any("\ufffd" in piece or piece == "" for row in pieces for piece in row)
    assert len(pieces[0]) > 5 and len(pieces[2]) == 0, "text comes as it is made"
    assert [s.ended for s in samples] == ["doc"] * 3
    assert [len(s.log_probs) for s in samples] == [len(TOKENIZER.encode(text)) for text in texts]


def test_a_character_cut_by_the_last_token_is_shown_as_unknown():
    samples, pieces = streamed(scripts("ab€"), ["0"], new=4)
    assert samples[0].text == "".join(pieces[0]) == "ab\ufffd" and samples[0].ended == "length"
    assert len(samples[0].tokens) == len(samples[0].log_probs) == 4


def test_a_repetition_penalty_is_for_prompt_and_new_text_and_not_for_its_end():
    def tokens(doc):
        logits = jnp.ones(TOKENIZER.vocab_size).at[TOKENIZER.doc].set(doc)
        apply = lambda variables, batch, *, train, cache: (jnp.tile(logits, (*batch["tokens"].shape, 1)), cache)  # noqa: E731
        generator = Generator(apply, lambda rows, length: {}, {}, TOKENIZER)
        greedy = options(temperature=0, repetition_penalty=2.0)
        return [sample.tokens for sample in generator.generate(["\x01\x03", ""], new=5, options=greedy)]

    assert tokens(doc=0.9) == [[0, 2, 4, 5, 6], [0, 1, 2, 3, 4]]
    assert tokens(doc=1.1) == [[], []]


def test_every_step_draws_anew():
    flat = options(temperature=1e9)
    tokens = scripts("x").generate(["0"], new=64, options=flat, seed=1)[0].tokens
    assert len(tokens) == 64 and len(set(tokens)) > 45  # of 257; 57 are expected


def test_the_loop_ends_with_the_last_row():
    generator = scripts("ab", "abcdef", chunk=100)
    ids = [Prompt(text, np.append(TOKENIZER.doc, TOKENIZER.encode(text)), {}) for text in ("0", "1")]
    state = generator.start(ids, 2, 100, np.uint32(0), np.arange(2, dtype=np.uint32), GREEDY)
    state, tokens, _ = generator.decode(generator.params, state, GREEDY, np.zeros(2, bool), 100)
    assert state.step == 7 and state.cache["calls"] == 1 + 7
    assert state.ended_b.all() and tokens[0, 2:].tolist() == [TOKENIZER.doc] * 98
    state = generator.start(ids, 2, 100, np.uint32(0), np.arange(2, dtype=np.uint32), GREEDY)
    state, _, _ = generator.decode(generator.params, state, GREEDY, np.array([False, True]), 100)
    assert state.step == 3, "the second row was said to have ended"


def test_generation_stops_at_a_stop_text_and_never_shows_any_of_it():
    generator = scripts("one END and more", "two E N", "END.", chunk=4)
    samples, pieces = streamed(generator, ["0", "1", "2"], new=50, stop=["END", "zzz"])
    assert [s.text for s in samples] == ["one ", "two E N", ""] == ["".join(row) for row in pieces]
    assert [s.ended for s in samples] == ["stop", "doc", "stop"]
    assert [TOKENIZER.decode(s.tokens) for s in samples] == ["one END", "two E N", "END"]
    assert all(len(s.tokens) == len(s.log_probs) for s in samples)


def test_a_stop_text_ends_the_work_too():
    generator = scripts("END" + "x" * 200, chunk=4)
    calls = []
    decode = generator.decode
    generator.decode = lambda *arguments: calls.append(1) or decode(*arguments)
    assert generator.generate(["0"], new=200, stop=["END"])[0].text == ""
    assert len(calls) <= 3, "one chunk is computed ahead of the text"


def test_text_is_decoded_after_its_prompt():
    """Some tokenizers drop the space before the first word of a text."""
    words = ["a", " b", " c"]
    stream = Stream(lambda ids: "".join(words[i] for i in ids).lstrip(), [0])
    assert stream.push([1, 2], doc=9) == " b c"


def test_no_step_of_generation_cuts_the_stacked_layers_apart_again():
    program = build(tiny.config(), vocab=tiny.VOCAB)
    generator = make_generator(program, SimpleNamespace(tokenizer=TOKENIZER), tiny.parameters(program.model))
    state = generator.start([Prompt("", np.array([0, 1, 2]), {})], 1, 8, np.uint32(0), np.zeros(1, np.uint32), GREEDY)
    run = jax.make_jaxpr(generator.decode)(generator.params, state, GREEDY, np.zeros(1, bool), 4)
    stacked = {leaf.shape for leaf in jax.tree.leaves(program.params["blocks"])}
    assert stacked and stacked.isdisjoint(variable.aval.shape for variable in run.jaxpr.invars)
