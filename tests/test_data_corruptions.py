"""Corruptions as functions of ids and chance: what was hidden can be put back, and no more is hidden than was asked."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from lmjax.augment.chance import Chance
from lmjax.data.corruptions import denoise, infill, masked, prefix, sentences, settings, spans
from lmjax.data.tokenizers import Bytes, train_bpe, train_symbols, train_wordpiece
from lmjax.data.tokenizers.words import letters, sentence_starts, word_numbers
from lmjax.errors import UserError

SENTINELS = np.arange(1000, 1100)


def chance(*names):
    return Chance("test", *names)


def text(n, seed=0):
    return np.random.RandomState(seed).randint(0, 900, n)


@pytest.mark.parametrize("rate, span", [(0.15, 3.0), (0.5, 8.0), (0.9, 1.0)])
def test_spans_can_be_put_back_and_are_as_many_and_as_long_as_asked(rate, span):
    for n in [2, 3, 5, 17, 64, 500]:
        span_of = spans.mask(n, chance(n, rate), rate=rate, span=span)
        source, target = spans.corrupt(text(n), span_of, SENTINELS)
        np.testing.assert_array_equal(spans.restored(source, target, SENTINELS), text(n))
        hidden, count = spans.counts(n, rate, span)
        assert (span_of > 0).sum() == hidden and span_of.max() == count and span_of[0] == 0
        assert (len(source) + 1, len(target) + 1) == spans.lengths(n, rate, span)
        np.testing.assert_array_equal(source[source >= 1000], SENTINELS[:count])  # each once, in their order
        np.testing.assert_array_equal(target[target >= 1000], SENTINELS[:count])
    assert abs((span_of > 0).mean() - rate) < 0.01 and abs(hidden / count - span) < 0.5 or rate == 0.9


def test_a_row_takes_the_longest_text_whose_source_and_target_fit():
    for source, target in ((512, 114), (64, 64), (30, 500), (500, 12)):
        n = spans.raw_length(source, target, 0.15, 3.0)
        for size, fits in ((n, True), (n + 1, False)):
            made = spans.lengths(size, 0.15, 3.0)
            assert (made[0] <= source and made[1] <= target) == fits
        assert spans.most(n, 0.15, 3.0) >= spans.counts(n - 1, 0.15, 3.0)[1]
    assert spans.raw_length(512, 114, 0.15, 3.0) == 568  # what T5 has
    with pytest.raises(UserError, match="no room for a span"):
        spans.raw_length(2, 2, 0.15, 3.0)


def test_all_places_of_spans_are_equally_probable():
    counts = np.zeros(12)
    for k in range(2000):
        counts += spans.mask(12, chance(k), rate=0.34, span=2.0) > 0
    # 4 of 12 hidden in 2 spans: (hidden, kept) are cut (1+3, 2+2, 3+1) x (1+7 .. 7+1), the last token always in a span
    assert counts[0] == 0 and counts[-1] == 2000
    assert 0.3 * 12 * 2000 < counts.sum() < 0.36 * 12 * 2000 and counts[1:].min() > 200


@pytest.mark.parametrize("whole", [False, True])
def test_a_share_of_the_tokens_is_masked_and_the_rest_is_untouched(whole):
    n, ids = 40000, text(40000)
    words = np.arange(n) // 3 if whole else np.arange(n)
    words[::100] = -1
    out, chosen = masked.masked(
        ids, words, chance(), rate=0.15, hidden=0.8, random=0.1, mask=999, ordinary=np.arange(900)
    )
    may = int((words >= 0).sum())
    assert abs(chosen.sum() - 0.15 * may) <= 3 and not chosen[words < 0].any()
    np.testing.assert_array_equal(out[~chosen], ids[~chosen])
    became, kept = (out[chosen] == 999).mean(), (out[chosen] == ids[chosen]).mean()
    assert abs(became - 0.8) < 0.04 and abs(kept - 0.1) < 0.04
    others = out[chosen & (out != 999) & (out != ids)]
    assert len(np.unique(others)) > 30 and others.max() < 900
    if whole:
        for word in np.unique(words[chosen]):
            assert chosen[words == word].all()


def test_at_least_one_token_is_masked_and_a_long_word_is_better_than_none():
    assert masked.masked(text(3), np.arange(3), chance(), rate=0.01, hidden=1, random=0, mask=999,
                         ordinary=np.arange(9))[1].sum() == 1  # fmt: skip
    out, chosen = masked.masked(text(9), np.zeros(9, int), chance(), rate=0.2, hidden=1, random=0, mask=999,
                                ordinary=np.arange(9))  # fmt: skip
    assert chosen.all() and (out == 999).all()
    for k in range(50):  # words of 7 tokens, of 15 that are allowed
        words = np.arange(98) // 7
        assert masked.masked(text(98), words, chance(k), rate=0.15, hidden=1, random=0, mask=999,
                             ordinary=np.arange(9))[1].sum() == 14  # fmt: skip
    assert not masked.masked(text(2), np.full(2, -1), chance(), rate=0.5, hidden=1, random=0, mask=999,
                             ordinary=np.arange(9))[1].any()  # fmt: skip


@pytest.mark.parametrize("make", [
    lambda texts: Bytes(), lambda texts: train_bpe(texts, 300), lambda texts: train_wordpiece(texts, 400),
    lambda texts: train_symbols("words", texts), lambda texts: train_symbols("chars", texts),
], ids=["bytes", "bpe", "wordpiece", "words", "chars"])  # fmt: skip
def test_words_and_sentences_are_found_in_the_ids_of_any_tokenizer(make):
    said = "Überall naïve birds sang, unhesitatingly. It is 3.14 o'clock! Why?\nBecause of this."
    tokenizer = make([said] * 3)
    table, library = letters(tokenizer), getattr(tokenizer, "_model", None)
    ids = (
        np.array(library.encode(said).ids) if library else tokenizer.encode(said)
    )  # the fast engines take long to make
    numbers = word_numbers(ids, table, np.ones(len(ids), bool))
    words = ["".join(tokenizer.decode(ids[numbers == n])).strip() for n in range(numbers.max() + 1)]
    assert {"unhesitatingly", "naïve", "clock", "Because", "14"} <= set(words)
    starts = [0, *sentence_starts(ids, table).tolist(), len(ids)]
    parts = [tokenizer.decode(ids[a:b]).strip() for a, b in zip(starts[:-1], starts[1:], strict=True)]
    parts = [part for part in parts if part]
    assert [re.match(r"\w+\??", part)[0] for part in parts] == ["Überall", "It", "Why?", "Because"]


def test_a_chinese_sign_is_a_word_and_its_full_stop_ends_a_sentence():
    tokenizer = train_symbols("chars", ["你好。我很好"])
    ids = tokenizer.encode("你好。我很好")
    assert word_numbers(ids, letters(tokenizer), np.ones(6, bool)).tolist() == list(range(6))
    assert sentence_starts(ids, letters(tokenizer)).tolist() == [3]
    ids = Bytes().encode("你好")
    assert word_numbers(ids, letters(Bytes()), np.ones(6, bool)).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("permute", [False, True])
def test_what_denoising_keeps_is_the_text_and_what_it_hides_is_a_share(permute):
    n, starts = 600, np.arange(50, 600, 50)
    totals = []
    for k in range(20):
        source = denoise.denoise(n, starts, chance(k), rate=0.3, span=3.0, delete=0.0, permute=permute)
        kept = source[source != denoise.HIDDEN]
        assert len(source) <= n and len(set(kept.tolist())) == len(kept) and abs(len(kept) - 0.7 * n) <= 1
        assert (np.diff(kept) > 0).all() != permute
        if permute:  # within a sentence the order stays
            assert all((np.diff(kept[kept // 50 == s]) > 0).all() for s in range(12))
        totals.append(0.3 * n / (len(source) - len(kept)))
    assert 2.4 < np.mean(totals) < 3.6  # tokens a mask
    gone = [
        len(denoise.denoise(n, starts, chance(k), rate=0.0, span=3.0, delete=0.2, permute=False)) for k in range(20)
    ]
    assert abs(np.mean(gone) / n - 0.8) < 0.03


def test_short_texts_are_denoised_too():
    for n in (0, 1, 2, 3):
        for k in range(50):
            source = denoise.denoise(n, np.zeros(0, int), chance(n, k), rate=0.9, span=3.0, delete=0.5, permute=True)
            assert len(source) <= n and (n == 0 or len(source))


def test_every_length_of_a_prefix_is_drawn_and_what_follows_it_is_predicted():
    segments = np.array([1] * 5 + [2] * 1 + [3] * 4 + [0] * 3)
    seen = set()
    for k in range(200):
        drawn = prefix.prefixed(segments, chance(k))
        for number in (1, 2, 3):
            here = drawn[segments == number]
            assert here[0] == 1 and (np.diff(here) <= 0).all()
            seen.add((number, int(here.sum())))
        predicted = prefix.predicted(segments, drawn)
        for i in range(len(segments)):
            inside = i + 1 < len(segments) and segments[i + 1] == segments[i]
            assert predicted[i] == (segments[i] > 0 and not (inside and drawn[i + 1]))
    assert seen == {(1, n) for n in range(1, 6)} | {(2, 1)} | {(3, n) for n in range(1, 5)}


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
def test_the_three_parts_of_a_text_can_be_put_together_again(suffix_first):
    marks = np.array([901, 902, 903])
    middles = set()
    for k in range(100):
        ids = text(k % 12, k)
        moved = infill.rearranged(ids, chance(k), suffix_first=suffix_first, marks=marks)
        assert len(moved) == len(ids) + 3 and (np.flatnonzero(moved == 901)[0], moved[0]) == (0, 901)
        assert (moved[1] == 902) == bool(suffix_first) or not suffix_first
        if not suffix_first:
            np.testing.assert_array_equal(infill.restored(moved, marks), ids)
        else:  # <prefix> <suffix> s <middle> p m: p and m are one text
            at = int(np.flatnonzero(moved == 903)[0])
            np.testing.assert_array_equal(np.concatenate([moved[at + 1 :], moved[2:at]]), ids)
        middles.add(len(moved) - int(np.flatnonzero(moved == 903)[0]))
    assert len(middles) > 5


def test_two_texts_are_in_order_swapped_or_of_two_texts_each_as_often():
    ids, other = text(40), np.full(60, 950)
    labels = []
    for k in range(300):
        first, second = sentences.parted(ids, np.array([10, 30]), chance(k))
        assert len(first) in (10, 30)
        a, b, label = sentences.paired(first, second, "next", chance(k), lambda: other, 45)
        np.testing.assert_array_equal(a, first)
        assert (b.tolist() == second.tolist()) != label and len(a) + len(b) <= 45
        one, two, swapped = sentences.paired(first, second, "order", chance(k), lambda: other, 45)
        np.testing.assert_array_equal(np.concatenate([two, one] if swapped else [one, two]), ids)
        labels.append(label)
    assert 0.4 < np.mean(labels) < 0.6
    assert [len(part) for part in sentences.parted(ids[:1], np.zeros(0, int), chance())] == [1, 0]


@pytest.mark.parametrize("leaves, message", [
    ({"kind": "mask"}, "did you mean 'masked'"),
    ({"kind": "spans"}, "--config.data.source_length=64"),
    ({"kind": "masked", "rate": 0.0}, "data.corruption.rate=0.0: a share"),
    ({"kind": "masked", "hidden": 0.8, "random": 0.3}, "more than all of them"),
    ({"kind": "infill", "pieces": 0}, "data.corruption.pieces=0"),
    ({"kind": "sentences"}, "data.packing=none"),
    ({"kind": "sentences", "pair": "previous"}, "value of data.corruption.pair"),
    ({"kind": "spans", "span": 0.5}, "data.corruption.span=0.5"),
])  # fmt: skip
def test_what_does_not_fit_is_said(leaves, message):
    data = SimpleNamespace(kind="text", length=64, packing="concat", corruption=SimpleNamespace(**leaves))
    with pytest.raises(UserError, match=message):
        settings.section(data)
    data.kind = "labels"
    with pytest.raises(UserError):
        settings.section(data)
