"""SentencePiece models: the library's ids, special tokens by name, and honesty about what they change."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import load_tokenizer, tokenizers
from lmjax.errors import UserError

sentencepiece = pytest.importorskip("sentencepiece")
TEXT = [
    f"the {word} of the house and the {word}s of the town. " * 3 for word in ("cat", "dog", "bird", "größe", "世界")
]
EXACT = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False)


def train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> file: one that changes text, and one with bytes that should not; both with a <pad>."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "usual.model").write_bytes(train(vocab_size=60, pad_id=3))
    (folder / "exact.model").write_bytes(
        train(vocab_size=330, byte_fallback=True, model_type="bpe", pad_id=3, user_defined_symbols=["\n"], **EXACT)
    )
    return {name: folder / f"{name}.model" for name in ("usual", "exact")}


def open_file(path, special=None):
    return tokenizers.make(SimpleNamespace(tokenizer=str(path), vocab=None, special=special), ())


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_an_exact_model_gives_any_text_back_and_its_bytes_add_up(files, text):
    tokenizer = open_file(files["exact"])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.token_bytes[ids].sum() == len(text.encode()) and (ids != tokenizer.doc).all()


def test_ids_are_those_of_the_library(files):
    for path in files.values():
        right = sentencepiece.SentencePieceProcessor(model_file=str(path))
        for text, ids in zip(TEXT, open_file(path).encode_batch(TEXT), strict=True):
            assert ids.tolist() == right.encode(text) and ids.dtype == np.int32


def test_a_model_that_changes_text_is_lossy_and_says_so(files):
    tokenizer = open_file(files["usual"])
    assert not tokenizer.lossless and tokenizer.decode(tokenizer.encode("the  cat")) == "the cat"


def test_special_tokens_are_its_own_by_name_or_behind_its_ids(files, tmp_path):
    tokenizer = open_file(files["usual"], ("pad", "mask"))
    size = sentencepiece.SentencePieceProcessor(model_file=str(files["usual"])).get_piece_size()
    assert tokenizer.specials == {"unk": 0, "bos": 1, "eos": 2, "pad": 3, "doc": size, "mask": size + 1}
    assert (
        tokenizer.vocab_size == size + 2 == len(tokenizer.token_bytes) and tokenizer.decode([1, size, size + 1]) == ""
    )
    assert not {1, 2, 3} & set(tokenizer.encode("<s> </s> <pad> <doc>").tolist())
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.specials == tokenizer.specials
    assert loaded.encode(TEXT[0]).tolist() == tokenizer.encode(TEXT[0]).tolist()


def test_other_bytes_are_another_key_and_a_damaged_file_is_refused(files, tmp_path):
    keys = [tokenizers.settings(SimpleNamespace(tokenizer=str(path), vocab=None)) for path in files.values()]
    assert keys[0] != keys[1] and keys[0]["sentencepiece"] == sentencepiece.__version__
    open_file(files["usual"]).save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(files["exact"].read_bytes())
    with pytest.raises(UserError, match="fingerprint differs"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
