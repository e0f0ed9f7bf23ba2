"""Tokenizers: what goes in comes out, bytes are counted right, and training gives the same bytes everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import load_tokenizer, tokenizers
from lmjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
WORLD = (
    "你好，世界。",
    "こんにちは、世界",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "e\u0301 \u0323\u0307 ñ n\u0303",
    "<doc> <|endoftext|>",
    " \n\t\r\n ",
)
TEXT = [f"the {word} of the house and the {word}s of the town. " * 3 for word in ("cat", "dog", "bird", "größe")]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def data(tokenizer="bytes", vocab=None, special=None):
    return SimpleNamespace(tokenizer=str(tokenizer), vocab=vocab, special=special)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train_bpe(TEXT, 290)


@pytest.fixture(scope="module")
def every(bpe, tmp_path_factory):
    """One of each kind."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(folder)
    return {"bytes": tokenizers.Bytes(), "bpe": bpe, "file": tokenizers.make(data(folder / "tokenizer.json"), ())}


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_any_text_comes_back_and_its_bytes_add_up(every, text):
    for tokenizer in every.values():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())
        assert ids.dtype == np.int32 and (ids != tokenizer.doc).all()


@pytest.mark.parametrize("text", WORLD)
def test_scripts_emoji_and_marks_come_back(every, text):
    test_any_text_comes_back_and_its_bytes_add_up.hypothesis.inner_test(every, text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_ids_decode_to_what_their_bytes_spell(every, draw):
    for tokenizer in every.values():
        ids = draw.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
        text = tokenizer.decode(ids)
        if "\ufffd" not in text:
            assert len(text.encode()) == tokenizer.token_bytes[ids].sum()
        assert tokenizer.decode([i for i in ids if i != tokenizer.doc]) == text


def test_half_a_character_decodes_to_the_replacement_mark(every):
    for tokenizer in every.values():
        first, *_ = tokenizer.encode("界").tolist()
        assert tokenizer.decode([first]) == "\ufffd"


@pytest.mark.parametrize("bad", [-1, 257, 10**9])
def test_ids_outside_of_the_vocabulary_are_refused(bad):
    with pytest.raises(UserError, match=f"{bad} is outside of the vocabulary of 257"):
        tokenizers.Bytes().decode([65, bad])


def test_bytes_that_were_no_text_are_refused(every):
    for tokenizer in every.values():
        with pytest.raises(UserError, match="invalid character at 1"):
            tokenizer.encode("a\udcff")


def test_doc_is_a_mark_that_stands_for_no_bytes(every):
    for tokenizer in every.values():
        assert 0 <= tokenizer.doc < tokenizer.vocab_size and tokenizer.token_bytes[tokenizer.doc] == 0
        assert tokenizer.decode([tokenizer.doc]) == "" and len(tokenizer.token_bytes) == tokenizer.vocab_size
    assert every["bytes"].doc == 256


def test_training_gives_the_same_bytes_in_another_process_on_one_thread(bpe):
    code = f"from lmjax.data import tokenizers; print(tokenizers.train_bpe({TEXT!r}, 290).fingerprint)"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == bpe.fingerprint


def test_training_learns_words_of_the_text(bpe):
    assert bpe.vocab_size == 290
    assert len(bpe.encode(" the the the")) == 3 < len(tokenizers.train_bpe(TEXT, 257).encode(" the the the"))


def test_too_little_text_for_the_vocabulary_is_said(caplog):
    assert tokenizers.train_bpe(["aaaa"], 400).vocab_size < 400
    assert "data.vocab=400" in caplog.text


def test_saved_tokenizers_come_back_and_damaged_ones_do_not(every, tmp_path):
    for name, tokenizer in every.items():
        tokenizer.save(tmp_path / name)
        loaded = load_tokenizer(tmp_path / name)
        assert loaded.fingerprint == tokenizer.fingerprint and loaded.doc == tokenizer.doc
        np.testing.assert_array_equal(loaded.encode(TEXT[3]), tokenizer.encode(TEXT[3]))
    file = tmp_path / "bpe" / "tokenizer.json"
    file.write_text(file.read_text("utf-8").replace('"use_regex":true', '"use_regex":false', 1), "utf-8")
    with pytest.raises(UserError, match="fingerprint differs"):
        load_tokenizer(tmp_path / "bpe")
    file.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(tmp_path / "bpe")
    with pytest.raises(UserError, match="no tokenizer can be read"):
        load_tokenizer(tmp_path)


def test_truncation_padding_and_templates_of_a_given_file_lose_and_add_nothing(bpe, tmp_path):
    definition = json.loads(bpe.definition)
    definition["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<doc>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<doc>": {"id": "<doc>", "ids": [0], "tokens": ["<doc>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    given_file = tokenizers.make(data(tmp_path), ())
    np.testing.assert_array_equal(given_file.encode(TEXT[0]), bpe.encode(TEXT[0]))


def test_a_given_file_without_a_mark_between_documents_gets_one(bpe, tmp_path):
    definition = json.loads(bpe.definition)
    definition["added_tokens"] = []
    definition["model"]["vocab"]["a mark of another name"] = definition["model"]["vocab"].pop("<doc>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = tokenizers.make(data(tmp_path), ())
    assert tokenizer.doc == 290 and tokenizer.vocab_size == 291 and tokenizer.token_bytes[290] == 0
    assert tokenizer.decode(tokenizer.encode("<doc>")) == "<doc>"


def test_a_mark_that_a_given_file_has_as_a_plain_word_stands_for_no_bytes(bpe, tmp_path):
    definition = json.loads(bpe.definition)
    definition["added_tokens"] = []
    definition["model"]["vocab"]["</s>"] = definition["model"]["vocab"].pop("<doc>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = tokenizers.make(data(tmp_path), ())
    assert tokenizer.doc == 0 and tokenizer.token_bytes[0] == 0 and tokenizer.decode([0]) == ""


@pytest.mark.parametrize(
    "name, vocab, message",
    [
        ("byts", None, "did you mean 'bytes'"),
        ("bytes", 300, "data.vocab=300 is for data.tokenizer=chars, words, bpe"),
        ("bpe", 256, "at least 257"),
        ("no/such/file.json", None, "path of a Hugging Face tokenizer.json"),
    ],
)
def test_a_wrong_setting_says_what_is_right(name, vocab, message):
    with pytest.raises(UserError, match=message):
        tokenizers.settings(data(name, vocab))


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer.json of Hugging Face"):
        tokenizers.make(data(tmp_path), ())


def test_importing_the_room_loads_no_heavy_library():
    code = "import sys, lmjax.data; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tokenizers", "array_record", "grain", "jax", "tensorflow", "tensorflow_datasets"} & set(found)
