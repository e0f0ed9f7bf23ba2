"""Tokenizers: what goes in comes out, bytes are counted right, and training gives the same bytes everywhere."""

import importlib.metadata
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

from lmjax.data import load_tokenizer, sources, tokenizers
from lmjax.data.tokenizers import plain, report
from lmjax.data.tokenizers.training import TRAINERS
from lmjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
WORLD = (
    "你好，世界。",
    "こんにちは、世界",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "e\u0301 \u0323\u0307 ñ n\u0303",
    "<doc> <|endoftext|> <unk> <0x41> ##a \u2026ing \u2581",
    " \n\t\r\n ",
    "## #! ### !#! #a## -#-",
)
TEXT = [f"the {word} of the house and the {word}s of the town. " * 3 for word in ("cat", "dog", "bird", "größe")]
SIZES = {"bpe": 290, "char_bpe": 310, "unigram": 300, "wordpiece": 600}  # of those that learn pieces of words
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def data(tokenizer="bytes", vocab=None, special=None):
    return SimpleNamespace(tokenizer=str(tokenizer), vocab=vocab, special=special)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train_bpe(TEXT, 290)


@pytest.fixture(scope="module")
def every(bpe, tmp_path_factory):
    """One of each kind that keeps any text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(folder)
    trained = {kind: tokenizers.make(data(kind, vocab), TEXT) for kind, vocab in SIZES.items()}
    return {"bytes": tokenizers.Bytes(), "file": tokenizers.make(data(folder / "tokenizer.json"), ()), **trained}


@pytest.fixture(scope="module")
def lossy():
    """Those that keep only what the training text had."""
    return {kind: tokenizers.make(data(kind), TEXT) for kind in ("chars", "words")}


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


def test_training_gives_the_same_bytes_in_another_process_on_one_thread(every):
    code = f"""from lmjax.data.tokenizers.training import TRAINERS
for kind, vocab in {SIZES}.items():
    print(TRAINERS[kind]({TEXT!r}, vocab).fingerprint)"""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [every[kind].fingerprint for kind in SIZES]


@pytest.mark.parametrize("kind", SIZES)
def test_training_on_a_real_text_gives_the_same_bytes_each_time(kind):
    """The library's own Unigram and WordPiece differ from call to call: digits, and the order of equals."""
    verses = list(sources.documents(sources.open_source("bible"), limit=150_000))
    first, again = (TRAINERS[kind](verses, 1500).definition for _ in range(2))
    assert first == again and len(json.loads(first)["model"]["vocab"]) > 1000


@settings(max_examples=100, deadline=None)
@given(any_text)
def test_bytes_come_back_cut_anywhere(every, text):
    content = text.encode()
    for tokenizer in every.values():
        ids = tokenizer.encode(text)
        cut = len(ids) // 2
        assert tokenizer.lossless and tokenizer.decode_bytes(ids[:cut]) + tokenizer.decode_bytes(ids[cut:]) == content


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_come_back_from_byte_ids(content):
    assert tokenizers.Bytes().decode_bytes(tokenizers.Bytes().encode_bytes(content)) == content


@settings(max_examples=100, deadline=None)
@given(any_text)
def test_what_a_lossy_tokenizer_knows_comes_back_and_the_rest_is_unknown(lossy, text):
    chars, words = lossy["chars"], lossy["words"]
    known = set("".join(TEXT))
    assert chars.decode(chars.encode(text)) == "".join(c if c in known else "\ufffd" for c in text)
    assert len(words.encode(text)) == len(plain.WORD.findall(text)) and "".join(plain.WORD.findall(text)) == text
    for tokenizer in lossy.values():
        ids = tokenizer.encode(text)
        lost = (ids == tokenizer.special("unk")).any()
        assert not tokenizer.lossless and (tokenizer.decode(ids) == text) != lost
        assert (tokenizer.token_bytes[ids].sum() == len(text.encode())) != lost
        for known_text in TEXT:
            assert tokenizer.decode(tokenizer.encode(known_text)) == known_text


def test_the_most_frequent_symbols_have_ids_equals_by_code_point():
    chars = tokenizers.train_symbols("chars", ["bbca", "bbac", "dé"], 5)
    assert chars.symbols == ("b", "a", "c") and chars.vocab_size == 5
    assert tokenizers.train_symbols("words", ["a b a b", " c c c d"], 4).symbols == (" c", " b")


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_special_tokens_have_names_and_no_text_makes_them(kind, tmp_path):
    tokenizer = tokenizers.make(data(kind, SIZES.get(kind), ("pad", "mask", "sentinel0")), TEXT)
    marks = [tokenizer.special(name) for name in ("doc", "pad", "mask", "sentinel0")]
    assert len(set(marks)) == 4 and not tokenizer.token_bytes[marks].any() and tokenizer.decode(marks) == ""
    assert not set(marks) & set(tokenizer.encode("<doc> <pad><mask> <sentinel0>").tolist())
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.specials == tokenizer.specials and loaded.fingerprint == tokenizer.fingerprint
    assert loaded.fingerprint != tokenizers.make(data(kind, SIZES.get(kind)), TEXT).fingerprint
    with pytest.raises(UserError, match=r"unknown special token 'msk'; did you mean 'mask'.*data\.special=msk adds it"):
        tokenizer.special("msk")


def test_a_given_file_keeps_its_special_tokens_by_their_names_and_gets_those_that_it_lacks(bpe, tmp_path):
    definition = json.loads(bpe.definition)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for token in ("[PAD]", "<extra_id_7>"):
        i = len(definition["model"]["vocab"])
        definition["model"]["vocab"][token] = i
        definition["added_tokens"].append({"id": i, "content": token, "special": True, **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = tokenizers.make(data(tmp_path, special=("pad", "mask", "sentinel7")), ())
    assert tokenizer.specials == {"doc": 0, "pad": 290, "sentinel7": 291, "mask": 292}
    assert tokenizer.vocab_size == 293 and tokenizer.decode([0, 290, 291, 292]) == ""


@pytest.mark.parametrize("special, message", [(("Pad",), "'Pad' is no name"), (("pad", "pad"), "'pad' twice")])
def test_a_wrong_special_token_is_named(special, message):
    with pytest.raises(UserError, match=message):
        tokenizers.settings(data("bytes", special=special))


def test_too_many_characters_for_the_vocabulary_are_an_error_with_their_number():
    with pytest.raises(UserError, match="data.vocab=280 is too small .* there are 3"):
        tokenizers.train_char_bpe(["".join(map(chr, range(0x4E00, 0x4E40)))], 280)


def test_settings_stay_the_same_for_what_was_there_before_and_differ_with_all_that_changes_ids():
    version = importlib.metadata.version("tokenizers")
    assert tokenizers.settings(data()) == {"kind": "bytes"}
    assert tokenizers.settings(data("bpe", 300)) == {"kind": "bpe", "vocab": 300, "tokenizers": version}
    found = [tokenizers.settings(data(kind, vocab)) for kind in tokenizers.TRAINED for vocab in (600, 700)]
    found += [tokenizers.settings(data(kind, special=("pad",))) for kind in tokenizers.KINDS]
    assert len({json.dumps(chosen) for chosen in found}) == len(found)


def test_the_report_counts_what_is_there(lossy):
    numbers = report.measure(lossy["words"], ["the cat and the dog.", "the zebra"])
    assert (numbers["bytes"], numbers["tokens"], numbers["unknown"]) == (29, 8, 1)
    assert numbers["bytes_per_token"] == 29 / 8 and numbers["tokens_per_word"] == 8 / 7
    assert numbers["unused"] == lossy["words"].vocab_size - 7
    shown = report.report(tokenizers.Bytes(), ["界a"])
    assert shown["sample"] == "界\u2502a" and "2 documents" not in shown["text"] and "4 bytes" in shown["text"]


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
        ("wordpiece", 512, "at least 513"),
        ("words", 2, "at least 3"),
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
    assert not {"tokenizers", "array_record", "grain", "jax", "tensorflow", "sentencepiece", "gigatoken"} & set(found)
