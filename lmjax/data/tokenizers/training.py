"""Tokenizers trained here by the `tokenizers` library: the same documents give the same bytes, on any machine.

All four keep any text exactly. They cut text into words (engines.words_of), never across a space, and learn pieces of
words from how often each word occurs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence

from lmjax.data.tokenizers.engines import BOUNDED, SHORT, words_of
from lmjax.data.tokenizers.hugging_face import HuggingFace, library
from lmjax.data.tokenizers.ids import DOC, mark, special_names
from lmjax.errors import UserError

LOG = logging.getLogger(__name__)
CONTINUES = "\u2026"  # begins WordPiece's pieces within a word; no byte is written with it, as one is with #
DIGITS = 6  # decimals of a log-probability that are kept: the rest depends on the order of a sum over threads
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def train_bpe(documents: Iterable[str], vocab: int, special: Sequence[str] = ()) -> HuggingFace:
    """Byte-level BPE of at most vocab ids (Sennrich 2016, arXiv:1508.07909; bytes: Radford 2019, GPT-2, section 2.2).

    The same documents give the same bytes on any number of threads: pairs are counted, and ties go to the lower ids.
    """
    hf = library()
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=_marks(special), initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(documents, trainer=trainer)
    _warn_when_small(model, vocab)
    return HuggingFace(model.to_str(), model.token_to_id(DOC))


def train_char_bpe(documents: Iterable[str], vocab: int, special: Sequence[str] = ()) -> HuggingFace:
    """BPE over characters (Sennrich 2016, section 3.2); a character never seen in training is spelt in 256 byte ids.

    UserError when the documents have more different characters than vocab has room for.
    """
    hf = library()
    model = hf.Tokenizer(hf.models.BPE(byte_fallback=True, fuse_unk=False))
    model.pre_tokenizer = _words(hf, byte_level=False)
    model.decoder = hf.decoders.Sequence([hf.decoders.ByteFallback(), hf.decoders.Fuse()])
    marks = _marks(special)
    trainer = hf.trainers.BpeTrainer(vocab_size=vocab, special_tokens=[*marks, *BYTES], show_progress=False)
    model.train_from_iterator(documents, trainer=trainer)
    if model.get_vocab_size() > vocab:
        raise UserError(
            f"data.vocab={vocab} is too small for data.tokenizer=char_bpe: with an id for each character of the "
            f"training text there are {model.get_vocab_size()}; raise it, or use data.tokenizer=bpe"
        )
    _warn_when_small(model, vocab)
    parts = json.loads(model.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in marks]
    return HuggingFace(_written(parts), model.token_to_id(DOC))


def train_unigram(documents: Iterable[str], vocab: int, special: Sequence[str] = ()) -> HuggingFace:
    """Unigram language model of pieces of words (Kudo 2018, arXiv:1804.10959, section 3.2), over bytes.

    The library sums over threads and hash tables, so the last digits of its log-probabilities differ from run to run:
    they are rounded, letters that the text does not have share the lowest one, and pieces are sorted by both.
    """
    hf = library()
    marks = _marks(special)
    model = hf.Tokenizer(hf.models.Unigram())
    model.pre_tokenizer = _words(hf)
    model.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.UnigramTrainer(
        vocab_size=vocab - len(marks), initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    model.train_from_iterator(documents, trainer=trainer)
    parts = json.loads(model.to_str())
    pieces = parts["model"]["vocab"]
    lowest = min(score for _, score in pieces)
    unseen = lowest + len(alphabet) * 1e-4  # the trainer sets letters without a piece 1e-4 apart, in any order
    scores = {piece: round(lowest if len(piece) == 1 and score <= unseen else score, DIGITS) for piece, score in pieces}
    parts["model"]["vocab"] = sorted(([piece, score] for piece, score in scores.items()), key=lambda p: (-p[1], p[0]))
    model = hf.Tokenizer.from_str(_written(parts))
    model.add_special_tokens(marks)  # after the pieces: within them, a text could spell <doc>
    _warn_when_small(model, vocab)
    return HuggingFace(model.to_str(), model.token_to_id(DOC))


def train_wordpiece(documents: Iterable[str], vocab: int, special: Sequence[str] = ()) -> HuggingFace:
    """WordPiece (Schuster 2012; greedy longest match as in Devlin 2019, arXiv:1810.04805), over bytes.

    Each byte has two ids, one that begins a word and one that continues it, so there is no word without ids.
    """
    hf = library()
    marks, alphabet = _marks(special), sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    model = hf.Tokenizer(hf.models.WordPiece(unk_token=DOC, continuing_subword_prefix=CONTINUES))
    model.pre_tokenizer = _words(hf, SHORT)  # the longest match is looked for in the square of a word's length
    model.decoder = hf.decoders.Sequence([hf.decoders.Replace(CONTINUES, ""), hf.decoders.ByteLevel()])
    trainer = hf.trainers.WordPieceTrainer(
        vocab_size=vocab,
        special_tokens=[*marks, *(CONTINUES + letter for letter in alphabet)],  # else their order is a hash table's
        initial_alphabet=alphabet,
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    model.train_from_iterator(documents, trainer=trainer)
    _warn_when_small(model, vocab)
    parts = json.loads(model.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in marks]
    parts["model"]["max_input_chars_per_word"] = 4 * 17  # bytes of the longest word
    return HuggingFace(_written(parts), model.token_to_id(DOC))


TRAINERS = {"bpe": train_bpe, "char_bpe": train_char_bpe, "unigram": train_unigram, "wordpiece": train_wordpiece}
FEWEST = {"bpe": 256, "char_bpe": 257, "unigram": 257, "wordpiece": 512}  # ids beside <doc> and other special tokens


def _words(hf, many: str = BOUNDED, *, byte_level: bool = True):
    """A pre-tokenizer that cuts into words of at most so many characters and a space, and spells them in bytes."""
    cut = hf.pre_tokenizers.Split(hf.Regex(words_of(r"\p{L}", r"\p{N}", r"\s", many)), "isolated")
    if not byte_level:
        return cut
    spell = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return hf.pre_tokenizers.Sequence([cut, spell])


def _marks(special: Sequence[str]) -> list[str]:
    return [DOC, *(mark(name) for name in special_names(special))]


def _written(parts: dict) -> str:
    return json.dumps(parts, ensure_ascii=False)


def _warn_when_small(model, vocab: int) -> None:
    size = model.get_vocab_size()
    if size < vocab:
        LOG.warning("the training text has only enough different words for %d of data.vocab=%d ids", size, vocab)
