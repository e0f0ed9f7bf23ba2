"""Encoder-decoders write token by token what full forward passes say, greedily and with beams, source by source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import encdec, rnn
from lmjax import models
from lmjax.asking import source_row
from lmjax.config import update
from lmjax.data.tokenizers import Bytes
from lmjax.decode import BeamSearch, Generator
from lmjax.decode.beam import length_penalty
from lmjax.errors import UserError
from lmjax.sharding import unbox

TOKENIZER = Bytes()
SOURCES = ["In the beginning", "a", "", "é€", "x" * 30]
ROWS = {"data.kind": "pairs", "data.source_length": 32, "data.length": 24, "data.packing": "none"}
SMALL = {"model.depth": 1, "model.width": 32}
FIELDS = (
    "source",
    "source_segments",
    "source_positions",
    "tokens",
    "targets",
    "segments",
    "positions",
    "bytes",
    "weights",
)
KINDS = {
    "t5": (encdec.t5, {"model.heads": 4, "model.dropout": 0.0}),
    "rnn": (rnn.seq2seq, {"model.attention": "additive"}),
}


class Made:
    """A model of a kind with random parameters, its generator, and full forward passes."""

    def __init__(self, kind):
        section, changes = KINDS[kind]
        config = update(encdec.of_model(section()), {**ROWS, **SMALL, **changes})
        self.model = models.build(config, vocab=TOKENIZER.vocab_size, platform="cpu", fields=FIELDS)
        example = {name: jnp.zeros((1, 8), jnp.int32) for name in FIELDS}
        shapes = unbox(jax.eval_shape(lambda: self.model.init(jax.random.key(0), example, train=False)["params"]))
        random = np.random.RandomState(1)
        self.params = jax.tree.map(
            lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape), jnp.float32), shapes
        )
        self.generator = Generator(self.model.apply, self.model.init_cache, self.params, TOKENIZER,
                                   prepare=self.model.for_decoding,
                                   source=lambda text: source_row(TOKENIZER, None, text))  # fmt: skip
        self.forward = jax.jit(lambda batch: jax.nn.log_softmax(
            self.model.apply({"params": self.params}, batch, train=False)[..., : TOKENIZER.vocab_size]))  # fmt: skip

    def log_probs(self, source, tokens):
        """After each of <doc> and the tokens: the log-probabilities of what comes next, (t + 1, v)."""
        row = np.zeros(24, np.int32)
        row[: len(tokens) + 1] = [TOKENIZER.doc, *tokens]
        shown = np.arange(24) <= len(tokens)
        batch = {"tokens": row, "segments": shown.astype(np.int32), "positions": np.arange(24) * shown}
        batch |= {name: np.pad(x, (0, 40 - len(x))) for name, x in source_row(TOKENIZER, None, source).items()}
        return np.asarray(self.forward({name: jnp.asarray(x)[None] for name, x in batch.items()})[0, : len(tokens) + 1])


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    return Made(request.param)


def test_greedy_and_one_beam_are_the_argmax_of_full_forwards(made):
    samples = made.generator.generate(SOURCES, new=12)
    beams = BeamSearch(made.generator).search(SOURCES, new=12, beams=1)
    for source, sample, beam in zip(SOURCES, samples, beams, strict=True):
        found = made.log_probs(source, sample.tokens)
        best = found.argmax(axis=1)
        assert best[: len(sample.tokens)].tolist() == sample.tokens == beam[0].tokens
        assert sample.ended == ("doc" if best[-1] == TOKENIZER.doc and len(sample.tokens) < 12 else "length")
        np.testing.assert_allclose(sample.log_probs, found.max(axis=1)[: len(sample.tokens)], atol=1e-3)
    assert len({tuple(sample.tokens) for sample in samples}) > 2, "sources are read"


def test_beams_have_the_scores_of_full_forwards(made):
    search = BeamSearch(made.generator)
    found = search.search(SOURCES, new=10, beams=4, n=4)
    for source, best in zip(SOURCES, found, strict=True):
        for one in best:
            tokens = one.tokens + [TOKENIZER.doc] * (one.ended == "doc")
            told = made.log_probs(source, one.tokens)[np.arange(len(tokens)), tokens]
            np.testing.assert_allclose(one.log_probs, told, atol=1e-3)
            assert one.score == pytest.approx(told.sum() / float(length_penalty(len(tokens), 0.6)), abs=2e-3)


def test_a_source_longer_than_the_learned_positions_is_refused():
    assert len(source_row(TOKENIZER, 32, "x" * 31)["source"]) == 32
    with pytest.raises(UserError, match="33 tokens, its end being one.*learned 32 positions"):
        source_row(TOKENIZER, 32, "x" * 32)
