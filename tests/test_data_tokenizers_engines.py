"""Engines: whoever turns text into ids, they are the ids of the tokenizers library."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import sources, tokenizers
from lmjax.data.tokenizers import engines
from lmjax.data.tokenizers.hugging_face import library

SIZES = {"bpe": 2000, "char_bpe": 2000, "unigram": 2000, "wordpiece": 2000}
# Letters, digits, marks, white space and signs that patterns of words treat in their own ways, and anything else.
PIECES = st.one_of(
    st.sampled_from(["'s", "'ll", "'", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\x1c", "\x85", "\u3000"]),
    st.sampled_from(["the", " God", "don't", "ing", "aaaa", "1", "²", "Ⅷ", "½", "١", "_", "-", "...", "<doc>"]),
    st.sampled_from(
        ["世界", "e\u0301", "مرحبا", "👩\u200d👧", "\U00020000", "\U0001d400", "ß", "\u1806", "\u0e33", "x" * 70]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
any_text = st.lists(PIECES, max_size=20).map("".join)


@pytest.fixture(scope="module")
def verses():
    return list(sources.documents(sources.open_source("bible"), limit=300_000))


@pytest.fixture(scope="module")
def trained(verses):
    """Kind -> (tokenizer, the library's own tokenizer from the same definition)."""
    found = {}
    for kind, vocab in SIZES.items():
        tokenizer = tokenizers.make(SimpleNamespace(tokenizer=kind, vocab=vocab), verses)
        model = library().Tokenizer.from_str(tokenizer.definition)
        model.encode_special_tokens = True
        found[kind] = tokenizer, model
    return found


def same(encode_batch, model, texts):
    expected = [found.ids for found in model.encode_batch(texts, add_special_tokens=False)]
    for text, ids, right in zip(texts, encode_batch(texts), expected, strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == right, repr(text)


@pytest.mark.parametrize("kind", SIZES)
def test_remembered_words_give_the_ids_of_the_library(trained, verses, kind):
    tokenizer, model = trained[kind]
    encode_batch = engines.words(model, tokenizer.definition)
    same(encode_batch, model, verses[:20] + list(engines.SAMPLE))

    @settings(max_examples=300, deadline=None)
    @given(any_text)
    def check(text):
        same(encode_batch, model, [text, text + " the", "a" + text])

    check()


SEPARATE = st.sampled_from([" ", " ", " ", "\n", "\n", "\n\n", "  ", " \n", "\n ", "\u00a0", "\x01", "\x03", ""])
UNSPACED = PIECES.filter(lambda piece: not set(piece) & {*engines.SPACES, *engines.MARKS})
spaced_text = st.lists(st.tuples(UNSPACED, SEPARATE), max_size=8).map(lambda pairs: "".join(map("".join, pairs)))


@pytest.mark.parametrize("many", engines.PATTERNS.values())
def test_cuts_at_spaces_are_cuts_between_words(many):
    seen = {True: 0, False: 0}

    @settings(max_examples=400, deadline=None)
    @given(spaced_text)
    def check(text):
        regular = engines.regular([text])[0]
        seen[regular] += 1
        if regular:
            before, said = [], [engines.said(piece) for piece in engines.spaced([text, "a b", text])]
            while said[0] != engines.said(engines.NEXT):
                before.append(said.pop(0))
            assert "".join(before) == text and said == [said[0], "a", " b", said[0], *before]
            find = engines._finder(many, False)
            assert [word for piece in before for word in find(piece)] == find(text)

    check()
    assert min(seen.values()) > 50


def test_white_space_is_what_the_library_takes_for_it():
    from tokenizers import Regex, pre_tokenizers

    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    found = pre_tokenizers.Split(Regex(r"\s"), "removed", invert=True).pre_tokenize_str(everything)
    assert {space for space, _ in found} == set(engines.SPACES)


def test_gigatoken_gives_the_ids_of_the_library(trained, verses):
    pytest.importorskip("gigatoken")
    tokenizer, model = trained["bpe"]
    encode_batch = engines.gigatoken(model, tokenizer.definition)
    same(encode_batch, model, verses)

    @settings(max_examples=300, deadline=None)
    @given(any_text)
    def check(text):
        same(encode_batch, model, ["", text])

    check()
    new_in_17 = [chr(code) + "'s" for code in (0x88F, 0x10940, 0x16EA0, 0x2B73A, 0x323B0)]
    same(encode_batch, model, new_in_17)
    assert tokenizer.engine == "gigatoken"


LLAMA3 = (  # the words of Llama 3, and of cl100k but for how they are written
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_a_given_file_that_cuts_words_as_llama_3_does_has_the_ids_of_the_library(trained):
    parts = json.loads(trained["bpe"][0].definition)
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    spell = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, spell]}
    tokenizer, model = tokenizers.HuggingFace(json.dumps(parts), 0), library().Tokenizer.from_str(json.dumps(parts))
    model.encode_special_tokens = True
    assert engines.words(model, json.dumps(parts)) is None and tokenizer.lossless

    @settings(max_examples=300, deadline=None)
    @given(any_text)
    def check(text):
        same(tokenizer.encode_batch, model, ["", text])

    check()


@pytest.mark.parametrize("kind", SIZES)
def test_the_fastest_that_is_here_is_chosen(trained, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)  # as if it were not installed
    tokenizer, model = trained[kind]
    assert engines.fastest(model, tokenizer.definition).name == "words"


def test_an_engine_with_one_other_id_is_left_out_with_a_warning(trained, monkeypatch, caplog):
    tokenizer, model = trained["bpe"]

    def wrong(texts):
        for ids in engines.words(model, tokenizer.definition)(texts):
            yield np.append(ids[:-1], 5).astype(np.int32)

    monkeypatch.setattr(engines, "ENGINES", {"gigatoken": lambda *_: wrong})
    assert engines.fastest(model, tokenizer.definition).name == "tokenizers"
    assert "gigatoken does not give this tokenizer's ids" in caplog.text


def test_an_engine_that_is_wrong_later_stops_what_uses_it(trained, monkeypatch):
    """Of texts that are not in the sample: better no shards than wrong ones."""
    tokenizer, model = trained["bpe"]

    def wrong(texts):
        for text, ids in zip(texts, engines.words(model, tokenizer.definition)(texts), strict=True):
            yield ids + np.int32("planted" in text)

    monkeypatch.setattr(engines, "ENGINES", {"gigatoken": lambda *_: wrong})
    chosen = engines.fastest(model, tokenizer.definition)
    assert chosen.name == "gigatoken" and len(list(chosen.encode_batch(["fine", ""]))) == 2
    with pytest.raises(RuntimeError, match="gigatoken does not give the ids of tokenizers for .*planted"):
        chosen.encode_batch(["planted", "fine"])


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
    ],
    ids=["normalizer", "prefix", "whitespace", "none"],
)
def test_tokenizers_that_cut_text_in_another_way_give_the_ids_of_the_library(trained, change):
    parts = json.loads(trained["bpe"][0].definition) | change
    tokenizer = tokenizers.HuggingFace(json.dumps(parts), 0)
    model = library().Tokenizer.from_str(json.dumps(parts))
    assert engines.words(model, json.dumps(parts)) is None
    assert tokenizer.lossless == (change == {"pre_tokenizer": None})
    same(tokenizer.encode_batch, model, ["The Lord's house  and\n\nTHE end", *engines.SAMPLE[:1]])


def test_forgetting_words_changes_no_ids(trained, verses, monkeypatch):
    monkeypatch.setattr(engines, "WORDS", 7)
    tokenizer, model = trained["unigram"]
    same(engines.words(model, tokenizer.definition), model, verses[:5])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_an_engine_that_forgets_begins_afresh_and_gives_the_same_ids(trained, verses, kind):
    tokenizer, model = trained[kind]
    for _ in range(2):
        same(tokenizer.encode_batch, model, verses[:5])
        name, before = tokenizer.engine, tokenizer._engine
        tokenizer.forget()
        assert tokenizer.engine == name and tokenizer._engine is not before
